//! What multicast routers are told of members on other hosts, against routers that are too simple
//! to be wrong.

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

/// With a router that was told all there was, which was this.
fn settled(of: &Arc<Members>) -> (Reports, Duration) {
    let mut reports = Reports::default();
    reports.set_members(of.clone(), Duration::ZERO);
    reports.set_routers(&BTreeSet::from([PORT]), Duration::ZERO);
    assert_eq!(reports.take(Duration::ZERO, |_, _| false).is_empty(), of.is_empty());
    let now = Duration::from_secs(10);
    assert!(reports.take(now, |_, _| false).is_empty());
    (reports, now)
}

/// What is said at this time.
fn said(reports: &mut Reports, now: Duration) -> Vec<(RecordKind, IpAddr, Vec<IpAddr>)> {
    let reports = reports.take(now, |_, _| false);
    reports
        .into_iter()
        .flat_map(|report| report.records)
        .map(|said| (said.kind, said.group, said.sources))
        .collect()
}

/// A router that forwards what is wanted of each group. When somebody wants less it asks whether
/// another wants it still, and is answered at once, or nobody does; of the third version as in RFC
/// 3376, section 6.4.
#[derive(Debug, Default)]
struct Router {
    state: Members,
}

impl Router {
    /// Takes in a record, and returns what it asks then.
    fn take(&mut self, record: &Record) -> Option<Query> {
        let sources: BTreeSet<IpAddr> = record.sources.iter().copied().collect();
        let state = self.state.entry(record.group).or_insert_with(|| include(&[]));
        match record.kind {
            // What another still wants it learns by its questions: there is no other here.
            RecordKind::ToInclude => *state = SourceFilter::Include(sources),
            RecordKind::IsExclude | RecordKind::ToExclude => {
                *state = SourceFilter::Exclude(sources)
            }
            RecordKind::IsInclude | RecordKind::Allow => {
                state.widen(&SourceFilter::Include(sources))
            }
            RecordKind::Block => match state {
                SourceFilter::Include(wanted) => wanted.retain(|source| !sources.contains(source)),
                SourceFilter::Exclude(blocked) => blocked.extend(sources),
            },
        }
        let is_less = matches!(record.kind, RecordKind::ToInclude | RecordKind::Block);
        is_less.then(|| query(Version::Third, Some(record.group)))
    }

    fn knows(&self) -> Members {
        let known = self.state.iter().filter(|(_, filter)| is_wanted(filter));
        known.map(|(group, filter)| (*group, filter.clone())).collect()
    }
}

fn wanted_groups() -> impl Strategy<Value = Members> {
    let group = (1_u8..6).prop_map(|last| IpAddr::from([239, 7, 7, last]));
    btree_map(group, filter().prop_filter("nobody", is_wanted), 0..5)
}

fn is_wanted(filter: &SourceFilter) -> bool {
    *filter != include(&[])
}

proptest! {
    /// Whatever changes in between, and whether or not a report was lost, routers come to know what
    /// is wanted.
    #[test]
    fn a_router_comes_to_know_what_is_wanted(
        steps in vec((wanted_groups(), 0_u64..1500, any::<bool>()), 1..6),
        asks in any::<bool>(),
    ) {
        let (mut reports, mut router) = (Reports::default(), Router::default());
        let mut now = Duration::ZERO;
        reports.set_routers(&BTreeSet::from([PORT]), now);
        let last = steps.last().map(|(members, ..)| members.clone()).unwrap();
        let mut deliver = |reports: &mut Reports, now, is_lost: bool| {
            for report in reports.take(now, |_, _| false) {
                prop_assert_eq!(report.version, Version::Third);
                let questions: Vec<Query> =
                    report.records.iter().filter(|_| !is_lost).filter_map(|record| router.take(record)).collect();
                questions.into_iter().for_each(|question| reports.hear(question, now));
            }
            Ok(())
        };
        for (members, pause, is_lost) in steps {
            reports.set_members(Arc::new(members), now);
            deliver(&mut reports, now, is_lost)?;
            now += Duration::from_millis(pause);
        }
        // What is lost is told a second time, and where that is lost, asked for.
        if asks {
            reports.hear(query(Version::Third, None), now);
        }
        let end = now + Duration::from_secs(126);
        while let Some(at) = reports.wake().filter(|at| *at <= end) {
            now = now.max(at);
            deliver(&mut reports, now, false)?;
        }
        // Of a group that was lost out of twice, a router knows until it asks; then nobody answers.
        for (group, filter) in router.knows() {
            let wanted = last.get(&group);
            prop_assert!(wanted.is_none_or(|wanted| filter.union(wanted) == filter), "{group}: {filter:?}");
        }
        for (group, filter) in &last {
            prop_assert_eq!(router.knows().get(group).map(|known| known.union(filter)), router.knows().get(group).cloned());
            prop_assert!(router.knows().contains_key(group));
        }
    }

    /// Where nothing is lost, they know just that.
    #[test]
    fn a_router_knows_just_what_is_wanted(steps in vec(wanted_groups(), 1..6)) {
        let (mut reports, mut router) = (Reports::default(), Router::default());
        reports.set_routers(&BTreeSet::from([PORT]), Duration::ZERO);
        for (second, members) in (0_u64..).zip(steps) {
            let now = Duration::from_secs(second * 2);
            reports.set_members(Arc::new(members.clone()), now);
            for at in [now, now + Duration::from_secs(1)] {
                let records = reports.take(at, |_, _| false).into_iter().flat_map(|report| report.records);
                records.for_each(|record| _ = router.take(&record));
                prop_assert_eq!(&router.knows(), &members);
            }
        }
    }

    /// What all together want is what any of them wants, and never a group that no router forwards.
    #[test]
    fn all_hosts_together(
        hosts in vec(btree_map(crate::model::group(), filter(), 0..5), 0..4),
        source in source(),
        group in crate::model::group(),
    ) {
        let announced = hosts.iter().map(|groups| {
            let memberships = Memberships { groups: groups.clone(), router: false };
            Arc::new(AdvertisedNetwork { memberships, ..AdvertisedNetwork::default() })
        });
        let members = RemoteMembers::new(announced).members();
        let is_wanted = hosts.iter().any(|groups| groups.get(&group).is_some_and(|filter| filter.admits(source)));
        let is_reported = members.get(&group).is_some_and(|filter| filter.admits(source));
        prop_assert_eq!(is_reported, is_wanted && !is_link_local(group));
    }

    /// Questions about sources are answered with those of them that are wanted.
    #[test]
    fn sources_that_are_asked_about(filter in filter().prop_filter("nobody", is_wanted), asked in btree_set(source(), 1..4)) {
        let group = ip("239.1.1.1");
        let (mut reports, now) = settled(&Arc::new(BTreeMap::from([(group, filter.clone())])));
        reports.hear(Query { sources: asked.clone(), ..query(Version::Third, Some(group)) }, now);
        let answered: BTreeSet<IpAddr> = said(&mut reports, now).into_iter().flat_map(|(.., sources)| sources).collect();
        prop_assert_eq!(answered, asked.into_iter().filter(|source| filter.admits(*source)).collect());
    }
}

#[test]
fn a_new_router_is_told_everything_and_the_others_nothing() {
    let all = members(&[("239.1.1.1", SourceFilter::all()), ("239.1.1.2", include(&["10.0.0.1"]))]);
    let (mut reports, now) = settled(&all);
    reports.set_routers(&BTreeSet::from([PORT, 9]), now);
    let told = reports.take(now, |_, _| false);
    assert_eq!(told.iter().map(|report| report.port).collect::<Vec<_>>(), [9]);
    assert_eq!(told[0].records.iter().map(|record| record.group).collect::<BTreeSet<_>>().len(), 2);
}

#[test]
fn a_change_is_told_twice_and_no_more() {
    let (mut reports, now) = settled(&members(&[]));
    reports.set_members(members(&[("239.1.1.1", SourceFilter::all())]), now);
    let joined = vec![(RecordKind::ToExclude, ip("239.1.1.1"), vec![])];
    assert_eq!((reports.wake(), said(&mut reports, now)), (Some(now), joined.clone()));
    let again = reports.wake().unwrap();
    assert!(again > now && again <= now + Duration::from_secs(1));
    assert_eq!(
        (said(&mut reports, again), said(&mut reports, again + Duration::from_secs(5))),
        (joined, vec![])
    );

    reports.set_members(members(&[]), again);
    assert_eq!(said(&mut reports, again), [(RecordKind::ToInclude, ip("239.1.1.1"), vec![])]);
}

#[test]
fn a_query_is_answered_within_its_time_however_many_groups_there_are() {
    let group = |number: u32| IpAddr::from(std::net::Ipv4Addr::from(0xef01_0000 + number));
    let all: Arc<Members> =
        Arc::new((0..10_000).map(|number| (group(number), SourceFilter::all())).collect());
    let mut reports = Reports::default();
    reports.set_members(all.clone(), Duration::ZERO);
    reports.set_routers(&BTreeSet::from([PORT]), Duration::ZERO);
    while reports.wake().unwrap() < Duration::from_secs(60) {
        let now = reports.wake().unwrap();
        reports.take(now, |_, _| false);
    }
    let asked_at = Duration::from_secs(60);
    reports.hear(query(Version::Third, None), asked_at);
    let mut told = BTreeSet::new();
    while told.len() < all.len() {
        let now = reports.wake().unwrap();
        assert!(
            now <= asked_at + Duration::from_secs(10),
            "{} of {} by {now:?}",
            told.len(),
            all.len()
        );
        let groups: Vec<_> =
            said(&mut reports, now).into_iter().map(|(_, group, _)| group).collect();
        assert!(groups.len() <= 200);
        told.extend(groups);
        // Somebody who asks time and again is told all the same.
        reports.hear(query(Version::Third, None), now);
    }
}

#[test]
fn queries_of_older_versions_are_answered_in_theirs_while_they_go_on() {
    let group = ip("239.1.1.1");
    let all = members(&[("239.1.1.1", include(&["10.0.0.1"]))]);
    for (version, leaves) in [(Version::First, 0), (Version::Second, 1)] {
        let (mut reports, now) = settled(&all);
        reports.hear(query(version, None), now);
        let told = reports.take(now, |_, _| false);
        assert_eq!(
            (told[0].version, told[0].records.len(), &told[0].records[0].sources),
            (version, 1, &vec![])
        );
        reports.set_members(members(&[]), now);
        assert_eq!(said(&mut reports, now).len(), leaves, "{version:?}");
        reports.set_members(all.clone(), now);
        assert_eq!(said(&mut reports, now), [(RecordKind::IsExclude, group, vec![])]);

        let later = now + Duration::from_secs(300);
        reports.hear(query(Version::Third, None), later);
        let told = reports.take(later, |_, _| false);
        // Beside the change, which is told a second time.
        let last = told[0].records.last().map(|record| record.kind);
        assert_eq!((told[0].version, last), (Version::Third, Some(RecordKind::IsInclude)));
    }
}

/// The kernel of a member that hears a report of an older version keeps its own to itself: shoutd's
/// bridge would lose it.
#[test]
fn a_router_that_is_a_member_itself_is_not_kept_from_reporting() {
    let (mut reports, now) = settled(&members(&[("239.1.1.1", SourceFilter::all())]));
    for (version, told) in [(Version::Third, 1), (Version::Second, 0)] {
        reports.hear(query(version, None), now);
        assert_eq!(reports.take(now, |port, _| port == PORT).len(), told, "{version:?}");
    }
}

#[test]
fn without_a_router_nothing_is_kept_and_nothing_due() {
    let (mut reports, now) = settled(&members(&[("239.1.1.1", SourceFilter::all())]));
    reports.hear(query(Version::Second, None), now);
    reports.set_routers(&BTreeSet::new(), now);
    reports.set_members(members(&[]), now);
    assert_eq!((reports.wake(), reports.take(now, |_, _| false)), (None, vec![]));
    assert_eq!(reports, Reports::default());
}

#[test]
fn a_report_comes_from_a_container_elsewhere_on_the_same_subnet() {
    let endpoint = |addresses: &[&str]| AdvertisedEndpoint {
        mac: MacAddress::for_ipv4([10, 0, 0, 1].into()),
        addresses: addresses.iter().map(|address| ip(address)).collect(),
        names: BTreeSet::new(),
    };
    let id = |digit: &str| digit.repeat(64).parse().unwrap();
    let network = AdvertisedNetwork {
        endpoints: BTreeMap::from([
            (id("a"), endpoint(&["10.1.0.9", "fd00::9"])),
            (id("b"), endpoint(&["10.0.0.8"])),
            (id("c"), endpoint(&["10.0.0.7"])),
        ]),
        ..AdvertisedNetwork::default()
    };
    let elsewhere = RemoteMembers::new([Arc::new(network)].into_iter());
    let from = |port: &[&str]| {
        let port: Vec<IpNet> = port.iter().map(|address| address.parse().unwrap()).collect();
        elsewhere.address_for(port.iter()).to_string()
    };
    assert_eq!(
        (from(&["fd00::1/64", "10.0.0.1/24"]), from(&["10.2.0.1/16"])),
        ("10.0.0.7".into(), "0.0.0.0".into())
    );
    // Nobody believes a report that comes from himself.
    assert_eq!(from(&["10.1.0.9/24"]), "0.0.0.0");
}

#[test]
fn there_is_a_limit_to_what_is_reported() {
    let groups = (0..=u32::try_from(REPORTED_GROUPS_MAX).unwrap())
        .map(|number| (std::net::Ipv4Addr::from(0xe800_0000 + number).into(), SourceFilter::all()));
    let memberships = Memberships { groups: groups.collect(), router: false };
    let network = AdvertisedNetwork { memberships, ..AdvertisedNetwork::default() };
    assert_eq!(
        RemoteMembers::new([Arc::new(network)].into_iter()).members().len(),
        REPORTED_GROUPS_MAX
    );
}
