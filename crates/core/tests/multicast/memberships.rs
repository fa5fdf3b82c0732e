//! What a host listens to, of all that its ports' containers do.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use proptest::collection::vec;
use proptest::prelude::*;
use shoutd_core::multicast::{Knowledge, Mdb, Memberships, SourceFilter, is_announced};

use crate::model::{memberships, packet};

/// What a port listens to, entry by entry as a bridge has it.
fn entries(memberships: &Memberships) -> Vec<(IpAddr, Knowledge)> {
    let of_group = |(group, filter): (&IpAddr, &SourceFilter)| {
        let (mode, sources, blocked) = match filter {
            SourceFilter::Include(sources) => (Knowledge::Include, sources.clone(), false),
            SourceFilter::Exclude(sources) => (Knowledge::Exclude, sources.clone(), true),
        };
        let group = *group;
        let sources =
            sources.into_iter().map(move |source| (group, Knowledge::Source { source, blocked }));
        std::iter::once((group, mode)).chain(sources)
    };
    memberships.groups.iter().flat_map(of_group).collect()
}

proptest! {
    #[test]
    fn memberships_are_what_all_ports_want_together(
        ports in vec(memberships(), 0..4),
        (source, group) in packet(),
        order in any::<u64>(),
    ) {
        let mut database = Mdb::default();
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
        // What changed leads from nothing to what there is, and so does what differs from an
        // earlier database.
        let mut noted = Mdb::default();
        std::mem::swap(&mut noted, &mut database);
        noted.note_changes_since(Mdb::default());
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

/// As many entries of one group as a bridge has room for, of a thousand ports: what all want
/// together is worked out once. Entry by entry it would take hours.
#[test]
fn a_crowd_in_one_group_is_taken_in_at_once() {
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
    assert!(
        matches!(&database.memberships().groups[&group], SourceFilter::Include(all) if all.len() == 32_000)
    );
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
    assert!(
        matches!(&database.memberships().groups[&group], SourceFilter::Include(all) if all.len() == 32)
    );
}
