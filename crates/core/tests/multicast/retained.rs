//! Retained entries: not desired, but without them some host would lose packets.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use proptest::collection::{btree_map, btree_set};
use proptest::prelude::*;
use shoutd_core::MacAddress;
use shoutd_core::limits::{KEPT_SOURCES_MAX, REPLICATED_MAX};
use shoutd_core::multicast::{Replication, goes_to_every_host, group_mac, is_link_local};
use shoutd_core::plane::{Change, Destination, Forwarding, Segment, Tier};

use crate::model::{
    any_segment, gets, group, host, looked_up, packet, receivers, replicated, scene, segment,
};

proptest! {
    /// Also for entries that an earlier version left.
    #[test]
    fn with_retained_entries_link_local_groups_reach_all_receivers(
        found in btree_map(group(), btree_set(host(), 1..4), 0..4),
        (hosts, (source, group)) in scene(),
        provisional in any::<bool>(),
    ) {
        let replication = Replication { provisional, ..replicated(&hosts, REPLICATED_MAX) };
        let remotes = hosts.keys().copied().collect();
        let segment = Segment { remotes, ..segment(replication) };
        let group_macs =
            found.into_iter().map(|(group, remotes)| (group_mac(group), remotes)).collect();
        let found = Forwarding { group_macs, ..Forwarding::default() };
        let tables = Forwarding::desired_with_retained(&found, &segment, Tier::MulticastFdb);
        let receivers = looked_up(&tables, source, group);
        prop_assert!(
            receivers.is_none() || !is_link_local(group) || !goes_to_every_host(group_mac(group))
        );
        if let Some(receivers) = receivers {
            for (address, (advertised, in_sync)) in &hosts {
                prop_assert!(
                    receivers.contains(address)
                        || !gets(advertised.as_ref(), *in_sync, source, group)
                );
            }
        }
    }

    /// While some hosts are not in sync, no entry is removed if a host would lose packets by it.
    #[test]
    fn no_host_loses_packets_while_replication_is_provisional(
        before in any_segment(),
        after in any_segment(),
        by_mac in any::<bool>(),
        (source, group) in packet(),
    ) {
        prop_assume!(after.replication.provisional);
        let all: BTreeSet<IpAddr> =
            (1..6).map(|last| Ipv4Addr::new(192, 0, 2, last).into()).collect();
        let after = Segment { remotes: all.clone(), ..after };
        let tier = if by_mac { Tier::MulticastFdb } else { Tier::VxlanMdb };
        let mut tables = Forwarding::wanted(&before, tier);
        let wanted = Forwarding::desired_with_retained(&tables, &after, tier);
        let in_the_end = receivers(&wanted, source, group, &all);
        let without_retained = receivers(&Forwarding::wanted(&after, tier), source, group, &all);
        prop_assert!(in_the_end.is_superset(&(&without_retained & &after.remotes)));
        let always = &receivers(&tables, source, group, &all) & &in_the_end;
        for change in tables.changes_to(&wanted) {
            tables.apply(&change);
            if !matches!(
                change,
                Change::Group { add: true, .. } | Change::GroupMac { add: true, .. }
            ) {
                let reached = receivers(&tables, source, group, &all);
                prop_assert!(reached.is_superset(&always), "after {:?}", change);
            }
        }
        prop_assert_eq!(&tables, &wanted);
    }

    /// Retained (S,G) entries have the remotes of (\*,G), and stay while (\*,G) has members. So no
    /// host loses packets while an entry is taken apart.
    #[test]
    fn no_host_loses_packets_when_sources_are_no_longer_selected(
        before in any_segment(),
        after in any_segment(),
        (source, group) in packet(),
    ) {
        prop_assume!(!after.replication.provisional);
        let tier = Tier::VxlanMdb;
        let (mut tables, alone) =
            (Forwarding::wanted(&before, tier), Forwarding::wanted(&after, tier));
        let wanted = Forwarding::desired_with_retained(&tables, &after, tier);
        prop_assert_eq!(looked_up(&wanted, source, group), looked_up(&alone, source, group));
        prop_assert_eq!(wanted.has_more_groups_than(&after), wanted != alone);
        prop_assert_eq!(Forwarding::keeps_sources(&before, &after), wanted != alone);
        let have_members = [&before, &after].into_iter().all(|segment| {
            segment.replication.groups.get(&(None, group)).is_some_and(|all| !all.is_empty())
        });
        for change in tables.changes_to(&wanted) {
            let was = looked_up(&tables, source, group);
            tables.apply(&change);
            let is_removal = matches!(change, Change::Group { add: false, .. });
            if is_removal && !is_link_local(group) && have_members {
                let is = looked_up(&tables, source, group).unwrap();
                let always = &was.unwrap() & &looked_up(&wanted, source, group).unwrap();
                prop_assert!(is.is_superset(&always), "after {:?}", change);
            }
        }
        prop_assert_eq!(&tables, &wanted);
    }
}

fn remote(last: u8) -> IpAddr {
    Ipv4Addr::new(192, 0, 2, last).into()
}

fn numbered_group(last: u8) -> IpAddr {
    Ipv4Addr::new(239, 0, 0, last).into()
}

fn mac(last: u8) -> MacAddress {
    MacAddress([2, 0, 0, 0, 0, last])
}

/// The tables that a restarted daemon finds, and its desired state while not all hosts are in sync.
fn found_and_desired() -> (Forwarding, Segment) {
    let mut before = segment(Replication::default());
    before.remotes = [2, 3].map(remote).into();
    before.remote_macs = [(9, 2), (8, 3), (7, 4)].map(|(last, at)| (mac(last), remote(at))).into();
    Arc::make_mut(&mut before.replication).groups =
        [1, 2, 3].map(|last| ((None, numbered_group(last)), [remote(2)].into())).into();
    let found = Forwarding::wanted(&before, Tier::VxlanMdb);
    let mut after = segment(Replication {
        provisional: true,
        unregistered: [remote(2)].into(),
        ..Replication::default()
    });
    after.remotes = before.remotes;
    (found, after)
}

/// The MAC addresses, by their last octet, that are pinned to hosts in the tables with retained
/// entries, and these hosts.
fn pinned(found: &Forwarding, after: &Segment) -> Vec<(u8, String)> {
    let wanted = Forwarding::desired_with_retained(found, after, Tier::VxlanMdb);
    assert!(wanted.ports.keys().eq(wanted.remote_macs.keys()));
    wanted.remote_macs.into_iter().map(|(mac, host)| (mac.0[5], host.to_string())).collect()
}

#[test]
fn endpoints_stay_pinned_while_their_hosts_are_not_in_sync() {
    let (found, mut after) = found_and_desired();
    // Host 3 is known to have none. Host 4 is not even known to have the network.
    assert_eq!(pinned(&found, &after), [(7, "192.0.2.4".to_owned()), (9, "192.0.2.2".to_owned())]);
    // Unless they are desired elsewhere.
    after.remote_macs.insert(mac(9), remote(3));
    assert_eq!(pinned(&found, &after), [(7, "192.0.2.4".to_owned()), (9, "192.0.2.3".to_owned())]);
    Arc::make_mut(&mut after.replication).provisional = false;
    assert_eq!(pinned(&found, &after), [(9, "192.0.2.3".to_owned())]);
}

#[test]
fn the_number_of_retained_entries_is_limited() {
    let (found, after) = found_and_desired();
    // The entries for all other groups, one per family, are desired.
    for (most, kept) in [((4, 1), (4, 1)), ((0, 0), (2, 0)), ((100, 100), (5, 2))] {
        let wanted = Forwarding::desired_with_retained_within(&found, &after, Tier::VxlanMdb, most);
        assert_eq!((wanted.groups.len(), wanted.remote_macs.len()), kept, "at most {most:?}");
    }
}

#[test]
fn retained_sources_are_limited_per_group() {
    let mut before = Replication::default();
    for source in 0..=255 {
        let source = Some(Ipv4Addr::new(10, 0, 0, source).into());
        let to: BTreeSet<IpAddr> = [remote(2)].into();
        before.groups.extend([1, 2, 3].map(|last| ((source, numbered_group(last)), to.clone())));
    }
    // The first two groups have members for all sources, the third does not.
    let mut after = Replication::default();
    for (last, to) in [(1, [remote(1)].into()), (2, [remote(2)].into()), (3, BTreeSet::new())] {
        after.groups.insert((None, numbered_group(last)), to);
    }
    let found = Forwarding::wanted(&segment(before), Tier::VxlanMdb);
    let wanted = Forwarding::desired_with_retained(&found, &segment(after), Tier::VxlanMdb);
    for (last, count) in [(1, KEPT_SOURCES_MAX), (2, KEPT_SOURCES_MAX), (3, 0)] {
        let kept: Vec<_> = wanted
            .groups
            .iter()
            .filter(|((source, group), _)| source.is_some() && *group == numbered_group(last))
            .collect();
        assert_eq!(kept.len(), count, "group {last}");
        let to = BTreeSet::from([Destination::Host(remote(last))]);
        assert!(kept.iter().all(|(_, destinations)| **destinations == to), "group {last}");
    }
}
