//! What happens to packets while tables change.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;
use shoutd_core::MacAddress;
use shoutd_core::multicast::SourceGroup;
use shoutd_core::plane::{Change, Destination, Filter, Forwarding, Tier};

use crate::model::{any_segment, looked_up, packet, receivers};

fn tier() -> impl Strategy<Value = Tier> {
    prop::sample::select(vec![Tier::Flood, Tier::MulticastFdb, Tier::VxlanMdb])
}

/// An entry that takes the kernel several steps.
#[derive(Debug, PartialEq, Eq)]
enum Entry {
    Group(SourceGroup),
    GroupMac(MacAddress),
}

/// The entry that a change belongs to, and whether the entry is being built or taken apart.
fn entry(change: &Change) -> Option<(Entry, bool)> {
    match change {
        Change::Group { key, add, .. } => Some((Entry::Group(*key), *add)),
        Change::GroupMac { mac, add, .. } => Some((Entry::GroupMac(*mac), *add)),
        _ => None,
    }
}

/// Whether a change concerns a host that is served otherwise; `None` is every host.
fn is_served(change: &Change, served: Option<&BTreeSet<IpAddr>>) -> bool {
    match change {
        Change::Group { to: Destination::Host(host), .. } => {
            served.is_none_or(|served| served.contains(host))
        }
        _ => false,
    }
}

fn done(mut tables: Forwarding, changes: &[Change]) -> Forwarding {
    changes.iter().for_each(|change| tables.apply(change));
    tables
}

proptest! {
    #[test]
    fn changes_lead_from_any_tables_to_the_desired_ones(
        before in any_segment(),
        after in any_segment(),
        (tier_before, tier_after) in (tier(), tier()),
        is_broken in any::<bool>(),
    ) {
        let filter = if is_broken {
            Filter::Broken
        } else {
            Forwarding::wanted(&before, tier_before).filter
        };
        let there = Forwarding { filter, ..Forwarding::wanted(&before, tier_before) };
        let wanted = Forwarding::wanted(&after, tier_after);
        prop_assert_eq!(done(there.clone(), &there.changes_to(&wanted)), wanted.clone());
        prop_assert_eq!(wanted.changes_to(&wanted), vec![]);
        let between = Forwarding::changes_between(&before, &after, tier_after);
        prop_assert_eq!(done(Forwarding::wanted(&before, tier_after), &between), wanted);
    }

    /// After each change, a host that gets a packet before and after all changes gets it in between
    /// too. The exception is an entry of several remotes that is being built or taken apart, which
    /// takes the kernel several steps.
    #[test]
    fn no_host_loses_packets_while_tables_change(
        before in any_segment(),
        after in any_segment(),
        (tier_before, tier_after) in (tier(), tier()),
        (source, group) in packet(),
    ) {
        let mut tables = Forwarding::wanted(&before, tier_before);
        let wanted = Forwarding::wanted(&after, tier_after);
        let all: BTreeSet<IpAddr> =
            (1..6).map(|last| Ipv4Addr::new(192, 0, 2, last).into()).collect();
        let always =
            &receivers(&tables, source, group, &all) & &receivers(&wanted, source, group, &all);
        let changes = tables.changes_to(&wanted);
        for steps in changes.chunk_by(|a, b| entry(a).is_some() && entry(a) == entry(b)) {
            steps.iter().for_each(|change| tables.apply(change));
            let reached = receivers(&tables, source, group, &all);
            prop_assert!(reached.is_superset(&always), "after {:?}", steps);
        }
    }

    /// While the kernel builds an entry or takes it apart, remote by remote, as few hosts as
    /// possible lose packets that they get before and after.
    #[test]
    fn remotes_that_get_the_packets_without_an_entry_are_added_first_and_removed_last(
        before in any_segment(),
        after in any_segment(),
    ) {
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
            prop_assert!(
                steps.iter().is_sorted_by_key(|step| is_served(step, served.as_ref()) != *add),
                "{steps:?} beside {served:?}"
            );
        }
    }
}
