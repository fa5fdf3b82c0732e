//! Early joins: memberships taken from the kernel's notifications of joins, before the container's
//! report.
//!
//! The kernel waits two or three ticks before it sends a report (`igmp_ifc_event`): 8 to 12 ms at
//! 250 Hz, most of the time until a receiver gets its stream. So we add the membership to the
//! bridge's MDB at once. The report then confirms it, and everything after goes by reports alone.
//!
//! The notification has no sources. For a group of the SSM ranges (RFC 4607) we look them up, which
//! takes a few hundred microseconds. Nearly all other joins are (\*,G), so we do not look there. An
//! SSM join to a group of another range is therefore added as (\*,G) at first. Its report, ALLOW
//! with the sources, then meets a group in EXCLUDE mode. It neither ends that mode nor makes the
//! bridge query (RFC 3376, section 6.4.2). So we query: two seconds later the group timer expires,
//! and only those sources are forwarded.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use shoutd_core::multicast::is_advertised;
use shoutd_netlink::{Error, GroupQuerier, Join, JoinMonitor, Kind, Namespace, Peer, Route};
use tracing::debug;

use super::rate_limiter::RateLimiter;
use super::registry::Registry;
use super::source_filters::SourceFilters;

/// Minimum time between listings of the ports, which a join on an unknown interface causes. We also
/// see joins on other interfaces of containers and of the host.
const LIST_PERIOD: Duration = Duration::from_millis(100);
/// Events accepted per network and second. Beyond, all containers of the network depend on their
/// reports until the second is over.
const EVENTS_PER_SECOND: usize = 5_000;
/// How long after an early join its report may arrive.
const REPORT_AGE_MAX: Duration = Duration::from_secs(10);
/// Early joins remembered. For a forgotten one we do not query, so its port may get sources that it
/// has not selected.
const EARLY_MAX: usize = 4096;

/// The early joins of one network.
#[derive(Debug)]
pub(super) struct EarlyJoins {
    monitor: Option<JoinMonitor>,
    /// The port of each container interface, as last listed.
    ports: BTreeMap<Peer, u32>,
    listed_at: Option<Instant>,
    rate_limiter: RateLimiter,
    chosen: SourceFilters,
    namespace: Namespace,
    /// Our early (\*,G) joins, by port and group.
    made: BTreeMap<(u32, IpAddr), Instant>,
    querier: Option<GroupQuerier>,
}

impl EarlyJoins {
    /// On a kernel without notifications of joins this does nothing.
    pub(super) fn open(namespace: &Namespace, registry: &Arc<Registry>) -> Result<Self, Error> {
        let monitor = JoinMonitor::open(namespace)?;
        Ok(Self {
            monitor,
            ports: BTreeMap::new(),
            listed_at: None,
            rate_limiter: RateLimiter::new(EVENTS_PER_SECOND),
            chosen: SourceFilters::new(registry.clone()),
            namespace: namespace.clone(),
            made: BTreeMap::new(),
            querier: None,
        })
    }

    /// The descriptor to poll.
    pub(super) fn event(&self) -> Option<BorrowedFd<'_>> {
        self.monitor.as_ref().filter(|_| !self.rate_limiter.is_used_up()).map(AsFd::as_fd)
    }

    /// Adds the joins since the last call to the bridge's MDB.
    pub(super) fn follow(&mut self, route: &mut Route, bridge: u32) -> Result<(), Error> {
        let Some(monitor) = self.monitor.as_ref().filter(|_| !self.rate_limiter.is_used_up())
        else {
            return Ok(());
        };
        let changes = monitor.changes();
        self.rate_limiter.use_up(changes.events);
        let joined =
            changes.last.into_iter().filter(|(_, is_joined)| *is_joined).map(|(change, _)| change);
        let mut by_end: BTreeMap<Peer, Vec<IpAddr>> = BTreeMap::new();
        for (end, group) in joined.filter(|(_, group)| is_advertised(*group)) {
            by_end.entry(end).or_default().push(group);
        }
        let mut joins = Vec::new();
        for (end, groups) in by_end {
            if let Some(port) = self.port_of(end, route)? {
                joins.extend(self.joins_at(port, end, groups, route));
            }
        }
        if joins.is_empty() {
            return Ok(());
        }
        self.note_made(&joins);
        route.join_groups(bridge, &joins)
    }

    /// The memberships to add for these groups. An SSM group whose sources cannot be found yet is
    /// left to its report.
    fn joins_at(
        &mut self,
        port: u32,
        end: Peer,
        groups: Vec<IpAddr>,
        route: &mut Route,
    ) -> Vec<Join> {
        let (chosen, any): (Vec<IpAddr>, Vec<IpAddr>) =
            groups.into_iter().partition(|group| is_ssm(*group));
        let mut joins: Vec<Join> =
            any.into_iter().map(|group| Join { port, group, sources: BTreeSet::new() }).collect();
        if !chosen.is_empty() {
            let mut sources = self.chosen.at(end, route);
            let joined =
                chosen.into_iter().filter_map(|group| Some((group, sources.remove(&group)?)));
            joins.extend(joined.map(|(group, sources)| Join { port, group, sources }));
        }
        joins
    }

    fn note_made(&mut self, joins: &[Join]) {
        if self.made.len() + joins.len() > EARLY_MAX {
            self.made.clear();
        }
        let now = Instant::now();
        let of_all = joins.iter().filter(|join| join.sources.is_empty());
        self.made.extend(of_all.map(|join| ((join.port, join.group), now)));
    }

    /// Records that a port reported a source of a group. If we added that group as (\*,G), the
    /// members are queried.
    pub(super) fn note_source(&mut self, bridge: u32, port: u32, group: IpAddr) {
        if self.made.remove(&(port, group)).is_some_and(|at| at.elapsed() < REPORT_AGE_MAX)
            && let Err(error) = self.query(bridge, group)
        {
            debug!(
                "cannot query {group}, so unselected sources may be forwarded until its \
                 membership expires: {error}"
            );
        }
    }

    fn query(&mut self, bridge: u32, group: IpAddr) -> Result<(), Error> {
        let querier = match self.querier.take() {
            Some(querier) => querier,
            None => GroupQuerier::open(&self.namespace)?,
        };
        self.querier.insert(querier).query_group(bridge, group)
    }

    /// The port whose other end is this interface, if there is one.
    fn port_of(&mut self, end: Peer, route: &mut Route) -> Result<Option<u32>, Error> {
        if let Some(&port) = self.ports.get(&end) {
            // Indexes and namespace ids are reused.
            if route.link_at(port)?.is_some_and(|link| link.peer == Some(end)) {
                return Ok(Some(port));
            }
            self.ports.remove(&end);
        }
        if self.listed_at.is_none_or(|at| at.elapsed() >= LIST_PERIOD) {
            let ports = route
                .links()?
                .into_iter()
                .filter(|link| link.kind == Kind::Veth && link.master.is_some());
            self.ports = ports.filter_map(|link| Some((link.peer?, link.index))).collect();
            self.listed_at = Some(Instant::now());
        }
        Ok(self.ports.get(&end).copied())
    }
}

/// Whether a group is in the SSM ranges, 232.0.0.0/8 and ff3x::/32 (RFC 4607, section 1).
fn is_ssm(group: IpAddr) -> bool {
    match group {
        IpAddr::V4(group) => group.octets()[0] == 232,
        IpAddr::V6(group) => matches!(group.segments(), [first, 0, ..] if first & 0xfff0 == 0xff30),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ssm_ranges_are_recognized() {
        for group in ["232.1.2.3", "ff3e::8000:1", "ff35::1"] {
            assert!(is_ssm(group.parse().unwrap()), "{group}");
        }
        for group in ["239.1.2.3", "231.0.0.1", "233.0.0.1", "ff05::1", "ff3e:30::1"] {
            assert!(!is_ssm(group.parse().unwrap()), "{group}");
        }
    }
}
