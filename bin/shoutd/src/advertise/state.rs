//! What the announcer keeps.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use shoutd_core::HostId;
use shoutd_core::advertise::{
    ClaimValidation, Content, InboundSessions, OutboundSessions, OverLimit, PeerState, PeerStates,
    ReportedRejection,
};
use shoutd_core::cluster::Cluster;
use shoutd_core::limits::DOUBTS_TOLD_MAX;
use tracing::{info, warn};

/// How long a fault is shown that has not been met again: longer than the time between two
/// attempts.
const FAULT_SHOWN: Duration = Duration::from_secs(10);

/// How often the same fault is logged.
const FAULT_LOGGED: Duration = Duration::from_secs(60);

/// What is wrong while the kernel does not tell what containers listen to.
const SILENT: &str = "it has not been read yet what the containers of this host listen to: the \
                      other hosts send it all multicast";

/// What the announcer keeps.
#[derive(Debug, Default)]
pub struct State {
    /// Whether it has been read what the containers listen to, so that it can be announced.
    pub is_speaking: bool,
    /// What this host announces.
    pub content: Content,
    /// What it would announce but for the limits.
    pub excesses: Vec<OverLimit>,
    /// What the others have of it.
    pub speakers: OutboundSessions,
    /// What the others announced.
    pub listeners: InboundSessions,
    /// What is believed of it.
    pub beliefs: ClaimValidation,
    /// When it was last looked at what changes by time alone.
    pub expired_at: Duration,
    /// What is wrong with announcements to and from a host and does not pass by itself.
    faults: BTreeMap<(HostId, Direction), Fault>,
    /// What is not believed, by the host that announces it or that does not believe it.
    doubts: BTreeMap<(HostId, Direction), Doubts>,
}

/// Which way announcements go.
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

/// What one host does not believe of what another announces.
#[derive(Debug)]
struct Doubts {
    told: BTreeSet<ReportedRejection>,
    met: Duration,
    /// How many of them became events since then: a host that makes up ever new ones does not push
    /// everything else out.
    events: (usize, Duration),
}

impl State {
    /// Notes what is not believed. Returns those that are new, for events.
    pub fn note_doubts(
        &mut self,
        host: HostId,
        direction: Direction,
        told: Vec<ReportedRejection>,
        cluster: &Cluster,
        now: Duration,
    ) -> Vec<ReportedRejection> {
        self.doubts.retain(|(host, _), doubts| {
            cluster.hosts.contains_key(host) && now < doubts.met + FAULT_LOGGED
        });
        let told: BTreeSet<ReportedRejection> =
            told.into_iter().take(DOUBTS_TOLD_MAX).map(ReportedRejection::bounded).collect();
        if told.is_empty() && !self.doubts.contains_key(&(host, direction)) {
            return Vec::new();
        }
        let known = self.doubts.remove(&(host, direction));
        let (before, events) =
            known.map_or((BTreeSet::new(), (0, now)), |known| (known.told, known.events));
        let (count, since) = if now < events.1 + FAULT_LOGGED { events } else { (0, now) };
        let new: Vec<_> =
            told.difference(&before).take(DOUBTS_TOLD_MAX.saturating_sub(count)).cloned().collect();
        let events = (count + new.len(), since);
        if !told.is_empty() || events.0 > 0 {
            self.doubts.insert((host, direction), Doubts { told, met: now, events });
        }
        new
    }

    /// What is not believed and ought not to be so, one line each.
    fn doubted(&self, cluster: &Cluster, now: Duration) -> Vec<String> {
        let current = self.doubts.iter().filter(|(_, doubts)| now < doubts.met + FAULT_SHOWN);
        let lines = current.flat_map(|((host, direction), doubts)| {
            let host = cluster.host_name(*host);
            let who = match direction {
                Direction::In => format!("host {host}: not all that it announces is believed"),
                Direction::Out => {
                    format!("host {host} does not believe all that this host announces")
                }
            };
            let faults = doubts.told.iter().filter(|doubt| doubt.is_fault);
            faults.map(move |doubt| format!("{who}: {}", doubt.text)).collect::<Vec<_>>()
        });
        lines.collect()
    }

    /// Notes what is wrong with a host. Says it, but not all the time.
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

    /// Notes what this host announces less of than there is; says each once.
    pub fn note_excesses(&mut self, excesses: Vec<OverLimit>) {
        let is_known =
            |excess: &OverLimit| self.excesses.iter().any(|known| known.network == excess.network);
        excesses.iter().filter(|excess| !is_known(excess)).for_each(|excess| warn!("{excess}"));
        self.excesses = excesses;
    }

    /// Logs who is in sync no more, or again.
    pub fn tell_changes(&self, before: &PeerStates, after: &PeerStates, cluster: &Cluster) {
        for (host, is) in &after.hosts {
            let is_known =
                |was: &&Arc<PeerState>| !(was.networks.is_empty() && is.networks.is_empty());
            let Some(was) = before.hosts.get(host).filter(is_known) else { continue };
            let host = cluster.host_name(*host);
            match (was.in_sync, is.in_sync) {
                (true, false) => info!(host, "not in sync: it is sent all multicast until it is"),
                (false, true) if is.networks.is_empty() => {
                    warn!(host, "not heard for too long: what it announced is withdrawn");
                }
                (false, true) => {
                    info!(host, "in sync: it is sent the multicast that it listens to")
                }
                _ => {}
            }
        }
    }

    /// What is wrong, one line each.
    pub fn problems(&self, cluster: &Cluster, now: Duration) -> Vec<String> {
        let faults = self.faults.iter().filter(|(_, fault)| now < fault.met + FAULT_SHOWN);
        let faults = faults
            .map(|((host, _), fault)| format!("host {}: {}", cluster.host_name(*host), fault.text));
        let silence = (!self.is_speaking).then(|| SILENT.to_owned());
        let excesses = self.excesses.iter().map(ToString::to_string);
        silence
            .into_iter()
            .chain(excesses)
            .chain(faults)
            .chain(self.doubted(cluster, now))
            .collect()
    }
}
