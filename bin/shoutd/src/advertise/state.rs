//! The advertiser's state.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::join_times::JoinTimes;
use shoutd_core::HostId;
use shoutd_core::advertise::{
    ClaimValidation, Content, InboundSessions, OutboundSessions, OverLimit, PeerStates,
    ReportedRejection,
};
use shoutd_core::cluster::Cluster;
use shoutd_core::limits::REPORTED_REJECTIONS_MAX;
use tracing::{info, warn};

/// How long a fault is shown after it last occurred: longer than the time between two attempts.
const FAULT_SHOWN: Duration = Duration::from_secs(10);

/// Interval at which a persistent fault is logged again.
const FAULT_LOGGED: Duration = Duration::from_secs(60);

/// The problem before the memberships have been read from the kernel.
const SILENT: &str = "the multicast memberships of this host's containers have not been read yet; \
                      until then the other hosts send it all multicast";

/// The advertiser's state.
#[derive(Debug, Default)]
pub struct State {
    /// Whether the memberships have been read, so that this host advertises.
    pub is_advertising: bool,
    /// This host's advertisement.
    pub content: Content,
    /// Networks whose memberships exceed the limits of an advertisement.
    pub excesses: Vec<OverLimit>,
    /// Sessions that send this host's advertisement.
    pub outbound: OutboundSessions,
    /// How long peers take to acknowledge joins.
    pub join_times: JoinTimes,
    /// Sessions that receive the peers' advertisements.
    pub inbound: InboundSessions,
    /// Validation of the peers' claims.
    pub validation: ClaimValidation,
    /// When the timers of inbound sessions were last handled.
    pub expired_at: Duration,
    /// Persistent faults of the sessions.
    faults: BTreeMap<(HostId, Direction), Fault>,
    /// Rejected claims, by the peer that made (`In`) or rejected (`Out`) them.
    rejections: BTreeMap<(HostId, Direction), Rejections>,
}

/// Direction of an advertisement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// From this host to another.
    Out,
    /// From another host to this one.
    In,
}

#[derive(Debug)]
struct Fault {
    text: String,
    logged: Duration,
    met: Duration,
}

/// Rejected claims of one advertisement.
#[derive(Debug)]
struct Rejections {
    current: BTreeSet<ReportedRejection>,
    met: Duration,
    /// How many of them became events, and since when we count. This is limited: a peer that always
    /// makes new invalid claims must not displace all other events.
    events: (usize, Duration),
}

impl State {
    /// Records rejected claims. Returns the new ones, which become events.
    pub fn note_rejections(
        &mut self,
        host: HostId,
        direction: Direction,
        rejections: Vec<ReportedRejection>,
        cluster: &Cluster,
        now: Duration,
    ) -> Vec<ReportedRejection> {
        self.rejections.retain(|(host, _), rejections| {
            cluster.hosts.contains_key(host) && now < rejections.met + FAULT_LOGGED
        });
        let current: BTreeSet<ReportedRejection> = rejections
            .into_iter()
            .take(REPORTED_REJECTIONS_MAX)
            .map(ReportedRejection::bounded)
            .collect();
        if current.is_empty() && !self.rejections.contains_key(&(host, direction)) {
            return Vec::new();
        }
        let known = self.rejections.remove(&(host, direction));
        let (before, events) =
            known.map_or((BTreeSet::new(), (0, now)), |known| (known.current, known.events));
        let (count, since) = if now < events.1 + FAULT_LOGGED { events } else { (0, now) };
        let limit = REPORTED_REJECTIONS_MAX.saturating_sub(count);
        let new: Vec<_> = current.difference(&before).take(limit).cloned().collect();
        let events = (count + new.len(), since);
        if !current.is_empty() || events.0 > 0 {
            self.rejections.insert((host, direction), Rejections { current, met: now, events });
        }
        new
    }

    /// Current rejections that indicate a fault, one line each.
    fn rejection_problems(&self, cluster: &Cluster, now: Duration) -> Vec<String> {
        let mut lines = Vec::new();
        for ((host, direction), rejections) in &self.rejections {
            if now >= rejections.met + FAULT_SHOWN {
                continue;
            }
            let host = cluster.host_name(*host);
            let context = match direction {
                Direction::In => format!("host {host}: this host rejects a claim of it"),
                Direction::Out => format!("host {host} rejects a claim of this host"),
            };
            let faults = rejections.current.iter().filter(|rejection| rejection.is_fault);
            lines.extend(faults.map(|rejection| format!("{context}: {}", rejection.text)));
        }
        lines
    }

    /// Records a fault of a session, and logs it unless it was logged recently.
    pub fn note_fault(
        &mut self,
        host: HostId,
        direction: Direction,
        text: String,
        cluster: &Cluster,
        now: Duration,
    ) {
        self.faults.retain(|(host, _), fault| {
            cluster.hosts.contains_key(host) && now < fault.met + FAULT_LOGGED
        });
        let known = self.faults.get(&(host, direction)).filter(|known| known.text == text);
        let logged = known.map(|known| known.logged).filter(|logged| now < *logged + FAULT_LOGGED);
        if logged.is_none() {
            warn!(host = cluster.host_name(host), "{text}");
        }
        self.faults
            .insert((host, direction), Fault { text, logged: logged.unwrap_or(now), met: now });
    }

    /// Records the networks that exceed the limits, and logs each once.
    pub fn note_excesses(&mut self, excesses: Vec<OverLimit>) {
        for excess in &excesses {
            if !self.excesses.iter().any(|known| known.network == excess.network) {
                warn!("{excess}");
            }
        }
        self.excesses = excesses;
    }

    /// Logs the peers with which we are no longer, or again, in sync.
    pub fn log_changes(&self, before: &PeerStates, after: &PeerStates, cluster: &Cluster) {
        for (host, is) in &after.hosts {
            let Some(was) = before.hosts.get(host) else { continue };
            if was.networks.is_empty() && is.networks.is_empty() {
                continue;
            }
            let host = cluster.host_name(*host);
            match (was.in_sync, is.in_sync) {
                (true, false) => info!(host, "not in sync: flooding multicast to it"),
                (false, true) if is.networks.is_empty() => {
                    warn!(host, "no advertisement received for too long: withdrew its entries");
                }
                (false, true) => info!(host, "in sync: sending it the groups of its members"),
                _ => {}
            }
        }
    }

    /// Current problems, one line each.
    pub fn problems(&self, cluster: &Cluster, now: Duration) -> Vec<String> {
        let faults = self.faults.iter().filter(|(_, fault)| now < fault.met + FAULT_SHOWN);
        let faults = faults
            .map(|((host, _), fault)| format!("host {}: {}", cluster.host_name(*host), fault.text));
        let silence = (!self.is_advertising).then(|| SILENT.to_owned());
        let excesses = self.excesses.iter().map(ToString::to_string);
        silence
            .into_iter()
            .chain(excesses)
            .chain(faults)
            .chain(self.rejection_problems(cluster, now))
            .collect()
    }
}
