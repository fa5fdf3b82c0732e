//! Containers' groups, taken from what the kernel says of their namespaces instead of from their
//! reports.
//!
//! The kernel waits for two ticks of its clock or three before it sends a report
//! (`igmp_ifc_event`): 8 to 12 ms at 250 Hz, most of the time that passes until a receiver is
//! served. So the bridge is told of the membership as soon as it is there; the report that follows
//! confirms it, and all that comes after goes by reports alone. Of sources the kernel tells nothing
//! by itself. For a group that is for chosen sources only (RFC 4607) it is looked up which these
//! are; a lookup takes some hundred microseconds, and nearly all joins are of other ranges and for
//! all sources. So a group of another range that is joined for some sources is served from all at
//! first. To the bridge the report that names these is then an addition to all (RFC 3376, section
//! 6.4.1), and it would ask nobody: so it is asked here, and after two seconds only these are
//! served.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use shoutd_core::multicast::is_announced;
use shoutd_netlink::{Error, GroupQuerier, Join, JoinMonitor, Kind, Namespace, Peer, Route};
use tracing::debug;

use super::rate_limiter::RateLimiter;
use super::registry::Registry;
use super::source_filters::SourceFilters;

/// How often the ports are listed at the most, for an interface that is at none of those known:
/// containers have others, and so has the host.
const LIST_PERIOD: Duration = Duration::from_millis(100);
/// Events taken from a network in a second. Whoever makes more of them has its reports, like all
/// others in its network until the second is over.
const EVENTS_PER_SECOND: usize = 5_000;
/// How long after a join that was told early its report may come.
const REPORT_AGE_MAX: Duration = Duration::from_secs(10);
/// Joins of which it is remembered that they were told early. Of what is forgotten for want of room
/// nobody is asked: more than is wanted may be served.
const EARLY_MAX: usize = 4096;

/// The joins of one network's containers.
#[derive(Debug)]
pub(super) struct EarlyJoins {
    monitor: Option<JoinMonitor>,
    /// The ports that containers' ends were last seen at.
    ports: BTreeMap<Peer, u32>,
    listed_at: Option<Instant>,
    rate_limiter: RateLimiter,
    chosen: SourceFilters,
    namespace: Namespace,
    /// The memberships of all sources that were made here, by port and group.
    made: BTreeMap<(u32, IpAddr), Instant>,
    questioner: Option<GroupQuerier>,
}

impl EarlyJoins {
    /// On a kernel that does not tell of joins there are none.
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
            questioner: None,
        })
    }

    /// What to wait for.
    pub(super) fn event(&self) -> Option<BorrowedFd<'_>> {
        self.monitor.as_ref().filter(|_| !self.rate_limiter.is_used_up()).map(AsFd::as_fd)
    }

    /// Tells the bridge of what was joined since the last time.
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
        for (end, group) in joined.filter(|(_, group)| is_announced(*group)) {
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

    /// What these groups were joined for. If a program has not said yet which sources it wants, its
    /// report will.
    fn joins_at(
        &mut self,
        port: u32,
        end: Peer,
        groups: Vec<IpAddr>,
        route: &mut Route,
    ) -> Vec<Join> {
        let (chosen, any): (Vec<IpAddr>, Vec<IpAddr>) =
            groups.into_iter().partition(|group| is_for_chosen_sources(*group));
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

    /// Takes note that a port wants a group from a source of its choice. If it was said here that
    /// it wants all, it is asked whether that is so.
    pub(super) fn note_source(&mut self, bridge: u32, port: u32, group: IpAddr) {
        if self.made.remove(&(port, group)).is_some_and(|at| at.elapsed() < REPORT_AGE_MAX)
            && let Err(error) = self.ask(bridge, group)
        {
            debug!("more than is wanted of {group} is served for some minutes: {error}");
        }
    }

    fn ask(&mut self, bridge: u32, group: IpAddr) -> Result<(), Error> {
        let questioner = match self.questioner.take() {
            Some(questioner) => questioner,
            None => GroupQuerier::open(&self.namespace)?,
        };
        self.questioner.insert(questioner).ask(bridge, group)
    }

    /// The port that leads to this end of a veth, if one does.
    fn port_of(&mut self, end: Peer, route: &mut Route) -> Result<Option<u32>, Error> {
        if let Some(&port) = self.ports.get(&end) {
            // Indexes and numbers of namespaces are used again.
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

/// Whether a group is of the ranges of source-specific multicast (RFC 4607, section 1): 232.0.0.0/8
/// and ff3x::/32.
fn is_for_chosen_sources(group: IpAddr) -> bool {
    match group {
        IpAddr::V4(group) => group.octets()[0] == 232,
        IpAddr::V6(group) => matches!(group.segments(), [first, 0, ..] if first & 0xfff0 == 0xff30),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ranges_of_source_specific_multicast() {
        let is_in = |group: &str| is_for_chosen_sources(group.parse().unwrap());
        assert!(["232.1.2.3", "ff3e::8000:1", "ff35::1"].into_iter().all(is_in));
        assert!(
            !["239.1.2.3", "231.0.0.1", "233.0.0.1", "ff05::1", "ff3e:30::1"]
                .into_iter()
                .any(is_in)
        );
    }
}
