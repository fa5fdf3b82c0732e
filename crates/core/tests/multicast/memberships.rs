//! A host's memberships, from those of its ports.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use proptest::collection::vec;
use proptest::prelude::*;
use shoutd_core::multicast::{Knowledge, Mdb, Memberships, SourceFilter, is_advertised};

use crate::model::{memberships, packet};

/// The memberships of a port, as entries of a bridge's MDB.
fn entries(memberships: &Memberships) -> Vec<(IpAddr, Knowledge)> {
    let mut entries = Vec::new();
    for (group, filter) in &memberships.groups {
        let (mode, sources, blocked) = match filter {
            SourceFilter::Include(sources) => (Knowledge::Include, sources, false),
            SourceFilter::Exclude(sources) => (Knowledge::Exclude, sources, true),
        };
        entries.push((*group, mode));
        for &source in sources {
            entries.push((*group, Knowledge::Source { source, blocked }));
        }
    }
    entries
}

fn selects(memberships: &Memberships, source: IpAddr, group: IpAddr) -> bool {
    memberships.groups.get(&group).is_some_and(|filter| filter.admits(source))
}

proptest! {
    #[test]
    fn memberships_are_the_union_of_all_ports(
        ports in vec(memberships(), 0..4),
        (source, group) in packet(),
        order in any::<u64>(),
    ) {
        let mut database = Mdb::default();
        let mut all: Vec<(u32, IpAddr, Knowledge)> = Vec::new();
        for (port, memberships) in (0_u32..).zip(&ports) {
            all.extend(
                entries(memberships).into_iter().map(|(group, knowledge)| (port, group, knowledge)),
            );
            database.set_router(port, memberships.router);
        }
        // In any order of arrival.
        all.sort_by_key(|(port, group, knowledge)| {
            let text = format!("{order}{port}{group}{knowledge:?}");
            text.bytes()
                .fold(order, |hash, byte| hash.wrapping_mul(31).wrapping_add(u64::from(byte)))
        });
        for (port, group, knowledge) in &all {
            database.learn(*port, *group, *knowledge);
        }
        let found = database.memberships().clone();
        prop_assert_eq!(found.router, ports.iter().any(|memberships| memberships.router));
        let is_wanted = ports.iter().any(|port| selects(port, source, group));
        prop_assert_eq!(selects(&found, source, group), is_advertised(group) && is_wanted);

        // The container of the first port ends.
        for (port, group, knowledge) in all.iter().filter(|(port, ..)| *port == 0) {
            let source = match knowledge {
                Knowledge::Source { source, .. } => Some(*source),
                _ => None,
            };
            database.forget(*port, *group, source);
        }
        // The recorded changes lead from nothing to the current memberships, and so do the
        // differences from an earlier database.
        let mut noted = Mdb::default();
        std::mem::swap(&mut noted, &mut database);
        noted.note_changes_since(Mdb::default());
        let groups: BTreeMap<IpAddr, SourceFilter> = noted
            .take_changes()
            .into_iter()
            .filter_map(|(group, filter)| Some((group, filter?)))
            .collect();
        prop_assert_eq!(&groups, &noted.memberships().groups);
        prop_assert_eq!(noted.take_changes(), vec![]);
        let mut database = noted;
        let is_wanted = ports.iter().skip(1).any(|port| selects(port, source, group));
        let is_selected = selects(database.memberships(), source, group);
        prop_assert_eq!(is_selected, is_advertised(group) && is_wanted);
        prop_assert!(!database.entries_per_port().contains_key(&0));
        // Each entry counts once for all ports.
        let each =
            all.iter().filter(|(port, ..)| *port != 0).map(
                |(_, group, knowledge)| match knowledge {
                    Knowledge::Source { source, .. } => (*group, Some(*source)),
                    _ => (*group, None),
                },
            );
        prop_assert_eq!(database.entries(), each.collect::<BTreeSet<_>>().len());
    }
}

/// One group with as many entries as a bridge's MDB can have, on a thousand ports. The union is
/// computed once; for every entry, it would take hours.
#[test]
fn the_union_of_a_large_group_is_computed_once() {
    let group = IpAddr::from(Ipv4Addr::new(239, 1, 1, 1));
    let mut database = Mdb::default();
    for port in 0..1000_u32 {
        database.learn(port, group, Knowledge::Include);
        for number in 0..32 {
            let source = Ipv4Addr::from(0x0a00_0000 + port * 32 + number).into();
            database.learn(port, group, Knowledge::Source { source, blocked: false });
        }
    }
    assert_eq!(database.entries(), 32_001);
    assert_eq!(included(&mut database, group), Some(32_000));
    for port in 1..1000_u32 {
        for number in 0..32 {
            database.forget(
                port,
                group,
                Some(Ipv4Addr::from(0x0a00_0000 + port * 32 + number).into()),
            );
        }
        database.forget(port, group, None);
    }
    assert_eq!(database.entries(), 33);
    assert_eq!(included(&mut database, group), Some(32));
}

/// How many sources the union of a group includes; `None` in EXCLUDE mode.
fn included(database: &mut Mdb, group: IpAddr) -> Option<usize> {
    match &database.memberships().groups[&group] {
        SourceFilter::Include(sources) => Some(sources.len()),
        SourceFilter::Exclude(_) => None,
    }
}
