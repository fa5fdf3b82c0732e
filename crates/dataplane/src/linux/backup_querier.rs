//! The backup querier sends queries to containers where the bridge does not: while another querier
//! is active, and in VLANs.
//!
//! A bridge does not query while another querier is active behind it
//! (`br_multicast_query_received`), such as a multicast router in a container, and relies on the
//! answers to that querier. A container can send queries that no member answers in time: with
//! response times of hours, or such that the other ports do not receive them. Then memberships
//! expire, and receivers on this host get nothing. So while another querier is active, shoutd
//! queries at the bridge's interval. Its queries go directly out of each port and bypass the
//! bridge. Otherwise the bridge would treat shoutd as another querier, and would not send the
//! group-specific queries that follow a leave.
//!
//! A container may add VLAN interfaces to its interface. The bridge takes reports in a VLAN for
//! memberships of the port, but sends its queries untagged, so members in a VLAN do not answer. The
//! IGMP/MLD filter therefore records the VLANs of reports, and shoutd queries in them. It also
//! queries at once after a membership ended, because a VLAN of the same container may still have
//! that membership.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use shoutd_netlink::{Error, GroupQuerier, IgmpMldFilter, Namespace, Route};

/// Minimum query interval, whatever the bridge's is.
const INTERVAL_MIN: Duration = Duration::from_secs(1);

/// VLANs of a network that are queried. A container that uses more loses memberships in the rest.
const VLANS_MAX: usize = 1024;

/// Maximum response time of the query after a membership ended. Another member, which may still
/// have that membership, must answer soon.
const SOON: Duration = Duration::from_millis(200);

/// The backup querier of one network.
#[derive(Debug)]
pub(super) struct BackupQuerier {
    namespace: Namespace,
    querier: Option<GroupQuerier>,
    next: Instant,
    /// The port and VLAN of recent reports, as last read.
    vlans: BTreeSet<(u32, u16)>,
    next_in_vlans: Instant,
    /// Ports at which a membership ended since the last query.
    ended: BTreeSet<u32>,
    ended_asked_at: Option<Instant>,
}

impl BackupQuerier {
    pub(super) fn new(namespace: &Namespace) -> Self {
        Self {
            namespace: namespace.clone(),
            querier: None,
            next: Instant::now(),
            vlans: BTreeSet::new(),
            next_in_vlans: Instant::now(),
            ended: BTreeSet::new(),
            ended_asked_at: None,
        }
    }

    /// Records that a membership ended at this port.
    pub(super) fn note_end(&mut self, port: u32) {
        self.ended.insert(port);
    }

    /// Queries in VLANs if it is due.
    pub(super) fn follow_vlans(&mut self, route: &mut Route, bridge: u32) -> Result<(), Error> {
        let now = Instant::now();
        if now >= self.next_in_vlans {
            self.next_in_vlans = now + INTERVAL_MIN;
            let Some(state) = route.querier_state(bridge)? else {
                return Ok(());
            };
            self.next_in_vlans = now + state.interval.max(INTERVAL_MIN);
            self.vlans = IgmpMldFilter::open(&self.namespace)?.vlans()?;
            return self.ask_in_vlans(state.response, |_| true);
        }
        let is_time = self.ended_asked_at.is_none_or(|at| at.elapsed() >= INTERVAL_MIN);
        if self.ended.is_empty() || !is_time {
            return Ok(());
        }
        self.ended_asked_at = Some(now);
        let ended = std::mem::take(&mut self.ended);
        // The filter may have recorded new ones.
        self.vlans = IgmpMldFilter::open(&self.namespace)?.vlans()?;
        self.ask_in_vlans(SOON, |port| ended.contains(&port))
    }

    fn ask_in_vlans(&self, within: Duration, behind: impl Fn(u32) -> bool) -> Result<(), Error> {
        let vlans: Vec<_> =
            self.vlans.iter().filter(|(port, _)| behind(*port)).take(VLANS_MAX).collect();
        if vlans.is_empty() {
            return Ok(());
        }
        let querier = GroupQuerier::open(&self.namespace)?;
        // A port may be gone by now; the others are still queried.
        let asked = vlans
            .into_iter()
            .map(|(port, vlan)| querier.send_general_queries(*port, Some(*vlan), within));
        asked.fold(Ok(()), Result::and)
    }

    /// Queries these ports if it is due and a querier other than the bridge is active, or may be. A
    /// lost query does no harm: a membership lasts for several.
    pub(super) fn follow(
        &mut self,
        route: &mut Route,
        bridge: u32,
        ports: impl Iterator<Item = u32>,
    ) -> Result<(), Error> {
        if Instant::now() < self.next {
            return Ok(());
        }
        self.next = Instant::now() + INTERVAL_MIN;
        let Some(state) = route.querier_state(bridge)? else {
            return Ok(());
        };
        self.next = Instant::now() + state.interval.max(INTERVAL_MIN);
        if state.is_by_another == Some(false) {
            self.querier = None;
            return Ok(());
        }
        let querier = match self.querier.take() {
            Some(querier) => querier,
            None => GroupQuerier::open(&self.namespace)?,
        };
        let querier = self.querier.insert(querier);
        ports
            .map(|port| querier.send_general_queries(port, None, state.response))
            .fold(Ok(()), Result::and)
    }
}
