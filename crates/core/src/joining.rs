//! The outcome of the peer addresses that were given at the start (`--peer-addresses`).

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// Which host a member finds at an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state", content = "detail")]
pub enum PeerStanding {
    /// A member of the same cluster, as the host says itself or as is agreed.
    Member,
    /// The host itself.
    Itself,
    /// A host of another cluster.
    OtherCluster,
    /// A host that belongs to no cluster yet.
    NoCluster,
    /// No valid answer; with the reason.
    Silent(String),
}

/// One peer address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerCheck {
    /// The address.
    pub address: SocketAddr,
    /// Which host is there.
    pub standing: PeerStanding,
}

impl PeerCheck {
    /// Why it was ignored; `None` for a member.
    fn ignored(&self) -> Option<String> {
        let address = self.address;
        match &self.standing {
            PeerStanding::Member => None,
            PeerStanding::Itself => Some(format!("{address} is this host itself")),
            PeerStanding::OtherCluster => Some(format!("{address} belongs to another cluster")),
            PeerStanding::NoCluster => Some(format!("{address} belongs to no cluster yet")),
            PeerStanding::Silent(why) => Some(why.clone()),
        }
    }
}

/// The outcome of all peer addresses, on a host that belongs to a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peers {
    /// One of them is a member of the cluster, or none was given. With the reasons why others were
    /// ignored.
    Met(Vec<String>),
    /// None is a member; with the reasons.
    Unmet(String),
}

/// Checks the peer addresses that were given. `come_later` says that the peers will join by
/// themselves, for example with a prepared token: then only those are wrong that cannot join.
pub fn judge_peers(checks: &[PeerCheck], come_later: bool) -> Peers {
    let (expected, wrong): (Vec<_>, Vec<_>) =
        checks.iter().partition(|check| match check.standing {
            PeerStanding::Member => true,
            PeerStanding::NoCluster | PeerStanding::Silent(_) => come_later,
            PeerStanding::Itself | PeerStanding::OtherCluster => false,
        });
    let is_met = checks.is_empty() || !expected.is_empty();
    let ignored: Vec<_> = wrong.into_iter().filter_map(PeerCheck::ignored).collect();
    if is_met { Peers::Met(ignored) } else { Peers::Unmet(ignored.join("; ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(last: u8, standing: PeerStanding) -> PeerCheck {
        PeerCheck { address: SocketAddr::from(([10, 0, 0, last], 7789)), standing }
    }

    fn silent() -> PeerStanding {
        PeerStanding::Silent("10.0.0.9:7789 cannot be reached: Connection refused".to_owned())
    }

    #[test]
    fn one_member_is_enough_and_ignored_addresses_are_reported() {
        assert_eq!(judge_peers(&[], false), Peers::Met(vec![]));
        let checks = [
            check(2, PeerStanding::Member),
            check(3, PeerStanding::OtherCluster),
            check(9, silent()),
        ];
        let Peers::Met(ignored) = judge_peers(&checks, false) else { panic!("not met") };
        assert_eq!(ignored.len(), 2);
        assert_eq!(ignored[0], "10.0.0.3:7789 belongs to another cluster");
    }

    #[test]
    fn without_a_member_the_outcome_is_unmet() {
        for standing in
            [PeerStanding::Itself, PeerStanding::OtherCluster, PeerStanding::NoCluster, silent()]
        {
            let Peers::Unmet(why) = judge_peers(&[check(9, standing.clone())], false) else {
                panic!("{standing:?}")
            };
            assert!(why.contains("10.0.0.9:7789"), "{why}");
        }
    }

    #[test]
    fn peers_that_join_later_need_not_answer_yet() {
        assert_eq!(
            judge_peers(&[check(2, PeerStanding::NoCluster), check(9, silent())], true),
            Peers::Met(vec![])
        );
        let wrong = judge_peers(
            &[check(1, PeerStanding::Itself), check(2, PeerStanding::OtherCluster)],
            true,
        );
        assert!(matches!(wrong, Peers::Unmet(_)));
    }
}
