//! Graceful restart: remotes that an earlier daemon programmed stay until all hosts have
//! advertised.
//!
//! While the cluster has no quorum, no `Attach` can be committed. That a host has a network is then
//! known only from its advertisement. A restarted daemon has lost the advertisements of its peers,
//! and gets them again within seconds. Until all hosts have advertised, the remotes found at start
//! stay in the flood entries.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use shoutd_core::Vni;
use shoutd_core::plane::{Action, Desired, Observed};

/// The flood entries found at the first observation, by segment, that have not been desired yet.
#[derive(Debug, Default)]
pub(crate) struct GracefulRestart {
    found: Option<BTreeMap<Vni, BTreeSet<IpAddr>>>,
}

impl GracefulRestart {
    /// Records the first observation, and the desired state.
    pub(crate) fn note(&mut self, observed: &Observed, desired: &Desired) {
        let found = self.found.get_or_insert_with(|| {
            observed.segments.iter().map(|(vni, segment)| (*vni, segment.flood.clone())).collect()
        });
        found.retain(|vni, hosts| {
            let waiting =
                desired.segments.get(vni).filter(|segment| segment.replication.provisional);
            waiting.is_some_and(|segment| {
                hosts.retain(|host| !segment.remotes.contains(host));
                !hosts.is_empty()
            })
        });
    }

    /// Whether the action may be executed now.
    pub(crate) fn permits(&self, action: &Action) -> bool {
        let Action::RemoveFlood { vni, remote } = action else {
            return true;
        };
        let hosts = self.found.as_ref().and_then(|found| found.get(vni));
        hosts.is_none_or(|hosts| !hosts.contains(remote))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    use shoutd_core::multicast::Replication;
    use shoutd_core::plane::{ObservedSegment, Segment, Vtep, diff};

    use super::*;

    fn host(last: u8) -> IpAddr {
        Ipv4Addr::new(192, 0, 2, last).into()
    }

    fn vni() -> Vni {
        Vni::new(7).unwrap()
    }

    fn desired(remotes: &[IpAddr], provisional: bool) -> Desired {
        let vtep = Vtep { address: host(1), port: 7789, encrypted: false };
        let segment = Segment {
            remotes: remotes.iter().copied().collect(),
            replication: Arc::new(Replication { provisional, ..Replication::default() }),
            ..Segment::empty("a".repeat(64).parse().unwrap(), 1450, vtep)
        };
        Desired { segments: BTreeMap::from([(vni(), segment)]), ..Desired::default() }
    }

    fn observed(flood: &[IpAddr]) -> Observed {
        let segment = ObservedSegment {
            flood: flood.iter().copied().collect(),
            ..ObservedSegment::default()
        };
        Observed { segments: BTreeMap::from([(vni(), segment)]), ..Observed::default() }
    }

    /// The hosts that are removed from the flood entries.
    fn removed(
        graceful_restart: &mut GracefulRestart,
        observed: &Observed,
        desired: &Desired,
    ) -> Vec<IpAddr> {
        graceful_restart.note(observed, desired);
        let mut kept = observed.clone();
        // A recreated tunnel would have nothing to remove.
        let tunnel = &mut kept.segments.get_mut(&vni()).unwrap().tunnel;
        *tunnel = Some(tunnel_of(desired));
        let mut removed = Vec::new();
        for action in diff(desired, &kept) {
            if graceful_restart.permits(&action)
                && let Action::RemoveFlood { remote, .. } = action
            {
                removed.push(remote);
            }
        }
        removed
    }

    fn tunnel_of(desired: &Desired) -> shoutd_core::plane::ObservedTunnel {
        let segment = &desired.segments[&vni()];
        shoutd_core::plane::ObservedTunnel {
            mark: Some(shoutd_core::plane::OwnerTag::Network(segment.network.clone())),
            vni: Some(vni()),
            local: Some(segment.vtep.address),
            port: segment.vtep.port,
            learning: true,
            port_learning: true,
            mtu: segment.mtu,
            up: true,
            enslaved: true,
            multicast_router: 2,
        }
    }

    #[test]
    fn a_remote_found_at_start_stays_until_all_hosts_have_advertised() {
        let mut graceful_restart = GracefulRestart::default();
        let all = observed(&[host(2), host(3)]);
        assert_eq!(
            removed(&mut graceful_restart, &all, &desired(&[host(2)], true)),
            Vec::<IpAddr>::new()
        );
        assert_eq!(
            removed(&mut graceful_restart, &all, &desired(&[host(2)], true)),
            Vec::<IpAddr>::new()
        );
        assert_eq!(removed(&mut graceful_restart, &all, &desired(&[host(2)], false)), [host(3)]);
    }

    #[test]
    fn a_remote_that_was_desired_since_the_start_is_removed_when_withdrawn() {
        let mut graceful_restart = GracefulRestart::default();
        let all = observed(&[host(2), host(3)]);
        assert_eq!(
            removed(&mut graceful_restart, &all, &desired(&[host(2), host(3)], true)),
            Vec::<IpAddr>::new()
        );
        assert_eq!(removed(&mut graceful_restart, &all, &desired(&[host(2)], true)), [host(3)]);
        // And so is one that was not there at the start.
        let more = observed(&[host(2), host(4)]);
        assert_eq!(removed(&mut graceful_restart, &more, &desired(&[host(2)], true)), [host(4)]);
    }
}
