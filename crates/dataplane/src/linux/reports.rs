//! Telling multicast routers in containers of members on other hosts, whose own reports stay there.
//!
//! What is told, and when, [`Reports`] decides; here is what hears the routers' queries, and sends.
//! Both are at the routers' ports and pass the bridge by, so that it takes none of it for a member
//! of this host, and so nobody announces it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use shoutd_core::multicast::{Mdb, Query, RemoteMembers, Report, Reports, SourceFilter, Version};
use shoutd_core::plane::{DeviceName, Segment};
use shoutd_netlink::{
    Error, GroupRecord, HeardQuery, Namespace, QueryMonitor, QueryVersion, Reporter,
};
use tracing::debug;

use super::rate_limiter::RateLimiter;

/// Queries of one network that are heeded in a second: who is asked more often is told on the next
/// occasion.
const QUERIES_PER_SECOND: usize = 1000;

/// What is told in one network.
#[derive(Debug)]
pub(super) struct Reporting {
    namespace: Namespace,
    since: Instant,
    reporter: Option<Reporter>,
    /// By port of a router: the queries that come in by it. `None` if they cannot be heard: it is
    /// told unasked then.
    monitors: BTreeMap<u32, Option<QueryMonitor>>,
    /// What the members were worked out from.
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

    /// What to wait for.
    pub(super) fn events(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let is_heeded = !self.rate_limiter.is_used_up();
        self.monitors.values().flatten().filter(move |_| is_heeded).map(AsFd::as_fd)
    }

    /// How long until something is due; `None` if nothing is.
    pub(super) fn due(&self) -> Option<Duration> {
        let due = [self.of_igmp.wake(), self.of_mld.wake()].into_iter().flatten().min()?;
        Some(due.saturating_sub(self.since.elapsed()))
    }

    /// Hears what routers ask, and tells them what is due. `ports` are the containers' by their
    /// index.
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
        self.hear(routers);
        // Before a new router is known, which is told everything in any case.
        self.learn(segment.filter(|_| !routers.is_empty()), now);
        self.of_igmp.set_routers(routers, now);
        self.of_mld.set_routers(routers, now);
        self.take_queries(now);
        let is_member = |port, group| database.is_member(port, group);
        let mut reports = self.of_igmp.take(now, is_member);
        reports.extend(self.of_mld.take(now, is_member));
        for report in reports {
            let name = ports.get(&report.port).and_then(Option::as_ref);
            let addresses = segment.zip(name).and_then(|(segment, name)| segment.ports.get(name));
            let from = addresses.map(|port| self.elsewhere.address_for(port.addresses.iter()));
            if let Err(error) = self.send(&report, from.unwrap_or(Ipv4Addr::UNSPECIFIED)) {
                debug!("a multicast router has to wait to hear of members on other hosts: {error}");
            }
        }
    }

    /// Listens at the ports of these routers, and no others.
    fn hear(&mut self, routers: &BTreeSet<u32>) {
        self.monitors.retain(|port, _| routers.contains(port));
        for port in routers {
            let namespace = &self.namespace;
            self.monitors.entry(*port).or_insert_with(|| {
                QueryMonitor::open(namespace, *port)
                    .inspect_err(|error| {
                        debug!("a multicast router is told unasked of members elsewhere: {error}")
                    })
                    .ok()
            });
        }
    }

    /// Takes in what other hosts announce now.
    fn learn(&mut self, segment: Option<&Segment>, now: Duration) {
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
            for heard in queries {
                let reports = if heard.is_ipv6 { &mut self.of_mld } else { &mut self.of_igmp };
                reports.hear(query(heard), now);
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

fn query(heard: HeardQuery) -> Query {
    let HeardQuery { is_ipv6: _, version, group, sources, within } = heard;
    let version = match version {
        QueryVersion::First => Version::First,
        QueryVersion::Second => Version::Second,
        QueryVersion::Third => Version::Third,
    };
    Query { version, group, sources, within }
}
