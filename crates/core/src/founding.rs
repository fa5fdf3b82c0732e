//! Which of several hosts that start at the same time founds their cluster: the one with the lowest
//! address.
//!
//! With a prepared token, every host knows all others, and waits for them. The managers of a Docker
//! Swarm need not all run shoutd, so a manager cannot wait for the others: it counts the rounds in
//! which it asked them.

use std::net::SocketAddr;

/// Rounds in a row in which no manager of the Swarm belonged to a cluster, before one founds it.
/// Hosts that start at the same moment see each other from the second round on.
pub const ROUNDS_ALONE: u32 = 4;

/// Whether a host has a lower address than all of these.
pub fn is_lowest(own: SocketAddr, others: &[SocketAddr]) -> bool {
    others.iter().all(|other| own < *other)
}

/// The rounds in which a node of a Swarm asked the managers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SwarmRounds {
    own: SocketAddr,
    is_manager: bool,
    alone: u32,
}

impl SwarmRounds {
    /// No round yet. A worker founds no cluster.
    pub fn new(own: SocketAddr, is_manager: bool) -> Self {
        Self { own, is_manager, alone: 0 }
    }

    /// A round in which a manager belonged to a cluster, or could not tell.
    pub fn found_some(&mut self) {
        self.alone = 0;
    }

    /// A round in which no manager belonged to a cluster; on those in `idle`, shoutd runs. Returns
    /// whether this host founds the cluster now.
    pub fn found_none(&mut self, idle: &[SocketAddr]) -> bool {
        self.alone = self.alone.saturating_add(1);
        self.is_manager && self.alone >= ROUNDS_ALONE && is_lowest(self.own, idle)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn address(number: usize) -> SocketAddr {
        format!("10.0.0.{}:7789", number + 1).parse().unwrap()
    }

    #[test]
    fn a_worker_and_a_host_that_saw_a_cluster_found_none() {
        let mut worker = SwarmRounds::new(address(0), false);
        assert!((0..9).all(|_| !worker.found_none(&[])));
        let mut manager = SwarmRounds::new(address(0), true);
        for _ in 0..3 {
            assert!((1..ROUNDS_ALONE).all(|_| !manager.found_none(&[])));
            manager.found_some();
        }
        assert!((1..ROUNDS_ALONE).all(|_| !manager.found_none(&[address(1)])));
        assert!(manager.found_none(&[address(1)]));
        let mut higher = SwarmRounds::new(address(2), true);
        assert!((0..9).all(|_| !higher.found_none(&[address(1)])));
    }

    /// When a manager does something next, and what it saw when it asked: whether another is in a
    /// cluster, and the others that run.
    type Step = (u64, Option<(bool, Vec<SocketAddr>)>);

    /// One manager of a simulated Swarm.
    struct Manager {
        start: u64,
        rounds: SwarmRounds,
        in_cluster: bool,
    }

    impl Manager {
        fn runs(&self, now: u64) -> bool {
            self.start <= now
        }
    }

    proptest! {
        /// Time is in milliseconds. Rounds begin 500 ms to 1 s apart, and answers come within
        /// 300 ms.
        #[test]
        fn managers_that_start_at_any_time_found_one_cluster(
            starts in prop::collection::vec(0_u64..6_000, 1..6),
            waits in prop::collection::vec(500_u64..1_000, 64),
            delays in prop::collection::vec(0_u64..300, 64),
        ) {
            let mut managers: Vec<_> = starts
                .iter()
                .enumerate()
                .map(|(number, start)| Manager {
                    start: *start,
                    rounds: SwarmRounds::new(address(number), true),
                    in_cluster: false,
                })
                .collect();
            let mut next: Vec<Step> = starts.iter().map(|start| (*start, None)).collect();
            let mut founded = 0;
            for step in 0..2_000 {
                let Some(me) = (0..managers.len())
                    .filter(|index| !managers[*index].in_cluster)
                    .min_by_key(|index| next[*index].0)
                else {
                    break;
                };
                let now = next[me].0;
                match next[me].1.take() {
                    None => {
                        let others = managers.iter().enumerate().filter(|(other, _)| *other != me);
                        let running: Vec<_> = others.filter(|(_, one)| one.runs(now)).collect();
                        let some = running.iter().any(|(_, one)| one.in_cluster);
                        let idle = running.iter().map(|(number, _)| address(*number)).collect();
                        next[me] = (now + delays[(step * 7 + me) % 64], Some((some, idle)));
                    }
                    Some((true, _)) => {
                        managers[me].rounds.found_some();
                        managers[me].in_cluster = true;
                    }
                    Some((false, idle)) => {
                        if managers[me].rounds.found_none(&idle) {
                            managers[me].in_cluster = true;
                            founded += 1;
                        }
                        next[me] = (now + waits[(step * 5 + me) % 64], None);
                    }
                }
            }
            prop_assert_eq!(founded, 1);
            prop_assert!(managers.iter().all(|manager| manager.in_cluster));
        }
    }
}
