//! How far a rotation of the preshared keys has come.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::HostId;
use crate::cluster::Cluster;

/// Asks for the progress of a rotation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AskRotation {
    /// The rotation.
    pub rotation: u64,
    /// How long to wait for its end, in milliseconds.
    pub patience: u64,
}

/// The progress of a rotation of the preshared keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeyRotation {
    /// The rotation: it counts how often users asked for other keys.
    pub rotation: u64,
    /// How many pairs of hosts have a key of this rotation.
    pub renewed: usize,
    /// The pairs of hosts that answer and have not got one yet, by the hosts' names.
    pub pending: Vec<(String, String)>,
    /// The hosts that do not answer. Their keys change when they are back.
    pub away: Vec<String>,
}

/// The progress, by what each host answers: the hosts with which it has no key of this rotation
/// yet, or `None` if it does not answer.
pub fn progress(
    cluster: &Cluster,
    rotation: u64,
    answers: &BTreeMap<HostId, Option<BTreeSet<HostId>>>,
) -> KeyRotation {
    let mut progress = KeyRotation { rotation, renewed: 0, pending: vec![], away: vec![] };
    let answer = |host: &HostId| answers.get(host).and_then(Option::as_ref);
    let hosts: Vec<_> = cluster.hosts.iter().collect();
    for (place, (one, host)) in hosts.iter().enumerate() {
        let Some(behind_one) = answer(one) else {
            progress.away.push(host.name.clone());
            continue;
        };
        for (other, other_host) in hosts.iter().skip(place + 1) {
            let Some(behind_other) = answer(other) else { continue };
            if behind_one.contains(other) || behind_other.contains(one) {
                progress.pending.push((host.name.clone(), other_host.name.clone()));
            } else {
                progress.renewed += 1;
            }
        }
    }
    progress.away.sort();
    progress.pending.sort();
    progress
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Host;

    #[test]
    fn a_pair_counts_if_both_have_the_key_and_a_host_that_is_away_is_only_named() {
        let mut cluster = Cluster::default();
        let id = |number: u64| HostId::new(number).unwrap();
        for number in 1..=4_u8 {
            let (name, address) = (format!("host{number}"), ([10, 0, 0, number], 7789).into());
            cluster.hosts.insert(id(number.into()), Host { name, address, subnets: vec![] });
        }
        let behind = |hosts: &[u64]| Some(hosts.iter().map(|number| id(*number)).collect());
        let answers =
            [(id(1), behind(&[4])), (id(2), behind(&[4, 3])), (id(3), behind(&[4])), (id(4), None)];
        let found = progress(&cluster, 7, &answers.into());
        let pair = |one: &str, other: &str| (one.to_owned(), other.to_owned());
        assert_eq!((found.rotation, found.renewed), (7, 2));
        assert_eq!(found.pending, [pair("host2", "host3")]);
        assert_eq!(found.away, ["host4"]);
    }
}
