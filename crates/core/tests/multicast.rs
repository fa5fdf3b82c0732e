//! Who gets what: replication and forwarding tables against models that are too simple to be wrong.

#![expect(clippy::unwrap_used, reason = "a test says what it expects by failing")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use shoutd_core::MacAddress;
use shoutd_core::announce::AnnouncedNetwork;
use shoutd_core::limits::{KEPT_SOURCES_MAX, REPLICATED_MAX};
use shoutd_core::multicast::{
    Database, Knowledge, Memberships, Remote, Replication, SourceFilter, goes_to_every_host, group_mac, is_announced,
    is_link_local, replication_within,
};
use shoutd_core::plane::{Change, Destination, DeviceName, Filter, Forwarding, Segment, Tier, UNREGISTERED, Vtep};

/// As DDS uses them: the first is link-local, and who listens to it is announced, as the other has the same MAC address.
const OF_APPLICATIONS: [&str; 2] = ["ff02::ffff:239.255.0.1", "ff1e::ffff:239.255.0.1"];

fn group() -> impl Strategy<Value = IpAddr> {
    // The second and third share a MAC address; then link-local ones of each family, each with one of wider scope that has its address.
    let wide = ["232.1.1.1", "239.1.1.1", "238.129.1.1", "ff05::2:3", "ff12::7"];
    let shared = ["224.0.0.251", "239.0.0.251", "ff02::fb", "ff05::fb", "ff02::1:ff00:5", "ff05::1:ff00:5"];
    let groups = [wide.as_slice(), &shared, &OF_APPLICATIONS].concat();
    prop::sample::select(groups).prop_map(|text| text.parse().unwrap())
}

fn source() -> impl Strategy<Value = IpAddr> {
    prop::sample::select(vec!["10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2"]).prop_map(|text| text.parse().unwrap())
}

/// A source, and a group of its family.
fn packet() -> impl Strategy<Value = (IpAddr, IpAddr)> {
    (source(), group(), group()).prop_map(|(source, group, other)| {
        let groups = [group, other, "239.1.1.1".parse().unwrap(), "ff05::2:3".parse().unwrap()];
        (source, groups.into_iter().find(|group| group.is_ipv4() == source.is_ipv4()).unwrap())
    })
}

fn host() -> impl Strategy<Value = IpAddr> {
    (1_u8..6).prop_map(|last| Ipv4Addr::new(192, 0, 2, last).into())
}

fn filter() -> impl Strategy<Value = SourceFilter> {
    let sources = || btree_set(source(), 0..3);
    prop_oneof![sources().prop_map(SourceFilter::Include), sources().prop_map(SourceFilter::Exclude)]
}

prop_compose! {
    fn memberships()(groups in btree_map(group(), filter(), 0..5), router in proptest::bool::weighted(0.1)) -> Memberships {
        Memberships { groups, router }
    }
}

/// Hosts, each with what it listens to if that is known, and whether it is in sync.
type Hosts = BTreeMap<IpAddr, (Option<AnnouncedNetwork>, bool)>;

fn hosts_with(memberships: impl Strategy<Value = Memberships>) -> impl Strategy<Value = Hosts> {
    let announced = option::weighted(
        0.9,
        memberships.prop_map(|memberships| AnnouncedNetwork { memberships, ..AnnouncedNetwork::default() }),
    );
    btree_map(host(), (announced, proptest::bool::weighted(0.9)), 0..5)
}

fn hosts() -> impl Strategy<Value = Hosts> {
    hosts_with(memberships())
}

/// Hosts, and a packet; often with groups of applications alone, that share a MAC address.
fn scene() -> impl Strategy<Value = (Hosts, (IpAddr, IpAddr))> {
    let of_applications = || prop::sample::select(OF_APPLICATIONS.map(|text| text.parse::<IpAddr>().unwrap()).to_vec());
    let groups = btree_map(of_applications(), filter(), 0..3);
    let hosts_with_those = hosts_with(groups.prop_map(|groups| Memberships { groups, router: false }));
    let packet_to_those = (Just("fd00::1".parse().unwrap()), of_applications());
    prop_oneof![(hosts(), packet()), (hosts_with_those, packet_to_those)]
}

fn replicated(hosts: &Hosts, most: usize) -> Replication {
    let remotes: Vec<Remote<'_>> = hosts
        .iter()
        .map(|(address, (announced, in_sync))| Remote {
            address: *address,
            announced: announced.as_ref(),
            in_sync: *in_sync,
        })
        .collect();
    replication_within(&remotes, most)
}

/// How many entries there is room for: for all, or for few.
fn room() -> impl Strategy<Value = usize> {
    prop_oneof![Just(REPLICATED_MAX), 0..6_usize]
}

/// Whether a host is to get what a source sends to a group.
fn gets(announced: Option<&AnnouncedNetwork>, in_sync: bool, source: IpAddr, group: IpAddr) -> bool {
    let Some(network) = announced.filter(|_| in_sync) else {
        return true;
    };
    let memberships = &network.memberships;
    memberships.router || memberships.groups.get(&group).is_some_and(|filter| filter.admits(source))
}

fn segment(replication: Replication) -> Segment {
    Segment {
        network: "a".repeat(64).parse().unwrap(),
        mtu: 1450,
        vtep: Vtep { address: Ipv4Addr::new(192, 0, 2, 99).into(), port: 7789 },
        remotes: BTreeSet::new(),
        replication: Arc::new(replication),
        remote_macs: BTreeMap::new(),
        learning: true,
        max_rate: None,
        ports: BTreeMap::new(),
    }
}

prop_compose! {
    fn any_segment()(
        hosts in hosts(),
        most in room(),
        remote_macs in btree_map((0_u8..4).prop_map(|last| MacAddress([2, 0, 0, 0, 0, last])), host(), 0..4),
    ) -> Segment {
        Segment { remote_macs, ..segment(replicated(&hosts, most)) }
    }
}

/// Where the kernel would send a packet by these tables: `None` is to every host (`vxlan_xmit`, `vxlan_mdb_entry_skb_get`).
fn looked_up(tables: &Forwarding, source: IpAddr, group: IpAddr) -> Option<BTreeSet<IpAddr>> {
    if !tables.filter.passes(group) {
        return Some(BTreeSet::new());
    }
    let catch_all = UNREGISTERED.iter().find(|(_, all)| all.is_ipv4() == group.is_ipv4()).unwrap();
    let all = tables.groups.get(catch_all).filter(|_| !is_link_local(group));
    let found = tables.groups.get(&(Some(source), group)).or_else(|| tables.groups.get(&(None, group))).or(all);
    let host = |to: &Destination| match to {
        Destination::Host(host) => Some(*host),
        Destination::Nowhere => None,
    };
    match found {
        Some(destinations) => Some(destinations.iter().filter_map(host).collect()),
        None => tables.group_macs.get(&group_mac(group)).cloned(),
    }
}

fn done(mut tables: Forwarding, changes: &[Change]) -> Forwarding {
    changes.iter().for_each(|change| tables.apply(change));
    tables
}

/// What a port listens to, entry by entry as a bridge has it.
fn entries(memberships: &Memberships) -> Vec<(IpAddr, Knowledge)> {
    let of_group = |(group, filter): (&IpAddr, &SourceFilter)| {
        let (mode, sources, blocked) = match filter {
            SourceFilter::Include(sources) => (Knowledge::Include, sources.clone(), false),
            SourceFilter::Exclude(sources) => (Knowledge::Exclude, sources.clone(), true),
        };
        let group = *group;
        let sources = sources.into_iter().map(move |source| (group, Knowledge::Source { source, blocked }));
        std::iter::once((group, mode)).chain(sources)
    };
    memberships.groups.iter().flat_map(of_group).collect()
}

proptest! {
    #[test]
    fn without_room_a_host_still_gets_what_it_wants(hosts in hosts(), most in 0..8_usize, (source, group) in packet()) {
        let (replication, whole) = (replicated(&hosts, most), replicated(&hosts, REPLICATED_MAX));
        prop_assert!(replication.groups.len() <= most && whole.beyond == 0);
        prop_assert_eq!(replication.beyond == 0, replication == whole);
        let receivers = replication.receivers(source, group);
        for (address, (announced, in_sync)) in hosts.iter().filter(|_| !is_link_local(group)) {
            let (gets, wants) = (receivers.unwrap().contains(address), gets(announced.as_ref(), *in_sync, source, group));
            prop_assert!(gets || !wants, "{}", address);
            // Only who wants something beyond gets a surplus, and of groups that are kept apart nobody does.
            let is_apart = replication.groups.contains_key(&(None, group));
            prop_assert!(wants || !gets || (replication.beyond > 0 && !is_apart), "{}", address);
        }
    }

    #[test]
    fn a_host_gets_what_it_wants_and_nothing_else(hosts in hosts(), (source, group) in packet()) {
        let replication = replicated(&hosts, REPLICATED_MAX);
        let tables = Forwarding::wanted(&segment(replication.clone()), Tier::VxlanMdb);
        let receivers = replication.receivers(source, group);
        prop_assert_eq!(receivers.is_none(), is_link_local(group));
        prop_assert_eq!(looked_up(&tables, source, group), receivers.cloned());
        for (address, (announced, in_sync)) in hosts.iter().filter(|_| !is_link_local(group)) {
            let wanted = gets(announced.as_ref(), *in_sync, source, group);
            prop_assert_eq!(receivers.unwrap().contains(address), wanted, "{}", address);
        }
    }

    #[test]
    fn no_entry_is_of_a_link_local_group_or_empty(segment in any_segment()) {
        prop_assert!(segment.replication.groups.keys().all(|(_, group)| !is_link_local(*group)));
        let tables = Forwarding::wanted(&segment, Tier::VxlanMdb);
        prop_assert!(tables.groups.values().all(|destinations| !destinations.is_empty()));
        prop_assert!(tables.group_macs.is_empty() && tables.filter == Filter::Off);
    }

    #[test]
    fn by_mac_addresses_no_listener_is_missed((hosts, (source, group)) in scene(), most in room()) {
        let tables = Forwarding::wanted(&segment(replicated(&hosts, most)), Tier::MulticastFdb);
        let receivers = looked_up(&tables, source, group);
        let is_shared = goes_to_every_host(group_mac(group));
        prop_assert!(receivers.is_none() || !is_shared || !is_link_local(group));
        // Of the link-local ones, those that are announced.
        if let Some(receivers) = receivers {
            for (address, (announced, in_sync)) in &hosts {
                prop_assert!(receivers.contains(address) || !gets(announced.as_ref(), *in_sync, source, group));
            }
        }
    }

    /// Of whatever sources: these are not told apart.
    #[test]
    fn by_mac_addresses_what_nobody_listens_to_goes_nowhere(hosts in hosts(), (source, group) in packet()) {
        let listens = |(announced, in_sync): &(Option<AnnouncedNetwork>, bool)| {
            let known = announced.as_ref().filter(|_| *in_sync).map(|network| &network.memberships);
            known.is_none_or(|memberships| {
                let nothing = SourceFilter::Include(BTreeSet::new());
                memberships.router || memberships.groups.get(&group).is_some_and(|filter| *filter != nothing)
            })
        };
        prop_assume!(!is_link_local(group) && !hosts.values().any(listens));
        let tables = Forwarding::wanted(&segment(replicated(&hosts, REPLICATED_MAX)), Tier::MulticastFdb);
        prop_assert_eq!(looked_up(&tables, source, group), Some(BTreeSet::new()));
    }

    /// What an earlier version may have left included.
    #[test]
    fn beside_what_is_there_no_link_local_group_misses_a_listener(
        found in btree_map(group(), btree_set(host(), 1..4), 0..4),
        (hosts, (source, group)) in scene(),
        provisional in any::<bool>(),
    ) {
        let replication = Replication { provisional, ..replicated(&hosts, REPLICATED_MAX) };
        let remotes = hosts.keys().copied().collect();
        let segment = Segment { remotes, ..segment(replication) };
        let group_macs = found.into_iter().map(|(group, remotes)| (group_mac(group), remotes)).collect();
        let found = Forwarding { group_macs, ..Forwarding::default() };
        let tables = Forwarding::wanted_beside(&found, &segment, Tier::MulticastFdb);
        let receivers = looked_up(&tables, source, group);
        prop_assert!(receivers.is_none() || !is_link_local(group) || !goes_to_every_host(group_mac(group)));
        if let Some(receivers) = receivers {
            for (address, (announced, in_sync)) in &hosts {
                prop_assert!(receivers.contains(address) || !gets(announced.as_ref(), *in_sync, source, group));
            }
        }
    }

    #[test]
    fn changes_lead_from_anything_to_what_is_wanted(
        before in any_segment(),
        after in any_segment(),
        tiers in (0_usize..3, 0_usize..3),
        is_broken in any::<bool>(),
    ) {
        let tier = |number: usize| [Tier::Flood, Tier::MulticastFdb, Tier::VxlanMdb][number];
        let filter = if is_broken { Filter::Broken } else { Forwarding::wanted(&before, tier(tiers.0)).filter };
        let there = Forwarding { filter, ..Forwarding::wanted(&before, tier(tiers.0)) };
        let wanted = Forwarding::wanted(&after, tier(tiers.1));
        prop_assert_eq!(done(there.clone(), &there.changes_to(&wanted)), wanted.clone());
        prop_assert_eq!(wanted.changes_to(&wanted), vec![]);
        let between = Forwarding::changes_between(&before, &after, tier(tiers.1));
        prop_assert_eq!(done(Forwarding::wanted(&before, tier(tiers.1)), &between), wanted);
    }

    /// After each single change, a host that gets a packet before and after gets it in between too; unless an entry of several hosts is being made or taken away, which takes the kernel
    /// several steps.
    #[test]
    fn nobody_misses_anything_while_tables_change(
        before in any_segment(),
        after in any_segment(),
        tiers in (0_usize..3, 0_usize..3),
        (source, group) in packet(),
    ) {
        let tier = |number: usize| [Tier::Flood, Tier::MulticastFdb, Tier::VxlanMdb][number];
        let mut tables = Forwarding::wanted(&before, tier(tiers.0));
        let wanted = Forwarding::wanted(&after, tier(tiers.1));
        let all: BTreeSet<IpAddr> = (1..6).map(|last| Ipv4Addr::new(192, 0, 2, last).into()).collect();
        let at = |tables: &Forwarding| looked_up(tables, source, group).unwrap_or_else(|| all.clone());
        let always = &at(&tables) & &at(&wanted);
        let changes = tables.changes_to(&wanted);
        let entry = |change: &Change| match change {
            Change::Group { key, add, .. } => Some((Some(*key), None, *add)),
            Change::GroupMac { mac, add, .. } => Some((None, Some(*mac), *add)),
            _ => None,
        };
        for steps in changes.chunk_by(|a, b| entry(a).is_some() && entry(a) == entry(b)) {
            steps.iter().for_each(|change| tables.apply(change));
            prop_assert!(at(&tables).is_superset(&always), "after {:?}", steps);
        }
    }

    /// While the kernel makes an entry, or takes one away, host by host, as few as can be miss what they get before and after.
    #[test]
    fn an_entry_is_made_of_those_first_that_get_its_packets_without_it(before in any_segment(), after in any_segment()) {
        let mut tables = Forwarding::wanted(&before, Tier::VxlanMdb);
        let changes = tables.changes_to(&Forwarding::wanted(&after, Tier::VxlanMdb));
        for steps in changes.chunk_by(Change::is_of_same_entry) {
            let was = tables.clone();
            steps.iter().for_each(|change| tables.apply(change));
            let Some(Change::Group { key, add, .. }) = steps.first() else {
                continue;
            };
            let without = if *add { &was } else { &tables };
            if without.groups.contains_key(key) || key.1.is_unspecified() {
                continue;
            }
            let source = key.0.unwrap_or(Ipv4Addr::new(198, 51, 100, 1).into());
            let served = looked_up(without, source, key.1);
            let is_served = |change: &Change| match change {
                Change::Group { to: Destination::Host(host), .. } => served.as_ref().is_none_or(|all| all.contains(host)),
                _ => false,
            };
            prop_assert!(steps.iter().is_sorted_by_key(|step| is_served(step) != *add), "{steps:?} beside {served:?}");
        }
    }

    /// While it is not known what all hosts listen to, no entry is taken away of which a host would miss the rest.
    #[test]
    fn nobody_misses_anything_while_not_all_is_known(
        before in any_segment(),
        after in any_segment(),
        by_mac in any::<bool>(),
        (source, group) in packet(),
    ) {
        prop_assume!(after.replication.provisional);
        let all: BTreeSet<IpAddr> = (1..6).map(|last| Ipv4Addr::new(192, 0, 2, last).into()).collect();
        let after = Segment { remotes: all.clone(), ..after };
        let tier = if by_mac { Tier::MulticastFdb } else { Tier::VxlanMdb };
        let mut tables = Forwarding::wanted(&before, tier);
        let wanted = Forwarding::wanted_beside(&tables, &after, tier);
        let at = |tables: &Forwarding| looked_up(tables, source, group).unwrap_or_else(|| all.clone());
        // What would be there with nothing kept is sent at least.
        prop_assert!(at(&wanted).is_superset(&(&at(&Forwarding::wanted(&after, tier)) & &after.remotes)));
        let always = &at(&tables) & &at(&wanted);
        for change in tables.changes_to(&wanted) {
            tables.apply(&change);
            if !matches!(change, Change::Group { add: true, .. } | Change::GroupMac { add: true, .. }) {
                prop_assert!(at(&tables).is_superset(&always), "after {:?}", change);
            }
        }
        prop_assert_eq!(&tables, &wanted);
    }

    /// Entries for sources that nobody names any more send as the group's own does, and they stay for as long as that is anybody's; so no host misses the rest of one that is taken away.
    #[test]
    fn nobody_misses_anything_when_sources_are_not_named_any_more(
        before in any_segment(),
        after in any_segment(),
        (source, group) in packet(),
    ) {
        prop_assume!(!after.replication.provisional);
        let tier = Tier::VxlanMdb;
        let (mut tables, alone) = (Forwarding::wanted(&before, tier), Forwarding::wanted(&after, tier));
        let wanted = Forwarding::wanted_beside(&tables, &after, tier);
        prop_assert_eq!(looked_up(&wanted, source, group), looked_up(&alone, source, group));
        prop_assert_eq!(wanted.has_more_groups_than(&after), wanted != alone);
        prop_assert_eq!(Forwarding::keeps_sources(&before, &after), wanted != alone);
        let is_listened_to =
            |segment: &Segment| segment.replication.groups.get(&(None, group)).is_some_and(|all| !all.is_empty());
        for change in tables.changes_to(&wanted) {
            let was = looked_up(&tables, source, group);
            tables.apply(&change);
            let is_removal = matches!(change, Change::Group { add: false, .. });
            if is_removal && !is_link_local(group) && is_listened_to(&before) && is_listened_to(&after) {
                let is = looked_up(&tables, source, group).unwrap();
                let always = &was.unwrap() & &looked_up(&wanted, source, group).unwrap();
                prop_assert!(is.is_superset(&always), "after {:?}", change);
            }
        }
        prop_assert_eq!(&tables, &wanted);
    }

    #[test]
    fn memberships_are_what_all_ports_want_together(
        ports in vec(memberships(), 0..4),
        (source, group) in packet(),
        order in any::<u64>(),
    ) {
        let mut database = Database::default();
        let mut all: Vec<(u32, IpAddr, Knowledge)> = Vec::new();
        for (port, memberships) in (0_u32..).zip(&ports) {
            all.extend(entries(memberships).into_iter().map(|(group, knowledge)| (port, group, knowledge)));
            database.set_router(port, memberships.router);
        }
        // In whatever order they are heard of.
        all.sort_by_key(|(port, group, knowledge)| {
            let text = format!("{order}{port}{group}{knowledge:?}");
            text.bytes().fold(order, |hash, byte| hash.wrapping_mul(31).wrapping_add(u64::from(byte)))
        });
        for (port, group, knowledge) in &all {
            database.learn(*port, *group, *knowledge);
        }
        let wants = |memberships: &Memberships| memberships.groups.get(&group).is_some_and(|f| f.admits(source));
        let found = database.memberships().clone();
        prop_assert_eq!(found.router, ports.iter().any(|memberships| memberships.router));
        prop_assert_eq!(wants(&found), is_announced(group) && ports.iter().any(wants));

        // The first port's container ends.
        for (port, group, knowledge) in all.iter().filter(|(port, ..)| *port == 0) {
            let source = match knowledge {
                Knowledge::Source { source, .. } => Some(*source),
                _ => None,
            };
            database.forget(*port, *group, source);
        }
        // What changed leads from nothing to what there is, and so does what differs from an earlier database.
        let mut noted = Database::default();
        std::mem::swap(&mut noted, &mut database);
        noted.note_changes_since(Database::default());
        let groups: BTreeMap<IpAddr, SourceFilter> =
            noted.take_changes().into_iter().filter_map(|(group, filter)| Some((group, filter?))).collect();
        prop_assert_eq!(&groups, &noted.memberships().groups);
        prop_assert_eq!(noted.take_changes(), vec![]);
        let mut database = noted;
        let rest = ports.iter().skip(1).any(wants);
        prop_assert_eq!(wants(database.memberships()), is_announced(group) && rest);
        prop_assert!(!database.entries_per_port().contains_key(&0));
        // Each entry counts once, on however many ports it is.
        let each = all.iter().filter(|(port, ..)| *port != 0).map(|(_, group, knowledge)| match knowledge {
            Knowledge::Source { source, .. } => (*group, Some(*source)),
            _ => (*group, None),
        });
        prop_assert_eq!(database.entries(), each.collect::<BTreeSet<_>>().len());
    }
}

#[test]
fn ports_are_pinned_where_endpoints_are() {
    let mut segment = segment(Replication::default());
    let mac = MacAddress([2, 0, 0, 0, 0, 9]);
    segment.remote_macs.insert(mac, Ipv4Addr::new(192, 0, 2, 1).into());
    let tables = Forwarding::wanted(&segment, Tier::Flood);
    assert_eq!(tables.ports, BTreeMap::from([(mac, DeviceName::tunnel())]));
    assert_eq!(tables.remote_macs, segment.remote_macs);
}

/// What a daemon finds that was just started, and what it wants while it has not heard of all hosts.
fn found_and_wanted() -> (Forwarding, Segment) {
    let host = |last| IpAddr::from(Ipv4Addr::new(192, 0, 2, last));
    let mac = |last| MacAddress([2, 0, 0, 0, 0, last]);
    let mut before = segment(Replication::default());
    before.remotes = [2, 3].map(host).into();
    before.remote_macs = [(9, 2), (8, 3), (7, 4)].map(|(last, at)| (mac(last), host(at))).into();
    Arc::make_mut(&mut before.replication).groups =
        [1, 2, 3].map(|last| ((None, Ipv4Addr::new(239, 0, 0, last).into()), [host(2)].into())).into();
    let found = Forwarding::wanted(&before, Tier::VxlanMdb);
    let mut after =
        segment(Replication { provisional: true, unregistered: [host(2)].into(), ..Replication::default() });
    after.remotes = before.remotes;
    (found, after)
}

#[test]
fn endpoints_stay_pinned_while_it_is_not_known_what_their_hosts_have() {
    let mac = |last| MacAddress([2, 0, 0, 0, 0, last]);
    let (found, mut after) = found_and_wanted();
    let pinned = |after: &Segment| {
        let wanted = Forwarding::wanted_beside(&found, after, Tier::VxlanMdb);
        assert!(wanted.ports.keys().eq(wanted.remote_macs.keys()));
        wanted.remote_macs.into_iter().map(|(mac, host)| (mac.0[5], host.to_string())).collect::<Vec<_>>()
    };
    // Of host 3 it is known that it has none, of host 4 it is not even known that it has the network.
    assert_eq!(pinned(&after), [(7, "192.0.2.4".to_owned()), (9, "192.0.2.2".to_owned())]);
    // Unless they are wanted elsewhere.
    after.remote_macs.insert(mac(9), Ipv4Addr::new(192, 0, 2, 3).into());
    assert_eq!(pinned(&after), [(7, "192.0.2.4".to_owned()), (9, "192.0.2.3".to_owned())]);
    Arc::make_mut(&mut after.replication).provisional = false;
    assert_eq!(pinned(&after), [(9, "192.0.2.3".to_owned())]);
}

#[test]
fn what_is_kept_has_a_limit() {
    let (found, after) = found_and_wanted();
    let kept = |groups, pins| {
        let wanted = Forwarding::wanted_beside_within(&found, &after, Tier::VxlanMdb, (groups, pins));
        (wanted.groups.len(), wanted.remote_macs.len())
    };
    // Those of all other groups of each family are wanted.
    assert_eq!(kept(4, 1), (4, 1));
    assert_eq!(kept(0, 0), (2, 0));
    assert_eq!(kept(100, 100), (5, 2));
}

#[test]
fn sources_that_nobody_names_any_more_have_a_limit_for_each_group() {
    let host = |last| BTreeSet::from([IpAddr::from(Ipv4Addr::new(192, 0, 2, last))]);
    let group = |last| IpAddr::from(Ipv4Addr::new(239, 0, 0, last));
    let mut before = Replication::default();
    let sources = (0..=255).map(|last| Some(IpAddr::from(Ipv4Addr::new(10, 0, 0, last))));
    before.groups.extend(sources.flat_map(|source| [1, 2, 3].map(|last| ((source, group(last)), host(2)))));
    // Of the first two somebody listens to all sources, of the third nobody does.
    let mut after = Replication::default();
    after.groups.extend([1, 2].map(|last| ((None, group(last)), host(last))));
    after.groups.insert((None, group(3)), BTreeSet::new());
    let found = Forwarding::wanted(&segment(before), Tier::VxlanMdb);
    let wanted = Forwarding::wanted_beside(&found, &segment(after), Tier::VxlanMdb);
    let kept =
        |last| wanted.groups.iter().filter(|(key, _)| key.0.is_some() && key.1 == group(last)).collect::<Vec<_>>();
    assert_eq!([1, 2, 3].map(|last| kept(last).len()), [KEPT_SOURCES_MAX, KEPT_SOURCES_MAX, 0]);
    for last in [1, 2] {
        let to = host(last).into_iter().map(Destination::Host).collect::<BTreeSet<_>>();
        assert!(kept(last).iter().all(|(_, destinations)| **destinations == to));
    }
}

/// As many entries of one group as a bridge has room for, of a thousand ports: what all want together is worked out once. Entry by entry it would take hours.
#[test]
fn a_crowd_in_one_group_is_taken_in_at_once() {
    let group = IpAddr::from(Ipv4Addr::new(239, 1, 1, 1));
    let mut database = Database::default();
    for port in 0..1000_u32 {
        database.learn(port, group, Knowledge::Include);
        for number in 0..32 {
            let source = Ipv4Addr::from(0x0a00_0000 + port * 32 + number).into();
            database.learn(port, group, Knowledge::Source { source, blocked: false });
        }
    }
    assert_eq!(database.entries(), 32_001);
    assert!(matches!(&database.memberships().groups[&group], SourceFilter::Include(all) if all.len() == 32_000));
    for port in 1..1000_u32 {
        for number in 0..32 {
            database.forget(port, group, Some(Ipv4Addr::from(0x0a00_0000 + port * 32 + number).into()));
        }
        database.forget(port, group, None);
    }
    assert_eq!(database.entries(), 33);
    assert!(matches!(&database.memberships().groups[&group], SourceFilter::Include(all) if all.len() == 32));
}
