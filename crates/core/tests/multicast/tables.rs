//! Who is to get what, and the tables by which they do.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use proptest::prelude::*;
use shoutd_core::MacAddress;
use shoutd_core::advertise::AdvertisedNetwork;
use shoutd_core::limits::REPLICATED_MAX;
use shoutd_core::multicast::{
    Replication, SourceFilter, goes_to_every_host, group_mac, is_link_local,
};
use shoutd_core::plane::{DeviceName, Filter, Forwarding, Tier};

use crate::model::{any_segment, gets, hosts, looked_up, packet, replicated, room, scene, segment};

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
            // Only who wants something beyond gets a surplus, and of groups that are kept apart
            // nobody does.
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
        let listens = |(announced, in_sync): &(Option<AdvertisedNetwork>, bool)| {
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
