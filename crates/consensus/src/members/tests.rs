use proptest::prelude::*;

use super::*;

fn id(value: u64) -> HostId {
    HostId::new(value).unwrap()
}

fn set(ids: &[u64]) -> BTreeSet<HostId> {
    ids.iter().copied().map(id).collect()
}

fn hosts_of(ids: &BTreeSet<HostId>) -> BTreeMap<HostId, Host> {
    ids.iter().map(|id| (*id, host(*id))).collect()
}

fn host(id: HostId) -> Host {
    Host {
        name: format!("h{id}"),
        address: format!("10.0.0.{}:7789", id.get()).parse().unwrap(),
        subnets: vec![],
    }
}

fn hosts(count: u64) -> BTreeMap<HostId, Host> {
    hosts_of(&(1..=count).map(id).collect())
}

fn members(voters: &[&[u64]], members: u64) -> Members {
    Members {
        voters: voters.iter().map(|ids| set(ids)).collect(),
        addresses: hosts(members)
            .into_iter()
            .map(|(id, host)| (id, host.address.to_string()))
            .collect(),
    }
}

/// The view of host 1 as the leader.
fn view(ready: &[u64], away: &[u64]) -> HostView {
    HostView {
        ready: &set(ready) | &set(&[1]),
        away: set(away),
        leader: Some(id(1)),
        ..HostView::default()
    }
}

#[test]
fn no_change_before_the_cluster_is_founded_or_when_all_is_well() {
    assert_eq!(next_change(&Members::default(), &hosts(1), &view(&[], &[])), None);
    assert_eq!(next_change(&members(&[&[1]], 1), &hosts(0), &view(&[], &[])), None);
    assert_eq!(next_change(&members(&[&[1, 2]], 2), &hosts(2), &view(&[2], &[])), None);
    assert_eq!(next_change(&members(&[&[1, 2]], 2), &hosts(2), &view(&[], &[])), None);
}

#[test]
fn hosts_are_added_then_moved_then_promoted() {
    let added = next_change(&members(&[&[1]], 1), &hosts(2), &view(&[2], &[]));
    assert_eq!(added, Some(Change::Add([(id(2), "10.0.0.2:7789".to_owned())].into())));
    let mut old = members(&[&[1]], 2);
    old.addresses.insert(id(2), "10.0.0.9:7789".to_owned());
    let moved = next_change(&old, &hosts(2), &view(&[2], &[]));
    assert_eq!(moved, Some(Change::Move([(id(2), "10.0.0.2:7789".to_owned())].into())));
    let promoted = next_change(&members(&[&[1]], 2), &hosts(2), &view(&[2], &[]));
    assert_eq!(promoted, Some(Change::Voters(set(&[1, 2]))));
}

#[test]
fn removed_hosts_lose_their_vote_and_are_dropped_once_they_know() {
    let two = hosts(2);
    let changed = next_change(&members(&[&[1, 2, 3]], 3), &two, &view(&[2, 3], &[]));
    assert_eq!(changed, Some(Change::Voters(set(&[1, 2]))));
    assert_eq!(next_change(&members(&[&[1, 2]], 3), &two, &view(&[2, 3], &[])), None);
    let told = HostView { dismissed: set(&[3]), ..view(&[2, 3], &[]) };
    assert_eq!(next_change(&members(&[&[1, 2]], 3), &two, &told), Some(Change::Drop(set(&[3]))));
    // The leader itself.
    let others = hosts_of(&set(&[2, 3]));
    let changed = next_change(&members(&[&[1, 2, 3]], 3), &others, &view(&[2, 3], &[]));
    assert_eq!(changed, Some(Change::Voters(set(&[2, 3]))));
}

/// The vote first: if a removed host kept its vote and never came back, the others might lack a
/// quorum.
#[test]
fn a_host_that_is_being_removed_loses_its_vote_first() {
    for (voters, count, ready, expected) in [
        (&[1, 2][..], 3, &[2][..], Some(Change::Voters(set(&[1])))),
        (&[1, 2][..], 3, &[2, 3][..], Some(Change::Voters(set(&[1, 3])))),
        // It does not get one back during its removal.
        (&[1][..], 2, &[2][..], None),
    ] {
        let view = HostView { leaving: set(&[2]), ..view(ready, &[]) };
        let change = next_change(&members(&[voters], count), &hosts(count), &view);
        assert_eq!(change, expected, "voters {voters:?}, ready {ready:?}");
    }
}

#[test]
fn a_change_that_was_left_half_done_is_finished() {
    let half_done = members(&[&[1, 2], &[1, 2, 3]], 3);
    assert_eq!(
        next_change(&half_done, &hosts(4), &view(&[], &[])),
        Some(Change::Voters(set(&[1, 2, 3])))
    );
}

#[test]
fn the_number_of_voters_is_odd_or_two() {
    let all: Vec<u64> = (1..=9).collect();
    for (count, voters) in [(1, 1), (2, 2), (3, 3), (4, 3), (5, 5), (6, 5), (9, 5)] {
        let chosen = choose_voters(&set(&[1]), &hosts(count), &view(&all, &[]));
        assert_eq!(chosen.len(), voters, "of {count}");
    }
    // Host 5 is not ready, and four voters would be an even number.
    assert_eq!(choose_voters(&set(&[1, 2, 3]), &hosts(5), &view(&[2, 3, 4], &[])), set(&[1, 2, 3]));
    assert_eq!(
        choose_voters(&set(&[1, 2, 3]), &hosts(5), &view(&[2, 3, 4, 5], &[])),
        set(&[1, 2, 3, 4, 5])
    );
}

#[test]
fn a_host_that_is_not_ready_gets_no_vote() {
    assert_eq!(choose_voters(&set(&[1]), &hosts(3), &view(&[], &[])), set(&[1]));
    assert_eq!(choose_voters(&set(&[1]), &hosts(3), &view(&[3], &[])), set(&[1, 3]));
}

#[test]
fn of_four_remaining_voters_one_loses_its_vote() {
    // Host 5 was removed. The one that is not ready loses its vote, or else the one with the
    // highest id, but never the leader.
    let four = hosts(4);
    assert_eq!(
        choose_voters(&set(&[1, 2, 3, 4, 5]), &four, &view(&[2, 3, 4], &[])),
        set(&[1, 2, 3])
    );
    assert_eq!(choose_voters(&set(&[1, 2, 3, 4, 5]), &four, &view(&[3, 4], &[])), set(&[1, 3, 4]));
    let led_by_4 = HostView { leader: Some(id(4)), ..view(&[2, 3, 4], &[]) };
    assert_eq!(choose_voters(&set(&[1, 2, 3, 4, 5]), &four, &led_by_4), set(&[1, 2, 4]));
}

#[test]
fn a_voter_that_is_away_for_long_is_replaced_and_gets_no_vote_back() {
    let four = hosts(4);
    let voters = set(&[1, 2, 3]);
    assert_eq!(choose_voters(&voters, &four, &view(&[2, 4], &[])), voters, "it is only slow");
    assert_eq!(choose_voters(&voters, &four, &view(&[2, 4], &[3])), set(&[1, 2, 4]));
    assert_eq!(
        choose_voters(&set(&[1, 2, 4]), &four, &view(&[2, 3, 4], &[])),
        set(&[1, 2, 4]),
        "it is back"
    );
    assert_eq!(
        choose_voters(&voters, &hosts(3), &view(&[2], &[3])),
        voters,
        "no host can replace it"
    );
    assert_eq!(
        choose_voters(&voters, &four, &view(&[2], &[3])),
        voters,
        "the only candidate is not ready"
    );
    // Two at a time.
    let seven = hosts(7);
    assert_eq!(
        choose_voters(&set(&[1, 2, 3, 4, 5]), &seven, &view(&[3, 5, 6, 7], &[2, 4])),
        set(&[1, 3, 5, 6, 7])
    );
}

#[test]
fn a_change_that_would_leave_no_majority_is_not_made() {
    // Host 3 was removed, and host 2 does not answer.
    let voters = set(&[1, 2, 3]);
    assert_eq!(choose_voters(&voters, &hosts(2), &view(&[3], &[])), voters);
    // With a fourth host there is a majority.
    assert_eq!(
        choose_voters(&voters, &hosts_of(&set(&[1, 2, 4])), &view(&[3, 4], &[])),
        set(&[1, 2, 4])
    );
}

fn subset(largest: u64) -> impl Strategy<Value = BTreeSet<HostId>> {
    proptest::collection::btree_set(
        (1..=largest).prop_map(id),
        0..=usize::try_from(largest).unwrap(),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_choice_is_safe_and_settles(
        voters in subset(9),
        admitted in subset(9),
        ready in subset(9),
        away in subset(9),
        leader in (1..=9_u64).prop_map(id),
    ) {
        let voters = &voters | &BTreeSet::from([leader]);
        let ready = &ready | &BTreeSet::from([leader]);
        let away = &(&away & &voters) - &ready;
        let admitted = hosts_of(&admitted);
        let (ready_hosts, leader_id) = (ready.clone(), Some(leader));
        let mut view =
            HostView { ready: ready_hosts, away, leader: leader_id, ..HostView::default() };
        let chosen = choose_voters(&voters, &admitted, &view);
        if chosen == voters {
            return Ok(());
        }
        prop_assert!(chosen.len() <= VOTERS_MAX);
        prop_assert!(chosen.iter().all(|id| admitted.contains_key(id)), "only admitted hosts vote");
        let new = &chosen - &voters;
        prop_assert!(new.is_subset(&ready), "only hosts that are ready get a vote");
        let ready_voters = chosen.intersection(&ready).count();
        prop_assert!(ready_voters > chosen.len() / 2, "most of them are ready");
        let keeps_leader = chosen.contains(&leader) || !admitted.contains_key(&leader);
        prop_assert!(keeps_leader, "an admitted leader keeps its vote");
        // The choice is stable, whether or not hosts that were away come back.
        view.away = &view.away & &chosen;
        prop_assert_eq!(choose_voters(&chosen, &admitted, &view), chosen.clone());
        view.away.clear();
        prop_assert_eq!(choose_voters(&chosen, &admitted, &view), chosen);
    }

    #[test]
    fn a_host_that_is_slow_for_a_moment_keeps_its_vote(admitted in subset(9), ready in subset(9)) {
        let leader = id(1);
        let admitted = hosts_of(&(&admitted | &BTreeSet::from([leader])));
        let ready_hosts = admitted.keys().copied().collect();
        let all =
            HostView { ready: ready_hosts, leader: Some(leader), ..HostView::default() };
        let voters = choose_voters(&BTreeSet::from([leader]), &admitted, &all);
        let fewer = HostView { ready: &ready | &BTreeSet::from([leader]), ..all };
        prop_assert_eq!(choose_voters(&voters, &admitted, &fewer), voters);
    }
}
