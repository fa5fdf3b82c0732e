//! The health of hosts: the problems that `shoutdctl status` shows, and on which its exit code
//! depends.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::HostId;
use crate::limits::PROBLEMS_SHOWN_MAX;
use crate::view::{Engine, Membership, Status};

/// Maximum age, in milliseconds, of the last contact with the leader for agreed state to count as
/// current. It is longer than an election.
pub const FRESH: u64 = 5000;

/// The health of a host of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HostHealth {
    /// The host.
    pub id: HostId,
    /// Its name.
    pub name: String,
    /// Its problems, one line each; empty if it is healthy.
    pub problems: Vec<String>,
}

impl Status {
    /// All problems of the host, one line each.
    pub fn faults(&self) -> Vec<String> {
        let membership = match (&self.membership, self.agreed_ago) {
            (Membership::Joining(why), _) => {
                Some(format!("this host belongs to no cluster yet: {why}"))
            }
            (Membership::AwaitingApproval { host, .. }, _) => Some(format!(
                "this host belongs to no cluster yet: it is waiting for approval (run shoutdctl \
                 approve {host} on a host of the cluster)"
            )),
            (Membership::Member, Some(ago)) if ago < FRESH => None,
            (Membership::Member, ago) => Some(format!(
                "this host has no contact with the leader; agreed state as of {}",
                ago.map_or_else(
                    || "its last start".to_owned(),
                    |ago| format!("{} s ago", ago / 1000)
                )
            )),
        };
        let docker = match &self.docker {
            Engine::Serving(_) => None,
            Engine::Absent(why) => {
                Some(format!("this host does not serve its Docker Engine: {why}"))
            }
        };
        let mut faults: Vec<_> =
            membership.into_iter().chain(docker).chain(self.problems.iter().cloned()).collect();
        let surplus = faults.len().saturating_sub(PROBLEMS_SHOWN_MAX);
        faults.truncate(PROBLEMS_SHOWN_MAX);
        faults.extend((surplus > 0).then(|| format!("and {surplus} more problems")));
        faults
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(changes: &[(&str, serde_json::Value)]) -> Status {
        let mut status = json!({
            "version": "0.1.0", "pid": 7, "host": "00000000000000a1", "name": "h1",
            "address": "10.0.0.1:7789", "underlay_mtu": 1500, "agreed_ago": 40,
            "replication": "vxlan-mdb", "membership": {"state": "member"}, "role": "leader",
            "hosts": 1, "networks": 0, "endpoints": 0,
            "docker": {"state": "serving", "detail": "20.10"}, "problems": [],
        });
        for (field, value) in changes {
            status[field] = value.clone();
        }
        serde_json::from_value(status).unwrap()
    }

    #[test]
    fn everything_that_keeps_a_host_from_serving_is_a_problem() {
        assert_eq!(status(&[]).faults(), [""; 0]);
        for (field, value, words) in [
            ("agreed_ago", json!(9000), "no contact with the leader"),
            ("agreed_ago", json!(null), "its last start"),
            (
                "membership",
                json!({"state": "joining", "detail": "no answer yet from 10.0.0.2:7789"}),
                "10.0.0.2:7789",
            ),
            (
                "docker",
                json!({"state": "absent", "detail": "connection refused"}),
                "connection refused",
            ),
            ("problems", json!(["the table is full"]), "the table is full"),
        ] {
            let faults = status(&[(field, value)]).faults();
            assert!(faults.len() == 1 && faults[0].contains(words), "{faults:?}");
        }
    }

    #[test]
    fn the_number_of_shown_problems_is_limited() {
        let many: Vec<_> =
            (0..PROBLEMS_SHOWN_MAX + 7).map(|number| format!("problem {number}")).collect();
        let faults = status(&[("problems", json!(many))]).faults();
        assert_eq!(faults.len(), PROBLEMS_SHOWN_MAX + 1);
        assert_eq!(faults.last().unwrap(), "and 7 more problems");
    }
}
