//! How hosts are doing: what `shoutdctl status` takes for a problem, and its exit code goes by.

use serde::{Deserialize, Serialize};

use crate::HostId;
use crate::limits::PROBLEMS_SHOWN_MAX;
use crate::view::{Engine, Membership, Status};

/// How long ago a leader may have been heard, in milliseconds, for the view of what is agreed to be
/// that of all: longer than an election.
pub const FRESH: u64 = 5000;

/// How a host of the cluster is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostHealth {
    /// The host.
    pub id: HostId,
    /// Its name.
    pub name: String,
    /// What is wrong with it, one line each; nothing if all is well.
    pub problems: Vec<String>,
}

impl Status {
    /// All that is wrong with the host, one line each.
    pub fn faults(&self) -> Vec<String> {
        let standing = match (&self.membership, self.agreed_ago) {
            (Membership::Joining(why), _) => {
                Some(format!("this host belongs to no cluster yet: {why}"))
            }
            (Membership::AwaitingApproval { host, .. }, _) => Some(format!(
                "this host belongs to no cluster yet: it waits for shoutdctl approve {host} on a \
                 host of the cluster"
            )),
            (Membership::Member, Some(ago)) if ago < FRESH => None,
            (Membership::Member, ago) => Some(format!(
                "this host hears no leader: what is agreed is as of {}",
                ago.map_or_else(
                    || "its last start".to_owned(),
                    |ago| format!("{} s ago", ago / 1000)
                )
            )),
        };
        let docker = match &self.docker {
            Engine::Serving(_) => None,
            Engine::Absent(why) => Some(format!("this host's Docker Engine is not served: {why}")),
        };
        let mut faults: Vec<_> =
            standing.into_iter().chain(docker).chain(self.problems.iter().cloned()).collect();
        let surplus = faults.len().saturating_sub(PROBLEMS_SHOWN_MAX);
        faults.truncate(PROBLEMS_SHOWN_MAX);
        faults.extend((surplus > 0).then(|| format!("and {surplus} problems more")));
        faults
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(changes: &[(&str, serde_json::Value)]) -> Status {
        let mut status = json!({
            "version": "0.1.0", "pid": 7, "host": "00000000000000a1", "name": "h1", "address": "10.0.0.1:7789", "underlay_mtu": 1500,
            "agreed_ago": 40, "replication": "vxlan-mdb", "membership": {"state": "member"}, "role": "leader", "hosts": 1,
            "networks": 0, "endpoints": 0, "docker": {"state": "serving", "detail": "20.10"}, "problems": [],
        });
        for (field, value) in changes {
            status[field] = value.clone();
        }
        serde_json::from_value(status).unwrap()
    }

    #[test]
    fn whatever_keeps_a_host_from_serving_is_a_problem() {
        assert_eq!(status(&[]).faults(), [""; 0]);
        for (field, value, words) in [
            ("agreed_ago", json!(9000), "hears no leader"),
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
    fn there_is_a_limit_to_what_is_told() {
        let many: Vec<_> =
            (0..PROBLEMS_SHOWN_MAX + 7).map(|number| format!("problem {number}")).collect();
        let faults = status(&[("problems", json!(many))]).faults();
        assert_eq!(faults.len(), PROBLEMS_SHOWN_MAX + 1);
        assert_eq!(faults.last().unwrap(), "and 7 problems more");
    }
}
