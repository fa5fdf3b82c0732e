//! Reports of remote members to multicast routers, compared with routers that are too simple to be
//! wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;
use shoutd_core::MacAddress;
use shoutd_core::advertise::{AdvertisedEndpoint, AdvertisedNetwork};
use shoutd_core::limits::REPORTED_GROUPS_MAX;
use shoutd_core::multicast::{
    Memberships, Query, Record, RecordKind, RemoteMembers, Reports, SourceFilter, Version,
    is_link_local,
};

use crate::model::{filter, source};

const PORT: u32 = 7;
type Members = BTreeMap<IpAddr, SourceFilter>;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn members(groups: &[(&str, SourceFilter)]) -> Arc<Members> {
    Arc::new(groups.iter().map(|(group, filter)| (ip(group), filter.clone())).collect())
}

fn include(sources: &[&str]) -> SourceFilter {
    SourceFilter::Include(sources.iter().map(|source| ip(source)).collect())
}

fn query(version: Version, group: Option<IpAddr>) -> Query {
    Query { version, group, sources: BTreeSet::new(), within: Duration::from_secs(10) }
}

/// Reports with a router that has received a report of all these members.
fn settled(of: &Arc<Members>) -> (Reports, Duration) {
    let mut reports = Reports::default();
    reports.set_members(of.clone(), Duration::ZERO);
    reports.set_routers(&BTreeSet::from([PORT]), Duration::ZERO);
    assert_eq!(reports.take(Duration::ZERO, |_, _| false).is_empty(), of.is_empty());
    let now = Duration::from_secs(10);
    assert!(reports.take(now, |_, _| false).is_empty());
    (reports, now)
}

/// The records that are sent at this time.
fn records(reports: &mut Reports, now: Duration) -> Vec<Record> {
    reports.take(now, |_, _| false).into_iter().flat_map(|report| report.records).collect()
}

/// A router that forwards what is selected in each group. When a member selects less, it queries
/// for other members, and gets an answer at once or not at all. In version 3 it follows RFC 3376,
/// section 6.4.
#[derive(Debug, Default)]
struct Router {
    state: Members,
}

impl Router {
    /// Processes a record, and returns the router's query.
    fn take(&mut self, record: &Record) -> Option<Query> {
        let sources: BTreeSet<IpAddr> = record.sources.iter().copied().collect();
        let state = self.state.entry(record.group).or_insert_with(|| include(&[]));
        match record.kind {
            // The router learns by its query what other members select. Here are none.
            RecordKind::ToInclude => *state = SourceFilter::Include(sources),
            RecordKind::IsExclude | RecordKind::ToExclude => {
                *state = SourceFilter::Exclude(sources);
            }
            RecordKind::IsInclude | RecordKind::Allow => {
                state.widen(&SourceFilter::Include(sources));
            }
            RecordKind::Block => match state {
                SourceFilter::Include(wanted) => wanted.retain(|source| !sources.contains(source)),
                SourceFilter::Exclude(blocked) => blocked.extend(sources),
            },
        }
        let is_less = matches!(record.kind, RecordKind::ToInclude | RecordKind::Block);
        is_less.then(|| query(Version::Third, Some(record.group)))
    }

    /// Receives the reports that are sent at this time, unless they are lost, and sends queries.
    fn exchange(
        &mut self,
        reports: &mut Reports,
        now: Duration,
        are_lost: bool,
    ) -> Result<(), TestCaseError> {
        for report in reports.take(now, |_, _| false) {
            prop_assert_eq!(report.version, Version::Third);
            if are_lost {
                continue;
            }
            for query in report.records.iter().filter_map(|record| self.take(record)) {
                reports.receive_query(query, now);
            }
        }
        Ok(())
    }

    fn knows(&self) -> Members {
        let known = self.state.iter().filter(|(_, filter)| has_members(filter));
        known.map(|(group, filter)| (*group, filter.clone())).collect()
    }
}

fn wanted_groups() -> impl Strategy<Value = Members> {
    let group = (1_u8..6).prop_map(|last| IpAddr::from([239, 7, 7, last]));
    btree_map(group, filter().prop_filter("no sources", has_members), 0..5)
}

fn has_members(filter: &SourceFilter) -> bool {
    *filter != include(&[])
}

proptest! {
    /// For any changes, and with or without a lost report, routers learn the memberships.
    #[test]
    fn a_router_learns_the_memberships_in_spite_of_loss(
        steps in vec((wanted_groups(), 0_u64..1500, any::<bool>()), 1..6),
        queries in any::<bool>(),
    ) {
        let (mut reports, mut router) = (Reports::default(), Router::default());
        let mut now = Duration::ZERO;
        reports.set_routers(&BTreeSet::from([PORT]), now);
        let last = steps.last().map(|(members, ..)| members.clone()).unwrap();
        for (members, pause, is_lost) in steps {
            reports.set_members(Arc::new(members), now);
            router.exchange(&mut reports, now, is_lost)?;
            now += Duration::from_millis(pause);
        }
        // A lost report is repeated. If the repetition is lost too, a query gets the answer.
        if queries {
            reports.receive_query(query(Version::Third, None), now);
        }
        let end = now + Duration::from_secs(126);
        while let Some(at) = reports.wake().filter(|at| *at <= end) {
            now = now.max(at);
            router.exchange(&mut reports, now, false)?;
        }
        // If both leaves of a group were lost, the router has the group until it queries and gets
        // no answer.
        for (group, filter) in router.knows() {
            let wanted = last.get(&group);
            prop_assert!(
                wanted.is_none_or(|wanted| filter.union(wanted) == filter),
                "{group}: {filter:?}"
            );
        }
        for (group, filter) in &last {
            prop_assert_eq!(
                router.knows().get(group).map(|known| known.union(filter)),
                router.knows().get(group).cloned()
            );
            prop_assert!(router.knows().contains_key(group));
        }
    }

    /// Without loss, routers know exactly the memberships.
    #[test]
    fn without_loss_a_router_knows_exactly_the_memberships(steps in vec(wanted_groups(), 1..6)) {
        let (mut reports, mut router) = (Reports::default(), Router::default());
        reports.set_routers(&BTreeSet::from([PORT]), Duration::ZERO);
        for (second, members) in (0_u64..).zip(steps) {
            let now = Duration::from_secs(second * 2);
            reports.set_members(Arc::new(members.clone()), now);
            for at in [now, now + Duration::from_secs(1)] {
                let records =
                    reports.take(at, |_, _| false).into_iter().flat_map(|report| report.records);
                records.for_each(|record| _ = router.take(&record));
                prop_assert_eq!(&router.knows(), &members);
            }
        }
    }

    /// The union selects what any host selects, and has no group that routers do not forward.
    #[test]
    fn remote_members_are_the_union_of_all_hosts(
        hosts in vec(btree_map(crate::model::group(), filter(), 0..5), 0..4),
        source in source(),
        group in crate::model::group(),
    ) {
        let advertised = hosts.iter().map(|groups| {
            let memberships = Memberships { groups: groups.clone(), router: false };
            Arc::new(AdvertisedNetwork { memberships, ..AdvertisedNetwork::default() })
        });
        let members = RemoteMembers::new(advertised).members();
        let has_members = hosts
            .iter()
            .any(|groups| groups.get(&group).is_some_and(|filter| filter.admits(source)));
        let is_reported = members.get(&group).is_some_and(|filter| filter.admits(source));
        prop_assert_eq!(is_reported, has_members && !is_link_local(group));
    }

    /// A group-and-source-specific query is answered with those of its sources that are selected.
    #[test]
    fn source_specific_queries_are_answered_with_the_selected_sources(
        filter in filter().prop_filter("no sources", has_members),
        queried in btree_set(source(), 1..4),
    ) {
        let group = ip("239.1.1.1");
        let (mut reports, now) = settled(&Arc::new(BTreeMap::from([(group, filter.clone())])));
        let query = Query { sources: queried.clone(), ..query(Version::Third, Some(group)) };
        reports.receive_query(query, now);
        let answered: BTreeSet<IpAddr> =
            records(&mut reports, now).into_iter().flat_map(|record| record.sources).collect();
        prop_assert_eq!(
            answered,
            queried.into_iter().filter(|source| filter.admits(*source)).collect()
        );
    }
}

#[test]
fn a_new_router_gets_all_groups_and_the_others_none() {
    let all = members(&[("239.1.1.1", SourceFilter::all()), ("239.1.1.2", include(&["10.0.0.1"]))]);
    let (mut reports, now) = settled(&all);
    reports.set_routers(&BTreeSet::from([PORT, 9]), now);
    let sent = reports.take(now, |_, _| false);
    assert_eq!(sent.iter().map(|report| report.port).collect::<Vec<_>>(), [9]);
    assert_eq!(sent[0].records.iter().map(|record| record.group).collect::<BTreeSet<_>>().len(), 2);
}

#[test]
fn a_change_is_reported_exactly_twice() {
    let (mut reports, now) = settled(&members(&[]));
    reports.set_members(members(&[("239.1.1.1", SourceFilter::all())]), now);
    let group = ip("239.1.1.1");
    let joined = vec![Record { kind: RecordKind::ToExclude, group, sources: vec![] }];
    assert_eq!((reports.wake(), records(&mut reports, now)), (Some(now), joined.clone()));
    let again = reports.wake().unwrap();
    assert!(again > now && again <= now + Duration::from_secs(1));
    assert_eq!(
        (records(&mut reports, again), records(&mut reports, again + Duration::from_secs(5))),
        (joined, vec![])
    );

    reports.set_members(members(&[]), again);
    let left = Record { kind: RecordKind::ToInclude, group, sources: vec![] };
    assert_eq!(records(&mut reports, again), [left]);
}

#[test]
fn a_query_is_answered_in_time_with_any_number_of_groups() {
    let all: Members = (0..10_000)
        .map(|number| std::net::Ipv4Addr::from(0xef01_0000 + number))
        .map(|group| (IpAddr::from(group), SourceFilter::all()))
        .collect();
    let all = Arc::new(all);
    let mut reports = Reports::default();
    reports.set_members(all.clone(), Duration::ZERO);
    reports.set_routers(&BTreeSet::from([PORT]), Duration::ZERO);
    while reports.wake().unwrap() < Duration::from_secs(60) {
        let now = reports.wake().unwrap();
        reports.take(now, |_, _| false);
    }
    let queried_at = Duration::from_secs(60);
    reports.receive_query(query(Version::Third, None), queried_at);
    let mut sent = BTreeSet::new();
    while sent.len() < all.len() {
        let now = reports.wake().unwrap();
        assert!(
            now <= queried_at + Duration::from_secs(10),
            "{} of {} by {now:?}",
            sent.len(),
            all.len()
        );
        let groups: Vec<_> =
            records(&mut reports, now).into_iter().map(|record| record.group).collect();
        assert!(groups.len() <= 200);
        sent.extend(groups);
        // Frequent queries do not keep groups from being reported.
        reports.receive_query(query(Version::Third, None), now);
    }
}

#[test]
fn older_queries_are_answered_in_their_version_while_they_continue() {
    let group = ip("239.1.1.1");
    let all = members(&[("239.1.1.1", include(&["10.0.0.1"]))]);
    for (version, leaves) in [(Version::First, 0), (Version::Second, 1)] {
        let (mut reports, now) = settled(&all);
        reports.receive_query(query(version, None), now);
        let sent = reports.take(now, |_, _| false);
        assert_eq!(
            (sent[0].version, sent[0].records.len(), &sent[0].records[0].sources),
            (version, 1, &vec![])
        );
        reports.set_members(members(&[]), now);
        assert_eq!(records(&mut reports, now).len(), leaves, "{version:?}");
        reports.set_members(all.clone(), now);
        let joined = Record { kind: RecordKind::IsExclude, group, sources: vec![] };
        assert_eq!(records(&mut reports, now), [joined]);

        let later = now + Duration::from_secs(300);
        reports.receive_query(query(Version::Third, None), later);
        let sent = reports.take(later, |_, _| false);
        // In addition to the change, which is reported a second time.
        let last = sent[0].records.last().map(|record| record.kind);
        assert_eq!((sent[0].version, last), (Version::Third, Some(RecordKind::IsInclude)));
    }
}

/// The kernel of a member suppresses its own report when it receives one of an older version. The
/// bridge would then lose the member.
#[test]
fn reports_of_a_router_that_is_a_member_itself_are_not_suppressed() {
    let (mut reports, now) = settled(&members(&[("239.1.1.1", SourceFilter::all())]));
    for (version, sent) in [(Version::Third, 1), (Version::Second, 0)] {
        reports.receive_query(query(version, None), now);
        assert_eq!(reports.take(now, |port, _| port == PORT).len(), sent, "{version:?}");
    }
}

#[test]
fn without_a_router_there_is_no_state_and_nothing_is_due() {
    let (mut reports, now) = settled(&members(&[("239.1.1.1", SourceFilter::all())]));
    reports.receive_query(query(Version::Second, None), now);
    reports.set_routers(&BTreeSet::new(), now);
    reports.set_members(members(&[]), now);
    assert_eq!((reports.wake(), reports.take(now, |_, _| false)), (None, vec![]));
    assert_eq!(reports, Reports::default());
}

#[test]
fn the_source_address_of_reports_is_a_remote_containers_in_the_same_subnet() {
    let mut network = AdvertisedNetwork::default();
    for (digit, addresses) in
        [("a", vec!["10.1.0.9", "fd00::9"]), ("b", vec!["10.0.0.8"]), ("c", vec!["10.0.0.7"])]
    {
        let endpoint = AdvertisedEndpoint {
            mac: MacAddress::for_ipv4([10, 0, 0, 1].into()),
            addresses: addresses.into_iter().map(ip).collect(),
            names: BTreeSet::new(),
        };
        network.endpoints.insert(digit.repeat(64).parse().unwrap(), endpoint);
    }
    let elsewhere = RemoteMembers::new([Arc::new(network)].into_iter());
    for (port, expected) in [
        (vec!["fd00::1/64", "10.0.0.1/24"], "10.0.0.7"),
        (vec!["10.2.0.1/16"], "0.0.0.0"),
        // A router ignores a report from its own address.
        (vec!["10.1.0.9/24"], "0.0.0.0"),
    ] {
        let addresses: Vec<IpNet> = port.iter().map(|address| address.parse().unwrap()).collect();
        assert_eq!(elsewhere.address_for(addresses.iter()).to_string(), expected, "{port:?}");
    }
}

#[test]
fn the_number_of_reported_groups_is_limited() {
    let groups = (0..=u32::try_from(REPORTED_GROUPS_MAX).unwrap())
        .map(|number| (std::net::Ipv4Addr::from(0xe800_0000 + number).into(), SourceFilter::all()));
    let memberships = Memberships { groups: groups.collect(), router: false };
    let network = AdvertisedNetwork { memberships, ..AdvertisedNetwork::default() };
    assert_eq!(
        RemoteMembers::new([Arc::new(network)].into_iter()).members().len(),
        REPORTED_GROUPS_MAX
    );
}
