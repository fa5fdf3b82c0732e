//! What happens to packets while tables change.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;
use shoutd_core::plane::{Change, Destination, Filter, Forwarding, Tier};

use crate::model::{any_segment, looked_up, packet};

fn done(mut tables: Forwarding, changes: &[Change]) -> Forwarding {
    changes.iter().for_each(|change| tables.apply(change));
    tables
}

proptest! {
    #[test]
    fn changes_lead_from_any_tables_to_the_desired_ones(
        before in any_segment(),
        after in any_segment(),
        tiers in (0_usize..3, 0_usize..3),
        is_broken in any::<bool>(),
    ) {
        let tier = |number: usize| [Tier::Flood, Tier::MulticastFdb, Tier::VxlanMdb][number];
        let filter = if is_broken {
            Filter::Broken
        } else {
            Forwarding::wanted(&before, tier(tiers.0)).filter
        };
        let there = Forwarding { filter, ..Forwarding::wanted(&before, tier(tiers.0)) };
        let wanted = Forwarding::wanted(&after, tier(tiers.1));
        prop_assert_eq!(done(there.clone(), &there.changes_to(&wanted)), wanted.clone());
        prop_assert_eq!(wanted.changes_to(&wanted), vec![]);
        let between = Forwarding::changes_between(&before, &after, tier(tiers.1));
        prop_assert_eq!(done(Forwarding::wanted(&before, tier(tiers.1)), &between), wanted);
    }

    /// After each change, a host that gets a packet before and after all changes gets it in between
    /// too. The exception is an entry of several remotes that is being built or taken apart, which
    /// takes the kernel several steps.
    #[test]
    fn no_host_loses_packets_while_tables_change(
        before in any_segment(),
        after in any_segment(),
        tiers in (0_usize..3, 0_usize..3),
        (source, group) in packet(),
    ) {
        let tier = |number: usize| [Tier::Flood, Tier::MulticastFdb, Tier::VxlanMdb][number];
        let mut tables = Forwarding::wanted(&before, tier(tiers.0));
        let wanted = Forwarding::wanted(&after, tier(tiers.1));
        let all: BTreeSet<IpAddr> =
            (1..6).map(|last| Ipv4Addr::new(192, 0, 2, last).into()).collect();
        let at =
            |tables: &Forwarding| looked_up(tables, source, group).unwrap_or_else(|| all.clone());
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
            let is_served = |change: &Change| match change {
                Change::Group { to: Destination::Host(host), .. } => {
                    served.as_ref().is_none_or(|all| all.contains(host))
                }
                _ => false,
            };
            prop_assert!(
                steps.iter().is_sorted_by_key(|step| is_served(step) != *add),
                "{steps:?} beside {served:?}"
            );
        }
    }
}
