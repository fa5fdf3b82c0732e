//! Generators of hosts, packets and tables, and models of replication that are too simple to be
//! wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use proptest::collection::{btree_map, btree_set};
use proptest::option;
use proptest::prelude::*;
use shoutd_core::MacAddress;
use shoutd_core::advertise::AdvertisedNetwork;
use shoutd_core::limits::REPLICATED_MAX;
use shoutd_core::multicast::{
    Memberships, Remote, Replication, SourceFilter, group_mac, is_link_local, replication_within,
};
use shoutd_core::plane::{Destination, Forwarding, Segment, UNREGISTERED, Vtep};

/// Groups of DDS. The first is link-local, and its memberships are advertised, because the second
/// has the same MAC address.
const DDS_GROUPS: [&str; 2] = ["ff02::ffff:239.255.0.1", "ff1e::ffff:239.255.0.1"];

pub fn group() -> impl Strategy<Value = IpAddr> {
    // The second and third share a MAC address. Then there are link-local groups of each family,
    // each with a group of wider scope that has the same MAC address.
    let wide = ["232.1.1.1", "239.1.1.1", "238.129.1.1", "ff05::2:3", "ff12::7"];
    let shared =
        ["224.0.0.251", "239.0.0.251", "ff02::fb", "ff05::fb", "ff02::1:ff00:5", "ff05::1:ff00:5"];
    let groups = [wide.as_slice(), &shared, &DDS_GROUPS].concat();
    prop::sample::select(groups).prop_map(|text| text.parse().unwrap())
}

pub fn source() -> impl Strategy<Value = IpAddr> {
    prop::sample::select(vec!["10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2"])
        .prop_map(|text| text.parse().unwrap())
}

/// A source, and a group of its family.
pub fn packet() -> impl Strategy<Value = (IpAddr, IpAddr)> {
    (source(), group(), group()).prop_map(|(source, group, other)| {
        let groups = [group, other, "239.1.1.1".parse().unwrap(), "ff05::2:3".parse().unwrap()];
        (source, groups.into_iter().find(|group| group.is_ipv4() == source.is_ipv4()).unwrap())
    })
}

pub fn host() -> impl Strategy<Value = IpAddr> {
    (1_u8..6).prop_map(|last| Ipv4Addr::new(192, 0, 2, last).into())
}

pub fn filter() -> impl Strategy<Value = SourceFilter> {
    prop_oneof![
        btree_set(source(), 0..3).prop_map(SourceFilter::Include),
        btree_set(source(), 0..3).prop_map(SourceFilter::Exclude)
    ]
}

prop_compose! {
    pub fn memberships()(
        groups in btree_map(group(), filter(), 0..5),
        router in proptest::bool::weighted(0.1),
    ) -> Memberships {
        Memberships { groups, router }
    }
}

/// Hosts, each with its advertisement, if any, and whether it is in sync.
pub type Hosts = BTreeMap<IpAddr, (Option<AdvertisedNetwork>, bool)>;

fn hosts_with(memberships: impl Strategy<Value = Memberships>) -> impl Strategy<Value = Hosts> {
    let advertised = option::weighted(
        0.9,
        memberships.prop_map(|memberships| AdvertisedNetwork {
            memberships,
            ..AdvertisedNetwork::default()
        }),
    );
    btree_map(host(), (advertised, proptest::bool::weighted(0.9)), 0..5)
}

pub fn hosts() -> impl Strategy<Value = Hosts> {
    hosts_with(memberships())
}

/// Hosts and a packet; often only with groups of DDS that share a MAC address.
pub fn scene() -> impl Strategy<Value = (Hosts, (IpAddr, IpAddr))> {
    let groups = btree_map(dds_group(), filter(), 0..3);
    let hosts_with_dds =
        hosts_with(groups.prop_map(|groups| Memberships { groups, router: false }));
    let packet_of_dds = (Just("fd00::1".parse().unwrap()), dds_group());
    prop_oneof![(hosts(), packet()), (hosts_with_dds, packet_of_dds)]
}

fn dds_group() -> impl Strategy<Value = IpAddr> {
    prop::sample::select(DDS_GROUPS.to_vec()).prop_map(|text| text.parse().unwrap())
}

pub fn replicated(hosts: &Hosts, most: usize) -> Replication {
    let remotes: Vec<Remote<'_>> = hosts
        .iter()
        .map(|(address, (advertised, in_sync))| Remote {
            address: *address,
            advertised: advertised.as_ref(),
            in_sync: *in_sync,
        })
        .collect();
    replication_within(&remotes, most)
}

/// The maximum number of entries: enough for all, or few.
pub fn entries_max() -> impl Strategy<Value = usize> {
    prop_oneof![Just(REPLICATED_MAX), 0..6_usize]
}

/// Whether a host must get what a source sends to a group.
pub fn gets(
    advertised: Option<&AdvertisedNetwork>,
    in_sync: bool,
    source: IpAddr,
    group: IpAddr,
) -> bool {
    let Some(network) = advertised.filter(|_| in_sync) else {
        return true;
    };
    let memberships = &network.memberships;
    memberships.router || memberships.groups.get(&group).is_some_and(|filter| filter.admits(source))
}

pub fn segment(replication: Replication) -> Segment {
    let vtep = Vtep { address: Ipv4Addr::new(192, 0, 2, 99).into(), port: 7789, encrypted: false };
    Segment {
        replication: Arc::new(replication),
        ..Segment::empty("a".repeat(64).parse().unwrap(), 1450, vtep)
    }
}

prop_compose! {
    pub fn any_segment()(
        hosts in hosts(),
        most in entries_max(),
        remote_macs in btree_map(
            (0_u8..4).prop_map(|last| MacAddress([2, 0, 0, 0, 0, last])),
            host(),
            0..4,
        ),
    ) -> Segment {
        Segment { remote_macs, ..segment(replicated(&hosts, most)) }
    }
}

/// The hosts that get a packet with these tables, out of all hosts of the network.
pub fn receivers(
    tables: &Forwarding,
    source: IpAddr,
    group: IpAddr,
    all: &BTreeSet<IpAddr>,
) -> BTreeSet<IpAddr> {
    looked_up(tables, source, group).unwrap_or_else(|| all.clone())
}

/// Where the kernel sends a packet with these tables; `None` is to every host (`vxlan_xmit`,
/// `vxlan_mdb_entry_skb_get`).
pub fn looked_up(tables: &Forwarding, source: IpAddr, group: IpAddr) -> Option<BTreeSet<IpAddr>> {
    if !tables.filter.passes(group) {
        return Some(BTreeSet::new());
    }
    let catch_all = UNREGISTERED.iter().find(|(_, all)| all.is_ipv4() == group.is_ipv4()).unwrap();
    let all = tables.groups.get(catch_all).filter(|_| !is_link_local(group));
    let found = tables
        .groups
        .get(&(Some(source), group))
        .or_else(|| tables.groups.get(&(None, group)))
        .or(all);
    let Some(destinations) = found else {
        return tables.group_macs.get(&group_mac(group)).cloned();
    };
    let hosts = destinations.iter().filter_map(|to| match to {
        Destination::Host(host) => Some(*host),
        Destination::Nowhere => None,
    });
    Some(hosts.collect())
}
