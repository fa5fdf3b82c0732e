//! A model of hosts that learn at different times that their authority was replaced.

use proptest::prelude::*;

use super::*;

const HOSTS: u64 = 4;

fn id(number: u64) -> HostId {
    HostId::new(number + 1).unwrap()
}

/// Agreed state after some replacements and removals. `log[n]` is its n-th version.
type Version = Agreed<u32>;

#[derive(Debug, Clone)]
struct Host {
    authorities: Authorities<u32>,
    version: usize,
}

/// What happens. Numbers are taken modulo what there is.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// The cluster replaces its authority; this host issues the new one.
    Replace(u64),
    /// The cluster removes this host.
    Remove(u64),
    /// This host learns of so many versions.
    Learn(u64, usize),
    /// This host asks that one for a certificate.
    Ask(u64, u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => (0..HOSTS).prop_map(Step::Replace),
        1 => (0..HOSTS).prop_map(Step::Remove),
        4 => (0..HOSTS, 1..3_usize).prop_map(|(host, count)| Step::Learn(host, count)),
        4 => (0..HOSTS, 0..HOSTS).prop_map(|(host, of)| Step::Ask(host, of)),
    ]
}

struct Model {
    log: Vec<Version>,
    hosts: Vec<Host>,
    removed: BTreeSet<HostId>,
}

impl Model {
    fn new() -> Self {
        let first =
            Agreed { current: Some(0), former: vec![], members: (0..HOSTS).map(id).collect() };
        let authorities = Authorities { own: 0, own_former: vec![], agreed: first.clone() };
        let host = Host { authorities, version: 0 };
        let hosts = vec![host; usize::try_from(HOSTS).unwrap()];
        Self { log: vec![first], hosts, removed: BTreeSet::new() }
    }

    fn host(&mut self, number: u64) -> &mut Host {
        &mut self.hosts[usize::try_from(number).unwrap()]
    }

    fn take(&mut self, number: u64, authority: u32) {
        let authorities = &mut self.host(number).authorities;
        if authorities.own != authority {
            authorities.own_former.insert(0, authorities.own);
            authorities.own = authority;
        }
    }

    fn step(&mut self, step: Step) {
        let newest = self.log.last().unwrap().clone();
        match step {
            Step::Replace(by) if newest.members.contains(&id(by)) => {
                let authority = u32::try_from(self.log.len()).unwrap();
                let former = newest.former.iter().copied().chain(newest.current).collect();
                self.log.push(Agreed { current: Some(authority), former, ..newest });
                let version = self.log.len();
                self.learn(by, version);
                self.take(by, authority);
            }
            Step::Remove(host) if newest.members.len() > 2 => {
                let members = newest.members.into_iter().filter(|other| *other != id(host));
                self.removed.insert(id(host));
                self.log.push(Agreed { members: members.collect(), ..newest });
            }
            Step::Learn(host, count) if !self.removed.contains(&id(host)) => {
                self.learn(host, count);
            }
            Step::Ask(host, of) if host != of && self.connect(host, of) => {
                let known = self.host(of).authorities.clone();
                let may = known.agreed.members.contains(&id(host)) && !known.needs_certificate();
                if may && Some(known.own) == known.agreed.current {
                    self.take(host, known.own);
                }
            }
            _ => {}
        }
    }

    fn learn(&mut self, number: u64, count: usize) {
        let newest = self.log.len() - 1;
        let host = self.host(number);
        host.version = newest.min(host.version + count);
        let version = self.host(number).version;
        let agreed = self.log[version].clone();
        self.host(number).authorities.agreed = agreed;
    }

    /// Whether a handshake between two hosts succeeds: each shows what the other names.
    fn connect(&self, one: u64, other: u64) -> bool {
        let [a, b] = [one, other].map(|n| &self.hosts[usize::try_from(n).unwrap()].authorities);
        let shows = |from: &Authorities<u32>, to: &Authorities<u32>| {
            let index = from.shown(|authority| to.named().any(|named| named == authority));
            std::iter::once(from.own).chain(from.own_former.clone()).nth(index).unwrap()
        };
        b.accepts(&shows(a, b), id(one)) && a.accepts(&shows(b, a), id(other))
    }
}

proptest! {
    /// Two members can always connect. A host that knows of a replacement accepts no certificate of
    /// the former authority from a host that is not a member.
    #[test]
    fn members_connect_and_a_former_authority_admits_no_host(
        steps in proptest::collection::vec(step(), 0..40)
    ) {
        let mut model = Model::new();
        for step in steps {
            model.step(step);
            let thief = id(99);
            for one in 0..HOSTS {
                let host = model.hosts[usize::try_from(one).unwrap()].clone();
                for former in &host.authorities.agreed.former {
                    prop_assert!(!host.authorities.accepts(former, thief));
                }
                let is_removed = |number| model.removed.contains(&id(number));
                for other in (0..HOSTS).filter(|other| !is_removed(*other) && !is_removed(one)) {
                    prop_assert!(model.connect(one, other), "{one} {other} {:?}", model.hosts);
                }
            }
        }
    }

    /// Once a host knows the newest state, a removed host's certificates are of no use, and it
    /// needs to ask only one member that has the new authority.
    #[test]
    fn all_members_reach_the_newest_authority(
        steps in proptest::collection::vec(step(), 0..40)
    ) {
        let mut model = Model::new();
        for step in steps {
            model.step(step);
        }
        let newest = model.log.len() - 1;
        let members: Vec<u64> =
            (0..HOSTS).filter(|number| !model.removed.contains(&id(*number))).collect();
        for member in &members {
            model.learn(*member, newest);
        }
        for member in &members {
            for other in &members {
                model.step(Step::Ask(*member, *other));
            }
        }
        let current = model.log[newest].current;
        let held = |member: &u64| model.hosts[usize::try_from(*member).unwrap()].authorities.own;
        // The host that issued the newest authority may have been removed before others asked it.
        if members.iter().any(|member| Some(held(member)) == current) {
            for member in &members {
                prop_assert_eq!(Some(held(member)), current);
                let authorities = &model.hosts[usize::try_from(*member).unwrap()].authorities;
                prop_assert!(!authorities.needs_certificate());
                for removed in &model.removed {
                    for former in &authorities.agreed.former {
                        prop_assert!(!authorities.accepts(former, *removed));
                    }
                }
            }
        }
    }
}

#[test]
fn without_agreed_state_only_its_own_authority_counts() {
    let new = Authorities { own: 1, own_former: vec![], agreed: Agreed::default() };
    assert_eq!(new.accepted(&1), Accepted::FromAll);
    assert_eq!(new.accepted(&2), Accepted::FromNone);
    assert!(!new.needs_certificate());
    assert_eq!(new.shown(|_| false), 0);
}
