//! Reports to multicast routers in containers about members on other hosts, whose own reports stay
//! on those hosts.
//!
//! [`Reports`] decides what to report and when. This module receives the routers' queries and sends
//! the reports. Both work at the routers' ports and bypass the bridge, so that the bridge does not
//! take the reports for memberships on this host, which we would advertise.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use shoutd_core::multicast::{Mdb, Query, RemoteMembers, Report, Reports, SourceFilter, Version};
use shoutd_core::plane::{DeviceName, Segment};
use shoutd_netlink::{
    Error, GroupRecord, Namespace, QueryMonitor, QueryVersion, ReceivedQuery, Reporter,
};
use tracing::debug;

use super::rate_limiter::RateLimiter;

/// Queries of one network processed per second. The answer to further ones is delayed.
const QUERIES_PER_SECOND: usize = 1000;

/// The reports in one network.
#[derive(Debug)]
pub(super) struct Reporting {
    namespace: Namespace,
    since: Instant,
    reporter: Option<Reporter>,
    /// The query monitor of each router's port. `None` if it cannot be opened: reports are then
    /// unsolicited.
    monitors: BTreeMap<u32, Option<QueryMonitor>>,
    /// The remote members that the reports are computed from.
    elsewhere: RemoteMembers,
    of_igmp: Reports,
    of_mld: Reports,
    rate_limiter: RateLimiter,
}

impl Reporting {
    pub(super) fn new(namespace: &Namespace) -> Self {
        Self {
            namespace: namespace.clone(),
            since: Instant::now(),
            reporter: None,
            monitors: BTreeMap::new(),
            elsewhere: RemoteMembers::default(),
            of_igmp: Reports::default(),
            of_mld: Reports::default(),
            rate_limiter: RateLimiter::new(QUERIES_PER_SECOND),
        }
    }

    /// The descriptors to poll.
    pub(super) fn events(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let is_heeded = !self.rate_limiter.is_used_up();
        self.monitors.values().flatten().filter(move |_| is_heeded).map(AsFd::as_fd)
    }

    /// Time until the next report is due; `None` if none is.
    pub(super) fn due(&self) -> Option<Duration> {
        let due = [self.of_igmp.wake(), self.of_mld.wake()].into_iter().flatten().min()?;
        Some(due.saturating_sub(self.since.elapsed()))
    }

    /// Processes the routers' queries and sends the reports that are due. `ports` has the container
    /// ports by index.
    pub(super) fn follow(
        &mut self,
        segment: Option<&Segment>,
        database: &Mdb,
        ports: &BTreeMap<u32, Option<DeviceName>>,
    ) {
        let routers = database.routers();
        if routers.is_empty() && self.monitors.is_empty() {
            return;
        }
        let now = self.since.elapsed();
        self.follow_routers(routers);
        // Before a new router is added, because it gets a report of everything anyway.
        self.update_members(segment.filter(|_| !routers.is_empty()), now);
        self.of_igmp.set_routers(routers, now);
        self.of_mld.set_routers(routers, now);
        self.take_queries(now);
        let mut reports = self.of_igmp.take(now, |port, group| database.is_member(port, group));
        reports.extend(self.of_mld.take(now, |port, group| database.is_member(port, group)));
        for report in reports {
            let name = ports.get(&report.port).and_then(Option::as_ref);
            let addresses = segment.zip(name).and_then(|(segment, name)| segment.ports.get(name));
            let from = addresses.map(|port| self.elsewhere.address_for(port.addresses.iter()));
            if let Err(error) = self.send(&report, from.unwrap_or(Ipv4Addr::UNSPECIFIED)) {
                debug!("cannot report members on other hosts to a multicast router: {error}");
            }
        }
    }

    /// Opens query monitors at the ports of these routers and closes others.
    fn follow_routers(&mut self, routers: &BTreeSet<u32>) {
        self.monitors.retain(|port, _| routers.contains(port));
        for port in routers {
            let namespace = &self.namespace;
            self.monitors.entry(*port).or_insert_with(|| {
                QueryMonitor::open(namespace, *port)
                    .inspect_err(|error| {
                        debug!("cannot receive queries, so reports are unsolicited: {error}");
                    })
                    .ok()
            });
        }
    }

    /// Takes the current advertisements of other hosts.
    fn update_members(&mut self, segment: Option<&Segment>, now: Duration) {
        let elsewhere = segment.map(|segment| segment.elsewhere.clone()).unwrap_or_default();
        if elsewhere.is(&self.elsewhere) {
            return;
        }
        let (of_igmp, of_mld): (BTreeMap<IpAddr, SourceFilter>, BTreeMap<_, _>) =
            elsewhere.members().into_iter().partition(|(group, _)| group.is_ipv4());
        self.of_igmp.set_members(Arc::new(of_igmp), now);
        self.of_mld.set_members(Arc::new(of_mld), now);
        self.elsewhere = elsewhere;
    }

    fn take_queries(&mut self, now: Duration) {
        for monitor in self.monitors.values().flatten() {
            if self.rate_limiter.is_used_up() {
                return;
            }
            let queries = monitor.queries();
            self.rate_limiter.use_up(queries.len());
            for received in queries {
                let reports = if received.is_ipv6 { &mut self.of_mld } else { &mut self.of_igmp };
                reports.receive_query(query(received), now);
            }
        }
    }

    fn send(&mut self, report: &Report, from: Ipv4Addr) -> Result<(), Error> {
        let records = report.records.iter().map(|record| GroupRecord {
            kind: record.kind as u8,
            group: record.group,
            sources: record.sources.clone(),
        });
        let version = match report.version {
            Version::First => QueryVersion::First,
            Version::Second => QueryVersion::Second,
            Version::Third => QueryVersion::Third,
        };
        let reporter = match self.reporter.take() {
            Some(reporter) => reporter,
            None => Reporter::open(&self.namespace)?,
        };
        let reporter = self.reporter.insert(reporter);
        reporter.report(report.port, version, from, &records.collect::<Vec<_>>())
    }
}

fn query(received: ReceivedQuery) -> Query {
    let ReceivedQuery { is_ipv6: _, version, group, sources, within } = received;
    let version = match version {
        QueryVersion::First => Version::First,
        QueryVersion::Second => Version::Second,
        QueryVersion::Third => Version::Third,
    };
    Query { version, group, sources, within }
}
