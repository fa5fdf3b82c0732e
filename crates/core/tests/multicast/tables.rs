//! The desired replication, and the tables that implement it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;
use shoutd_core::MacAddress;
use shoutd_core::advertise::AdvertisedNetwork;
use shoutd_core::limits::REPLICATED_MAX;
use shoutd_core::multicast::{
    Replication, SourceFilter, goes_to_every_host, group_mac, is_link_local,
};
use shoutd_core::plane::{DeviceName, Filter, Forwarding, Tier};

use crate::model::{
    any_segment, entries_max, gets, hosts, looked_up, packet, replicated, scene, segment,
};

/// Whether a host has members of a group or a multicast router, as far as its advertisement tells.
fn may_have_members(advertised: Option<&AdvertisedNetwork>, group: IpAddr) -> bool {
    let Some(network) = advertised else {
        return true;
    };
    let nothing = SourceFilter::Include(BTreeSet::new());
    let filter = network.memberships.groups.get(&group);
    network.memberships.router || filter.is_some_and(|filter| *filter != nothing)
}

proptest! {
    #[test]
    fn beyond_the_limit_a_host_still_gets_its_groups(
        hosts in hosts(),
        most in 0..8_usize,
        (source, group) in packet(),
    ) {
        let (replication, whole) = (replicated(&hosts, most), replicated(&hosts, REPLICATED_MAX));
        prop_assert!(replication.groups.len() <= most && whole.beyond == 0);
        prop_assert_eq!(replication.beyond == 0, replication == whole);
        let receivers = replication.receivers(source, group);
        for (address, (advertised, in_sync)) in hosts.iter().filter(|_| !is_link_local(group)) {
            let (gets, needs) = (
                receivers.unwrap().contains(address),
                gets(advertised.as_ref(), *in_sync, source, group),
            );
            prop_assert!(gets || !needs, "{}", address);
            // Only hosts that need a group beyond the limit get a surplus, and only of groups
            // without entries.
            let has_entry = replication.groups.contains_key(&(None, group));
            prop_assert!(needs || !gets || (replication.beyond > 0 && !has_entry), "{}", address);
        }
    }

    #[test]
    fn a_host_gets_its_groups_and_nothing_else(hosts in hosts(), (source, group) in packet()) {
        let replication = replicated(&hosts, REPLICATED_MAX);
        let tables = Forwarding::wanted(&segment(replication.clone()), Tier::VxlanMdb);
        let receivers = replication.receivers(source, group);
        prop_assert_eq!(receivers.is_none(), is_link_local(group));
        prop_assert_eq!(looked_up(&tables, source, group), receivers.cloned());
        for (address, (advertised, in_sync)) in hosts.iter().filter(|_| !is_link_local(group)) {
            let wanted = gets(advertised.as_ref(), *in_sync, source, group);
            prop_assert_eq!(receivers.unwrap().contains(address), wanted, "{}", address);
        }
    }

    #[test]
    fn no_entry_is_empty_or_for_a_link_local_group(segment in any_segment()) {
        prop_assert!(segment.replication.groups.keys().all(|(_, group)| !is_link_local(*group)));
        let tables = Forwarding::wanted(&segment, Tier::VxlanMdb);
        prop_assert!(tables.groups.values().all(|destinations| !destinations.is_empty()));
        prop_assert!(tables.group_macs.is_empty() && tables.filter == Filter::Off);
    }

    #[test]
    fn by_mac_address_every_receiver_is_reached(
        (hosts, (source, group)) in scene(),
        most in entries_max(),
    ) {
        let tables = Forwarding::wanted(&segment(replicated(&hosts, most)), Tier::MulticastFdb);
        let receivers = looked_up(&tables, source, group);
        let is_shared = goes_to_every_host(group_mac(group));
        prop_assert!(receivers.is_none() || !is_shared || !is_link_local(group));
        // Link-local groups are included as far as their memberships are advertised.
        if let Some(receivers) = receivers {
            for (address, (advertised, in_sync)) in &hosts {
                prop_assert!(
                    receivers.contains(address)
                        || !gets(advertised.as_ref(), *in_sync, source, group)
                );
            }
        }
    }

    /// The source does not matter, because this tier does not distinguish sources.
    #[test]
    fn by_mac_address_groups_without_receivers_go_nowhere(
        hosts in hosts(),
        (source, group) in packet(),
    ) {
        let has_members = hosts.values().any(|(advertised, in_sync)| {
            may_have_members(advertised.as_ref().filter(|_| *in_sync), group)
        });
        prop_assume!(!is_link_local(group) && !has_members);
        let tables =
            Forwarding::wanted(&segment(replicated(&hosts, REPLICATED_MAX)), Tier::MulticastFdb);
        prop_assert_eq!(looked_up(&tables, source, group), Some(BTreeSet::new()));
    }
}

#[test]
fn remote_endpoints_are_pinned_to_the_tunnel_port() {
    let mut segment = segment(Replication::default());
    let mac = MacAddress([2, 0, 0, 0, 0, 9]);
    segment.remote_macs.insert(mac, Ipv4Addr::new(192, 0, 2, 1).into());
    let tables = Forwarding::wanted(&segment, Tier::Flood);
    assert_eq!(tables.ports, BTreeMap::from([(mac, DeviceName::tunnel())]));
    assert_eq!(tables.remote_macs, segment.remote_macs);
}
