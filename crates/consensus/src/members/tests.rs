use proptest::prelude::*;

use super::*;

fn id(value: u64) -> HostId {
    HostId::new(value).unwrap()
}

fn set(ids: &[u64]) -> BTreeSet<HostId> {
    ids.iter().copied().map(id).collect()
}

fn hosts_of(ids: &BTreeSet<HostId>) -> BTreeMap<HostId, Host> {
    let host = |id: &HostId| Host {
        name: format!("h{id}"),
        address: format!("10.0.0.{}:7789", id.get()).parse().unwrap(),
        subnets: vec![],
    };
    ids.iter().map(|id| (*id, host(id))).collect()
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

/// What host 1 sees as the leader.
fn sight(ready: &[u64], away: &[u64]) -> HostView {
    HostView {
        ready: &set(ready) | &set(&[1]),
        away: set(away),
        leader: Some(id(1)),
        ..HostView::default()
    }
}

#[test]
fn nothing_to_do_before_the_cluster_is_founded_or_when_all_is_well() {
    assert_eq!(next_change(&Members::default(), &hosts(1), &sight(&[], &[])), None);
    assert_eq!(next_change(&members(&[&[1]], 1), &hosts(0), &sight(&[], &[])), None);
    assert_eq!(next_change(&members(&[&[1, 2]], 2), &hosts(2), &sight(&[2], &[])), None);
    assert_eq!(next_change(&members(&[&[1, 2]], 2), &hosts(2), &sight(&[], &[])), None);
}

#[test]
fn hosts_are_added_then_moved_then_promoted() {
    let added = next_change(&members(&[&[1]], 1), &hosts(2), &sight(&[2], &[]));
    assert_eq!(added, Some(Change::Add([(id(2), "10.0.0.2:7789".to_owned())].into())));
    let mut old = members(&[&[1]], 2);
    old.addresses.insert(id(2), "10.0.0.9:7789".to_owned());
    let moved = next_change(&old, &hosts(2), &sight(&[2], &[]));
    assert_eq!(moved, Some(Change::Move([(id(2), "10.0.0.2:7789".to_owned())].into())));
    let promoted = next_change(&members(&[&[1]], 2), &hosts(2), &sight(&[2], &[]));
    assert_eq!(promoted, Some(Change::Voters(set(&[1, 2]))));
}

#[test]
fn removed_hosts_lose_their_vote_and_go_once_they_know() {
    let two = hosts(2);
    let changed = next_change(&members(&[&[1, 2, 3]], 3), &two, &sight(&[2, 3], &[]));
    assert_eq!(changed, Some(Change::Voters(set(&[1, 2]))));
    assert_eq!(next_change(&members(&[&[1, 2]], 3), &two, &sight(&[2, 3], &[])), None);
    let told = HostView { dismissed: set(&[3]), ..sight(&[2, 3], &[]) };
    assert_eq!(next_change(&members(&[&[1, 2]], 3), &two, &told), Some(Change::Drop(set(&[3]))));
    // The leader itself.
    let others = hosts_of(&set(&[2, 3]));
    let changed = next_change(&members(&[&[1, 2, 3]], 3), &others, &sight(&[2, 3], &[]));
    assert_eq!(changed, Some(Change::Voters(set(&[2, 3]))));
}

/// The vote first: a host that was removed and kept its vote could not be done without, if it never
/// came back.
#[test]
fn a_host_that_is_about_to_be_removed_has_no_vote_any_more() {
    let leaving = |ready: &[u64]| HostView { leaving: set(&[2]), ..sight(ready, &[]) };
    let two = members(&[&[1, 2]], 3);
    assert_eq!(next_change(&two, &hosts(3), &leaving(&[2])), Some(Change::Voters(set(&[1]))));
    assert_eq!(next_change(&two, &hosts(3), &leaving(&[2, 3])), Some(Change::Voters(set(&[1, 3]))));
    // Nor does it get one back meanwhile.
    assert_eq!(next_change(&members(&[&[1]], 2), &hosts(2), &leaving(&[2])), None);
}

#[test]
fn a_change_that_was_left_half_done_is_finished() {
    let half_done = members(&[&[1, 2], &[1, 2, 3]], 3);
    assert_eq!(
        next_change(&half_done, &hosts(4), &sight(&[], &[])),
        Some(Change::Voters(set(&[1, 2, 3])))
    );
}

#[test]
fn votes_are_an_odd_number_but_for_two() {
    let all: Vec<u64> = (1..=9).collect();
    for (count, voters) in [(1, 1), (2, 2), (3, 3), (4, 3), (5, 5), (6, 5), (9, 5)] {
        let chosen = choose_voters(&set(&[1]), &hosts(count), &sight(&all, &[]));
        assert_eq!(chosen.len(), voters, "of {count}");
    }
    // A fourth or fifth that is not ready would make it four.
    assert_eq!(
        choose_voters(&set(&[1, 2, 3]), &hosts(5), &sight(&[2, 3, 4], &[])),
        set(&[1, 2, 3])
    );
    assert_eq!(
        choose_voters(&set(&[1, 2, 3]), &hosts(5), &sight(&[2, 3, 4, 5], &[])),
        set(&[1, 2, 3, 4, 5])
    );
}

#[test]
fn who_is_not_ready_gets_no_vote() {
    assert_eq!(choose_voters(&set(&[1]), &hosts(3), &sight(&[], &[])), set(&[1]));
    assert_eq!(choose_voters(&set(&[1]), &hosts(3), &sight(&[3], &[])), set(&[1, 3]));
}

#[test]
fn of_four_voters_that_remain_one_goes() {
    // Host 5 was removed. The one that is not there goes, or else the one with the highest id, and
    // never the leader.
    let four = hosts(4);
    assert_eq!(
        choose_voters(&set(&[1, 2, 3, 4, 5]), &four, &sight(&[2, 3, 4], &[])),
        set(&[1, 2, 3])
    );
    assert_eq!(choose_voters(&set(&[1, 2, 3, 4, 5]), &four, &sight(&[3, 4], &[])), set(&[1, 3, 4]));
    let led_by_4 = HostView { leader: Some(id(4)), ..sight(&[2, 3, 4], &[]) };
    assert_eq!(choose_voters(&set(&[1, 2, 3, 4, 5]), &four, &led_by_4), set(&[1, 2, 4]));
}

#[test]
fn a_voter_that_is_away_for_long_is_replaced_and_does_not_come_back() {
    let four = hosts(4);
    let voters = set(&[1, 2, 3]);
    assert_eq!(choose_voters(&voters, &four, &sight(&[2, 4], &[])), voters, "it is only slow");
    assert_eq!(choose_voters(&voters, &four, &sight(&[2, 4], &[3])), set(&[1, 2, 4]));
    assert_eq!(
        choose_voters(&set(&[1, 2, 4]), &four, &sight(&[2, 3, 4], &[])),
        set(&[1, 2, 4]),
        "it is back"
    );
    assert_eq!(
        choose_voters(&voters, &hosts(3), &sight(&[2], &[3])),
        voters,
        "there is none to replace it"
    );
    assert_eq!(
        choose_voters(&voters, &four, &sight(&[2], &[3])),
        voters,
        "the only one is not ready"
    );
    // Two at a time.
    let seven = hosts(7);
    assert_eq!(
        choose_voters(&set(&[1, 2, 3, 4, 5]), &seven, &sight(&[3, 5, 6, 7], &[2, 4])),
        set(&[1, 3, 5, 6, 7])
    );
}

#[test]
fn nothing_changes_that_would_leave_no_majority() {
    // Host 3 was removed, and host 2 does not answer.
    let voters = set(&[1, 2, 3]);
    assert_eq!(choose_voters(&voters, &hosts(2), &sight(&[3], &[])), voters);
    // With a fourth there is one.
    assert_eq!(
        choose_voters(&voters, &hosts_of(&set(&[1, 2, 4])), &sight(&[3, 4], &[])),
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
        voters in subset(9), admitted in subset(9), ready in subset(9), away in subset(9), leader in (1..=9_u64).prop_map(id),
    ) {
        let voters = &voters | &BTreeSet::from([leader]);
        let ready = &ready | &BTreeSet::from([leader]);
        let away = &(&away & &voters) - &ready;
        let admitted = hosts_of(&admitted);
        let mut sight = HostView { ready: ready.clone(), away, leader: Some(leader), ..HostView::default() };
        let chosen = choose_voters(&voters, &admitted, &sight);
        if chosen == voters {
            return Ok(());
        }
        prop_assert!(chosen.len() <= VOTERS_MAX);
        prop_assert!(chosen.iter().all(|id| admitted.contains_key(id)), "only admitted hosts vote");
        prop_assert!((&chosen - &voters).is_subset(&ready), "a vote goes to those only that are ready");
        prop_assert!(chosen.intersection(&ready).count() > chosen.len() / 2, "most of them are ready");
        prop_assert!(chosen.contains(&leader) || !admitted.contains_key(&leader), "a leader stays that is admitted");
        // Once it is so, it is settled, whether or not those that were away come back.
        sight.away = &sight.away & &chosen;
        prop_assert_eq!(choose_voters(&chosen, &admitted, &sight), chosen.clone());
        sight.away.clear();
        prop_assert_eq!(choose_voters(&chosen, &admitted, &sight), chosen);
    }

    #[test]
    fn who_is_slow_for_a_moment_keeps_the_vote(admitted in subset(9), ready in subset(9)) {
        let leader = id(1);
        let admitted = hosts_of(&(&admitted | &BTreeSet::from([leader])));
        let all = HostView { ready: admitted.keys().copied().collect(), leader: Some(leader), ..HostView::default() };
        let voters = choose_voters(&BTreeSet::from([leader]), &admitted, &all);
        let fewer = HostView { ready: &ready | &BTreeSet::from([leader]), ..all };
        prop_assert_eq!(choose_voters(&voters, &admitted, &fewer), voters);
    }
}
