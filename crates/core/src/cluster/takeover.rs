//! What becomes of agreed state when one host goes on without the others: after the majority was
//! lost, or from a backup.
//!
//! The other hosts count as removed, so that they are told so if they come back, and what was
//! agreed on without them can never mix with what they may have agreed on without this host. But
//! what they held stays held. Their containers may well be running, with addresses that nobody else
//! must get; and a host that is really gone gives them up when an administrator says that it is, by
//! [`Command::RemoveHost`](super::Command::RemoveHost).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{Cluster, Host, RemovedHost};
use crate::HostId;

impl Cluster {
    /// Leaves this host as the only one. `now` is the time since 1970. Returns the hosts that count
    /// as removed from now on.
    pub fn keep_only(&mut self, host: HostId, now: Duration) -> BTreeMap<HostId, Host> {
        let others = self.hosts.iter().filter(|(id, _)| **id != host);
        let others: BTreeMap<_, _> = others.map(|(id, host)| (*id, host.clone())).collect();
        for (id, other) in &others {
            self.hosts.remove(id);
            self.admissions.removed.insert(*id, RemovedHost { name: other.name.clone(), at: now });
        }
        self.forget_oldest_removed();
        others
    }

    /// Makes this host, which has a new id, the only one. If one of the hosts had its IP address,
    /// it was this machine: what it held is this host's now. Returns the hosts that count as
    /// removed from now on.
    pub fn settle_on(
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
            // Its id never comes back, and holds nothing any more.
            self.admissions.removed.insert(before, RemovedHost { name: old.name.clone(), at: now });
            removed.insert(before, old);
        }
        removed
    }

    /// Gives all that one host has to another id.
    fn rename(&mut self, before: HostId, after: HostId) -> Option<Host> {
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

    /// Hosts that were removed and still hold addresses or endpoints: lost ones, of which nobody
    /// has said yet that they are gone.
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
