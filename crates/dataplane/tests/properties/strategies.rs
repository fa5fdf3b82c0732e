//! Arbitrary desired states, and arbitrary states of the kernel. Names, addresses and paths are
//! few, so that they clash.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use ipnet::Ipv4Net;
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use shoutd_core::cluster::TunnelKey;
use shoutd_core::limits::LEARNED_MAX;
use shoutd_core::plane::{
    ALL_MULTICAST, ContainerEnd, Desired, DeviceName, Dropped, EncryptedPeer, EncryptedUnderlay,
    EncryptionWanted, GATEWAY_MAC, GROUPS_MAX, INTERFACE_PREFIX, InterfaceName, Learned, Observed,
    ObservedBridge, ObservedEncryption, ObservedPort, ObservedSegment, ObservedTunnel,
    ObservedUnderlayFilter, ObservedUplink, ObservedWayOut, OwnerTag, Place, Port, Segment,
    UnderlayFilter, UplinkFar, Vtep,
};
use shoutd_core::tunnel_keys::PresharedKey;
use shoutd_core::{EndpointId, MacAddress, NetworkId, Vni};
use shoutd_dataplane::testing::{FakeKernel, Fault};

fn vni() -> impl Strategy<Value = Vni> {
    (1_u32..4).prop_map(|value| Vni::new(value).unwrap())
}

fn network() -> impl Strategy<Value = NetworkId> {
    (0_u8..2).prop_map(|value| format!("{value}").repeat(64).parse().unwrap())
}

fn endpoint() -> impl Strategy<Value = EndpointId> {
    // The last two share their first twelve characters, and so their device names.
    (0_u8..5).prop_map(|value| {
        format!("{:012}{}", value.min(3), format!("{value}").repeat(52)).parse().unwrap()
    })
}

pub fn sandbox() -> impl Strategy<Value = PathBuf> {
    (0_u8..3).prop_map(|value| PathBuf::from(format!("/sandbox/{value}")))
}

fn address() -> impl Strategy<Value = IpAddr> {
    (1_u8..5).prop_map(|last| Ipv4Addr::new(192, 0, 2, last).into())
}

fn addresses() -> impl Strategy<Value = BTreeSet<ipnet::IpNet>> {
    btree_set((1_u8..6).prop_map(|last| format!("10.0.0.{last}/24").parse().unwrap()), 0..3)
}

fn mtu() -> impl Strategy<Value = u16> {
    prop_oneof![Just(1450), Just(1400)]
}

fn mac() -> impl Strategy<Value = MacAddress> {
    (1_u8..3).prop_map(|last| MacAddress([2, 0, 0, 0, 0, last]))
}

fn multicast_routes() -> impl Strategy<Value = BTreeSet<Ipv4Net>> {
    let all = vec![ALL_MULTICAST, "239.0.0.0/8".parse().unwrap()];
    proptest::sample::subsequence(all, 0..=2).prop_map(BTreeSet::from_iter)
}

prop_compose! {
    fn port()(
        endpoint in endpoint(),
        mac in mac(),
        addresses in addresses(),
        multicast_routes in multicast_routes(),
        sandbox in option::of(sandbox()),
    ) -> (DeviceName, Port) {
        let container_name = DeviceName::container(&endpoint);
        let name = DeviceName::port(&endpoint);
        let default_route = None;
        let inside = InterfaceName::numbered(INTERFACE_PREFIX);
        (name, Port {
            endpoint,
            container_name,
            mac,
            addresses,
            multicast_routes,
            default_route,
            name: inside,
            sandbox,
        })
    }
}

/// The way-out bridge.
pub fn way_out() -> ObservedWayOut {
    ObservedWayOut { address: "10.255.0.14/28".parse().unwrap(), mtu: 1500 }
}

fn gateways() -> impl Strategy<Value = BTreeSet<ipnet::IpNet>> {
    let all = ["10.0.0.254/24", "10.0.1.254/24"].map(|net| net.parse().unwrap()).to_vec();
    proptest::sample::subsequence(all, 0..=2).prop_map(BTreeSet::from_iter)
}

prop_compose! {
    fn uplink()(
        mark in network_mark(),
        mtu in prop_oneof![Just(1500), Just(1400)],
        (up, forwards, attached) in any::<(bool, bool, bool)>(),
        addresses in btree_set((1_u8..5).prop_map(|last| {
            format!("10.255.0.{last}/28").parse().unwrap()
        }), 0..3),
        routed: bool,
        far: bool,
    ) -> ObservedUplink {
        let router = routed.then(|| way_out().address.addr());
        let far = far.then_some(UplinkFar { mtu, up, attached });
        ObservedUplink { mark, mtu, up, forwards, addresses, router, far }
    }
}

prop_compose! {
    fn segment()(
        network in network(),
        mtu in mtu(),
        address in address(),
        port in 7789_u16..7791,
        remotes in btree_set(address(), 0..4),
        ports in vec(port(), 0..4),
        learning: bool,
        max_rate in option::of(1_u32..3),
        gateways in gateways(),
    ) -> Segment {
        Segment {
            remotes,
            learning,
            max_rate,
            gateways,
            ports: ports.into_iter().collect(),
            ..Segment::empty(network, mtu, Vtep { address, port, encrypted: false })
        }
    }
}

prop_compose! {
    pub fn desired()(
        underlay_filter in option::of(underlay_filter()),
        encryption in encryption_wanted(),
        segments in btree_map(vni(), (segment(), any::<bool>()), 0..3),
    ) -> Desired {
        let mut desired =
            Desired { underlay_filter, encryption, ..Desired::default() };
        for (vni, (mut segment, encrypted)) in segments {
            if let EncryptionWanted::Present(underlay) = &desired.encryption && encrypted {
                segment.vtep.address = underlay.address.into();
                segment.vtep.encrypted = true;
            }
            desired.segments.insert(vni, segment);
        }
        desired
    }
}

fn encryption_wanted() -> impl Strategy<Value = EncryptionWanted> {
    prop_oneof![
        Just(EncryptionWanted::Absent),
        encrypted_underlay().prop_map(EncryptionWanted::Present),
    ]
}

prop_compose! {
    fn encrypted_underlay()(
        (host, key) in (1_u16..3, 1_u8..3),
        port in 7792_u16..7794,
        mtu in mtu(),
        peers in btree_map(3_u8..6, (1_u16..4, address(), 1_u8..3), 0..3),
    ) -> EncryptedUnderlay {
        let address = |host| Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, host);
        let peers = peers.into_iter().map(|(key, (host, underlay, secret))| {
            let endpoint = SocketAddr::new(underlay, 7792);
            let preshared_key = PresharedKey::new(&[secret; 32]);
            let peer = EncryptedPeer { address: address(10 + host), endpoint, preshared_key };
            (TunnelKey::new([key; 32]), peer)
        });
        EncryptedUnderlay {
            address: address(host),
            port,
            mtu,
            key: TunnelKey::new([key; 32]),
            peers: peers.collect(),
        }
    }
}

prop_compose! {
    fn underlay_filter()(
        address in address(),
        members in btree_set(address(), 0..3),
        port in 7789_u16..7791,
    ) -> UnderlayFilter {
        UnderlayFilter {
            address,
            interface: "eth0".parse().unwrap(),
            agreement_ports: [port].into(),
            members,
        }
    }
}

fn observed_underlay_filter() -> impl Strategy<Value = ObservedUnderlayFilter> {
    prop_oneof![
        Just(ObservedUnderlayFilter::Absent),
        Just(ObservedUnderlayFilter::Broken),
        underlay_filter().prop_map(whole),
    ]
}

pub fn whole(filter: UnderlayFilter) -> ObservedUnderlayFilter {
    ObservedUnderlayFilter::Whole { filter, complete: true, dropped: Dropped::default() }
}

fn network_mark() -> impl Strategy<Value = Option<OwnerTag>> {
    option::of(network().prop_map(OwnerTag::Network))
}

prop_compose! {
    fn bridge()(
        mark in network_mark(),
        mtu in mtu(),
        up: bool,
        snooping: bool,
        querier: bool,
        version in 2_u8..4,
        enough: bool,
        link_local: bool,
        (forwards, gateways) in (any::<bool>(), gateways()),
    ) -> ObservedBridge {
        let groups_max = if enough { GROUPS_MAX } else { 4096 };
        let learned_max = if enough { u32::try_from(LEARNED_MAX).ok() } else { Some(0) };
        let multicast_router = if enough { 2 } else { 1 };
        let membership_interval = if enough { 51_000 } else { 26_000 };
        ObservedBridge {
            mark,
            mac: if enough { GATEWAY_MAC } else { MacAddress([6; 6]) },
            addresses: gateways,
            forwards,
            mtu,
            up,
            snooping,
            querier,
            igmp_version: version,
            mld_version: version - 1,
            groups_max,
            multicast_router,
            learned_max,
            membership_interval,
            link_local,
        }
    }
}

prop_compose! {
    fn tunnel()(
        mark in network_mark(),
        vni in option::of(vni()),
        local in option::of(address()),
        port in 7789_u16..7791,
        learning: bool,
        mtu in mtu(),
        (up, enslaved, port_learning) in any::<(bool, bool, bool)>(),
        multicast_router in 0_u8..3,
    ) -> ObservedTunnel {
        ObservedTunnel {
            mark,
            vni,
            local,
            port,
            learning,
            port_learning,
            mtu,
            up,
            enslaved,
            multicast_router,
        }
    }
}

prop_compose! {
    fn container_end()(
        place in option::of(sandbox()),
        mac in mac(),
        mtu in mtu(),
        up: bool,
        addresses in addresses(),
        detects_duplicates: bool,
        multicast_routes in multicast_routes(),
    ) -> ContainerEnd {
        let place = place.map_or(Place::Host, Place::Sandbox);
        ContainerEnd {
            place,
            name: "eth0".parse().unwrap(),
            mac,
            mtu,
            up,
            addresses,
            detects_duplicates,
            multicast_routes,
        }
    }
}

prop_compose! {
    fn observed_port()(
        named in endpoint(),
        marked in option::weighted(0.8, endpoint()),
        right in proptest::bool::weighted(0.7),
        mtu in mtu(),
        up: bool,
        (enslaved, learning) in any::<(bool, bool)>(),
        groups_max in prop_oneof![Just(None), Just(Some(0)), Just(Some(8192))],
        container_end in option::of(container_end()),
    ) -> (DeviceName, ObservedPort) {
        let mark = if right { Some(named.clone()) } else { marked }.map(OwnerTag::Endpoint);
        let name = DeviceName::port(&named);
        (name, ObservedPort { mark, mtu, up, enslaved, learning, groups_max, container_end })
    }
}

prop_compose! {
    fn observed_segment()(
        bridge in option::of(bridge()),
        tunnel in option::of(tunnel()),
        (igmp_mld_filter, max_rate) in (any::<bool>(), option::of(1_u32..3)),
        flood in btree_set(address(), 0..4),
        learned in 0_usize..2,
        (gateways, way_out_filter, uplink) in (gateways(), any::<bool>(), option::of(uplink())),
        ports in vec(observed_port(), 0..4),
        foreign in btree_set((0_u8..2).prop_map(|n| format!("eth{n}").parse().unwrap()), 0..2),
    ) -> ObservedSegment {
        let flood = if tunnel.is_some() { flood } else { BTreeSet::new() };
        let max_rate = max_rate.filter(|_| igmp_mld_filter);
        let gateways = gateways.iter().map(ipnet::IpNet::addr);
        let gateways = gateways.filter(|_| igmp_mld_filter).collect();
        let learned = Learned { count: if tunnel.is_some() { learned } else { 0 }, from: None };
        let ports = ports.into_iter().collect();
        ObservedSegment {
            bridge,
            tunnel,
            igmp_mld_filter,
            max_rate,
            gateways,
            way_out_filter,
            uplink,
            flood,
            learned,
            ports,
            foreign,
        }
    }
}

prop_compose! {
    pub fn kernel()(
        segments in btree_map(vni(), observed_segment(), 0..3),
        sandboxes in btree_set(sandbox(), 0..4),
        underlay_filter in observed_underlay_filter(),
        encryption in option::of(encrypted_underlay()),
    ) -> FakeKernel {
        let way_out = Some(way_out());
        let encryption = encryption.map(|there| ObservedEncryption::from(&there));
        let mut state =
            Observed { underlay_filter, encryption, way_out, segments, ..Observed::default() };
        for port in state.segments.values_mut().flat_map(|segment| segment.ports.values_mut()) {
            // A namespace that is gone takes its devices along.
            port.container_end = port.container_end.take().filter(|end| match &end.place {
                Place::Host => true,
                Place::Sandbox(path) => sandboxes.contains(path),
            });
        }
        FakeKernel { state, sandboxes, ..FakeKernel::default() }
    }
}

pub fn fault() -> impl Strategy<Value = Option<Fault>> {
    option::of(prop_oneof![Just(Fault::Before), Just(Fault::Halfway), Just(Fault::After)])
}
