//! How agreed state changes when one host continues without the others: after a lost quorum, or
//! from a backup.
//!
//! The other hosts count as removed, so that they are told so if they come back, and so that their
//! agreed state can never mix with this host's. Their leases stay. Their containers may be running,
//! and other hosts must not get their addresses. When a host is really gone, an administrator frees
//! its leases with [`Command::RemoveHost`](super::Command::RemoveHost).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{Cluster, Host, RemovedHost};
use crate::HostId;

impl Cluster {
    /// Keeps this host as the only member. `now` is the time since 1970. Returns the hosts that
    /// count as removed from now on.
    pub fn keep_only(&mut self, host: HostId, now: Duration) -> BTreeMap<HostId, Host> {
        let others = self.hosts.iter().filter(|(id, _)| **id != host);
        let others: BTreeMap<_, _> = others.map(|(id, host)| (*id, host.clone())).collect();
        for (id, other) in &others {
            self.hosts.remove(id);
            self.encryption.ends.remove(id);
            self.admissions.removed.insert(*id, RemovedHost { name: other.name.clone(), at: now });
        }
        self.forget_oldest_removed();
        others
    }

    /// Makes this host, which has a new id, the only member. A host that had the same IP address
    /// was this machine, so its leases and endpoints become this host's. Returns the hosts that
    /// count as removed from now on.
    pub fn make_only_member(
        &mut self,
        host: HostId,
        name: &str,
        address: SocketAddr,
        now: Duration,
    ) -> BTreeMap<HostId, Host> {
        let before = self
            .hosts
            .iter()
            .find(|(_, other)| other.address.ip() == address.ip())
            .map(|(id, _)| *id);
        let old = before.and_then(|before| self.rename(before, host));
        let subnets = old.as_ref().map_or_else(Vec::new, |old| old.subnets.clone());
        self.hosts.insert(host, Host { name: name.to_owned(), address, subnets });
        let mut removed = self.keep_only(host, now);
        if let Some((before, old)) = before.zip(old) {
            // The old id is never used again, and holds nothing.
            self.admissions.removed.insert(before, RemovedHost { name: old.name.clone(), at: now });
            removed.insert(before, old);
        }
        removed
    }

    /// Moves all that host `before` holds to the id `after`.
    fn rename(&mut self, before: HostId, after: HostId) -> Option<Host> {
        self.encryption.ends.remove(&before);
        for network in self.networks.values_mut() {
            let network = Arc::make_mut(network);
            network
                .leases
                .values_mut()
                .filter(|holder| **holder == before)
                .for_each(|holder| *holder = after);
            if let Some(claims) = network.claims.remove(&before) {
                network.claims.insert(after, claims);
            }
            if network.attached.remove(&before) {
                network.attached.insert(after);
            }
            if network.origin == before {
                network.origin = after;
            }
        }
        self.hosts.remove(&before)
    }

    /// Lost hosts: removed ones that still hold leases or endpoints, because no administrator has
    /// freed them yet.
    pub fn lost_hosts(&self) -> BTreeMap<HostId, &RemovedHost> {
        self.admissions
            .removed
            .iter()
            .filter(|(id, _)| self.holds_anything(**id))
            .map(|(id, host)| (*id, host))
            .collect()
    }

    pub(super) fn holds_anything(&self, host: HostId) -> bool {
        self.networks.values().any(|network| network.is_held_by(host))
    }
}
