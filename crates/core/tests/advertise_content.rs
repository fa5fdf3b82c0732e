//! What a host advertises and to which hosts, and that it keeps within the limits.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use shoutd_core::advertise::{
    AdvertisedNetwork, Delta, PeerState, PeerStates, audience, expectations, own_content,
};
use shoutd_core::cluster::{Cluster, Command, Settings};
use shoutd_core::limits::{ADVERTISED_GROUPS_MAX, ADVERTISED_ITEMS_MAX, ADVERTISED_SOURCES_MAX};
use shoutd_core::local::{Endpoint, Local};
use shoutd_core::multicast::{Memberships, SourceFilter};
use shoutd_core::plane::{
    Action, Desired, GATEWAY_MAC, Observed, ObservedBridge, ObservedSegment, OwnerTag,
    ReplicationCache, Underlay, desired, diff,
};
use shoutd_core::{EndpointId, MacAddress, Vni};

use crate::common::{cluster_of, host, network_id, pool, settings};

const HOSTS: u64 = 5;
const NETWORKS: u8 = 8;

/// Hosts 1 to 5 and networks 0 to 7, with these hosts attached.
fn cluster(attached: &BTreeSet<(u8, u64)>) -> Cluster {
    let mut cluster = cluster_of(HOSTS);
    let creations = (0..NETWORKS).map(|index| {
        let settings =
            Settings { docker_ipam: false, ..settings(pool(&format!("10.{index}.0.0/16"))) };
        Command::CreateNetwork { id: network_id(index), origin: host(1), settings }
    });
    let attachments = attached
        .iter()
        .map(|(index, id)| Command::Attach { network: network_id(*index), host: host(*id) });
    for command in creations.chain(attachments) {
        cluster.apply(&command).unwrap();
    }
    cluster
}

/// A host with one endpoint on each of these networks.
fn local(networks: impl IntoIterator<Item = u8>) -> Local {
    let mut local = Local::default();
    for index in networks {
        let id: EndpointId = format!("e{index:015x}").parse().unwrap();
        let endpoint = Endpoint {
            network: network_id(index),
            addresses: [format!("10.{index}.0.1/16").parse().unwrap()].into(),
            mac: MacAddress([2, 0, 0, 0, 0, index]),
            sandbox: None,
            multicast_routes: BTreeSet::new(),
            interface_name: None,
            default_route: None,
            created: Duration::ZERO,
            left: None,
            container: None,
        };
        local.add_endpoint(id, endpoint).unwrap();
    }
    local
}

fn vni(cluster: &Cluster, index: u8) -> Vni {
    cluster.networks[&network_id(index)].vni
}

fn groups(count: usize) -> Memberships {
    let mut memberships = Memberships::default();
    for index in 0..u32::try_from(count).unwrap() {
        let group = IpAddr::V4(Ipv4Addr::from(0xef00_0000 + index));
        memberships.groups.insert(group, SourceFilter::all());
    }
    memberships
}

fn source(index: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + u32::try_from(index).unwrap()))
}

fn pairs() -> impl Strategy<Value = BTreeSet<(u8, u64)>> {
    proptest::collection::btree_set((0..NETWORKS, 1..=HOSTS), 0..20)
}

const UNDERLAY: Underlay = Underlay { address: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), mtu: 9000 };

/// An advertisement with this MTU, after serialization.
fn with_mtu(mtu: Option<u16>) -> Arc<AdvertisedNetwork> {
    let content =
        [(network_id(0), Arc::new(AdvertisedNetwork { mtu, ..AdvertisedNetwork::default() }))]
            .into();
    let text =
        serde_json::to_string(&Delta::between(&BTreeMap::new(), &content, usize::MAX).0).unwrap();
    assert_eq!(text.contains("mtu"), mtu.is_some(), "{text}");
    let delta: Delta = serde_json::from_str(&text).unwrap();
    delta.check().unwrap();
    let mut peers = BTreeMap::new();
    delta.apply(&mut peers);
    peers[&network_id(0)].clone()
}

/// What host 1 desires, with a container on network 0 and this MTU of the underlay.
fn desired_by_first(cluster: &Cluster, peers: &PeerStates, mtu: u16) -> Desired {
    let underlay = Underlay { mtu, ..UNDERLAY };
    desired(cluster, &local([0]), host(1), underlay, peers, &mut ReplicationCache::default())
}

#[test]
fn a_network_has_the_least_mtu_of_all_its_hosts() {
    let cluster = cluster(&[(0, 1), (0, 2), (0, 3)].into());
    let (content, _) = own_content(&cluster, &local([0]), &BTreeMap::new(), UNDERLAY);
    assert_eq!(content[&network_id(0)].mtu, Some(8950));
    let mut peers = PeerStates::default();
    let alone = desired_by_first(&cluster, &peers, UNDERLAY.mtu);
    assert_eq!(alone.segments[&vni(&cluster, 0)].mtu, 8950);
    // A host of an earlier version does not advertise an MTU.
    for (id, says, expected) in [(2, None, 8950), (3, Some(1450), 1450), (3, Some(8950), 8950)] {
        let networks = [(network_id(0), with_mtu(says))].into();
        peers.hosts.insert(host(id), Arc::new(PeerState { in_sync: true, networks }));
        let desired = desired_by_first(&cluster, &peers, UNDERLAY.mtu);
        assert_eq!(desired.segments[&vni(&cluster, 0)].mtu, expected);
    }
}

#[test]
fn an_mtu_does_not_grow_before_all_hosts_are_in_sync() {
    let cluster = cluster(&[(0, 1), (0, 2)].into());
    let mut there = Observed::default();
    let vni = vni(&cluster, 0);
    let mark = Some(OwnerTag::Network(network_id(0)));
    let bridge = ObservedBridge {
        mark,
        mac: GATEWAY_MAC,
        addresses: BTreeSet::new(),
        forwards: false,
        mtu: 1450,
        up: true,
        snooping: true,
        querier: true,
        igmp_version: 3,
        mld_version: 2,
        groups_max: 65_536,
        membership_interval: 51_000,
        multicast_router: 2,
        learned_max: None,
        link_local: true,
    };
    there
        .segments
        .insert(vni, ObservedSegment { bridge: Some(bridge), ..ObservedSegment::default() });
    let (none, mut peers) = (PeerStates::default(), PeerStates::default());
    let networks = [(network_id(0), with_mtu(Some(8950)))].into();
    peers.hosts.insert(host(2), Arc::new(PeerState { in_sync: true, networks }));
    for (peers, mtu, expected) in
        [(&none, 9000, vec![]), (&none, 1400, vec![1350]), (&peers, 9000, vec![8950])]
    {
        let plan = diff(&desired_by_first(&cluster, peers, mtu), &there);
        let tuned: Vec<u16> = plan
            .into_iter()
            .filter_map(|action| match action {
                Action::TuneBridge { mtu, .. } => Some(mtu),
                _ => None,
            })
            .collect();
        assert_eq!(tuned, expected);
    }
}

proptest! {
    #[test]
    fn only_hosts_that_share_a_network_get_its_advertisement(
        attached in pairs(),
        advertised in pairs(),
        mine in proptest::collection::btree_set(0..NETWORKS, 0..5),
    ) {
        let (cluster, me) = (cluster(&attached), host(1));
        let mut peers = PeerStates::default();
        for (index, id) in advertised.iter().filter(|(_, id)| *id != 1) {
            let entry: &mut PeerState = Arc::make_mut(peers.hosts.entry(host(*id)).or_default());
            entry.networks.insert(network_id(*index), Arc::default());
        }
        let (content, over_limit) =
            own_content(&cluster, &local(mine.clone()), &BTreeMap::new(), UNDERLAY);
        prop_assert!(over_limit.is_empty());
        prop_assert!(
            content.keys().eq(mine
                .iter()
                .map(|index| network_id(*index))
                .collect::<BTreeSet<_>>()
                .iter())
        );
        let audience = audience(&cluster, me, &content, &peers);
        let expected = expectations(&cluster, me, &content);
        prop_assert!(!audience.contains_key(&me) && !expected.contains_key(&me));
        for id in 2..=HOSTS {
            for index in 0..NETWORKS {
                let is_sent = audience
                    .get(&host(id))
                    .is_some_and(|content| content.contains_key(&network_id(index)));
                let shares = attached.contains(&(index, id)) || advertised.contains(&(index, id));
                // While our attachment is not agreed, we cannot know who must be told.
                let is_agreed = attached.contains(&(index, 1));
                prop_assert_eq!(is_sent, mine.contains(&index) && (shares || !is_agreed));
                let is_expected =
                    expected.get(&host(id)).is_some_and(|ids| ids.contains(&network_id(index)));
                prop_assert_eq!(
                    is_expected,
                    mine.contains(&index) && attached.contains(&(index, id))
                );
            }
        }
    }

    /// The cache of earlier replications has no effect on the result.
    #[test]
    fn the_desired_state_depends_on_the_current_advertisements_only(
        attached in pairs(),
        rounds in proptest::collection::vec(
            (0..NETWORKS, 2..=HOSTS, 0..3_usize, any::<bool>()),
            1..20,
        ),
    ) {
        let (cluster, local) = (cluster(&attached), local(0..4));
        let underlay = Underlay { address: IpAddr::from([192, 0, 2, 1]), mtu: 1500 };
        let (mut peers, mut cache) = (PeerStates::default(), ReplicationCache::default());
        for (index, from, count, in_sync) in rounds {
            let advertised =
                AdvertisedNetwork { memberships: groups(count), ..AdvertisedNetwork::default() };
            let entry: &mut PeerState = Arc::make_mut(peers.hosts.entry(host(from)).or_default());
            entry.networks.insert(network_id(index), Arc::new(advertised));
            entry.in_sync = in_sync;
            let found = desired(&cluster, &local, host(1), underlay, &peers, &mut cache);
            prop_assert_eq!(
                &found,
                &desired(
                    &cluster,
                    &local,
                    host(1),
                    underlay,
                    &peers,
                    &mut ReplicationCache::default()
                )
            );
            let again = desired(&cluster, &local, host(1), underlay, &peers, &mut cache);
            for (one, other) in again.segments.values().zip(found.segments.values()) {
                prop_assert!(Arc::ptr_eq(&one.replication, &other.replication));
            }
        }
    }

    /// Containers can send reports for any address, and the bridge accepts them.
    #[test]
    fn peers_accept_the_advertisement_for_any_reports(
        reported in proptest::collection::btree_map(any::<IpAddr>(), any::<bool>(), 0..20),
        group in any::<[u8; 3]>(),
    ) {
        let group = IpAddr::from([239, group[0], group[1], group[2]]);
        let mut groups = BTreeMap::new();
        for (address, include) in reported {
            let filter =
                if include { SourceFilter::Include([group].into()) } else { SourceFilter::all() };
            groups.insert(address, filter);
        }
        groups.insert(group, SourceFilter::all());
        let cluster = cluster(&BTreeSet::new());
        let memberships = [(vni(&cluster, 0), Memberships { groups, router: false })].into();
        let (content, _) = own_content(&cluster, &local([0]), &memberships, UNDERLAY);
        prop_assert_eq!(Delta::between(&BTreeMap::new(), &content, usize::MAX).0.check(), Ok(()));
        prop_assert!(content[&network_id(0)].memberships.groups.contains_key(&group));
    }

    #[test]
    fn a_bounded_filter_is_never_narrower(include: bool, count in 0..2 * ADVERTISED_SOURCES_MAX) {
        let sources: BTreeSet<_> = (0..count).map(source).collect();
        let wanted =
            if include { SourceFilter::Include(sources) } else { SourceFilter::Exclude(sources) };
        let group = IpAddr::from([239, 0, 0, 1]);
        let cluster = cluster(&BTreeSet::new());
        let memberships = Memberships { groups: [(group, wanted.clone())].into(), router: false };
        let memberships = [(vni(&cluster, 0), memberships)].into();
        let (content, _) = own_content(&cluster, &local([0]), &memberships, UNDERLAY);
        let advertised = &content[&network_id(0)].memberships.groups[&group];
        for index in 0..count + 1 {
            prop_assert!(advertised.admits(source(index)) || !wanted.admits(source(index)));
        }
        prop_assert!(*advertised == wanted || count > ADVERTISED_SOURCES_MAX);
    }
}

proptest! {
    // Each case has up to 100,000 groups.
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn an_advertisement_within_the_limits_omits_no_membership(
        sizes in proptest::collection::vec(
            prop_oneof![0..100usize, 10_000..20_000usize],
            usize::from(NETWORKS),
        ),
    ) {
        let cluster = cluster(&BTreeSet::new());
        let memberships = (0..NETWORKS)
            .zip(&sizes)
            .map(|(index, size)| (vni(&cluster, index), groups(*size)))
            .collect();
        let (content, over_limit) =
            own_content(&cluster, &local(0..NETWORKS), &memberships, UNDERLAY);
        let items: usize = content.values().map(|network| network.memberships.groups.len()).sum();
        prop_assert!(items <= ADVERTISED_ITEMS_MAX);
        prop_assert!(Delta::between(&BTreeMap::new(), &content, usize::MAX).0.check().is_ok());
        let mut widened = 0;
        for (index, size) in (0..NETWORKS).zip(&sizes) {
            let AdvertisedNetwork { endpoints, memberships, mtu: _ } =
                &*content[&network_id(index)];
            prop_assert_eq!(endpoints.len(), 1);
            prop_assert!(*size <= ADVERTISED_GROUPS_MAX || memberships.router);
            // Either all of its groups, or a multicast router.
            prop_assert!(memberships.router || memberships.groups.len() == *size);
            widened += usize::from(memberships.router);
        }
        prop_assert_eq!(over_limit.len(), widened);
        prop_assert!(
            sizes.iter().sum::<usize>() > 80_000
                || sizes.iter().all(|size| *size <= ADVERTISED_GROUPS_MAX) == (widened == 0)
        );
    }
}
