//! What all peers announced.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{InboundSession, InvalidAdvertisement, Message, PeerState, Reply};
use crate::cluster::Cluster;
use crate::{HostId, NetworkId};

/// What all peers announced. There is an entry for each host of the cluster that announces
/// something, or is expected to.
#[derive(Debug, Clone, Default)]
pub struct InboundSessions {
    hosts: BTreeMap<HostId, InboundSession>,
    /// Which networks each is agreed to have and this host has too.
    agreed: BTreeMap<HostId, BTreeSet<NetworkId>>,
}

impl InboundSessions {
    /// Follows what is agreed: a host that is agreed to have a network of this host's is expected
    /// to announce it, and one that has left the cluster is forgotten.
    pub fn track(
        &mut self,
        cluster: &Cluster,
        agreed: BTreeMap<HostId, BTreeSet<NetworkId>>,
        now: Duration,
    ) {
        self.hosts.retain(|host, listener| {
            cluster.hosts.contains_key(host) && (agreed.contains_key(host) || !listener.is_empty())
        });
        for host in agreed.keys() {
            self.hosts.entry(*host).or_insert_with(|| InboundSession::new(now));
        }
        for (host, listener) in &mut self.hosts {
            listener.prune(agreed.get(host));
        }
        self.agreed = agreed;
    }

    /// Takes a message of this host.
    ///
    /// # Errors
    /// If it is none that a host would send.
    pub fn hear(
        &mut self,
        host: HostId,
        message: &Message,
        now: Duration,
    ) -> Result<Reply, InvalidAdvertisement> {
        self.hosts.entry(host).or_insert_with(|| InboundSession::new(now)).hear(message, now)
    }

    /// A host may be gone: it counts as not in sync until it is heard again.
    pub fn doubt(&mut self, host: HostId) {
        if let Some(listener) = self.hosts.get_mut(&host) {
            listener.doubt();
        }
    }

    /// Withdraws what hosts announced that have been silent for too long.
    pub fn expire(&mut self, now: Duration) {
        self.hosts.values_mut().for_each(|listener| listener.expire(now));
    }

    /// When, without a word from anybody, something changes next after this time; `None` if never.
    pub fn wake(&self, after: Duration) -> Option<Duration> {
        self.hosts.values().filter_map(|listener| listener.wake(after)).min()
    }

    /// The hosts that announce something, or are expected to.
    pub fn hosts(&self) -> impl Iterator<Item = HostId> {
        self.hosts.keys().copied()
    }

    /// What is to be made of one host.
    pub fn heard_host(&self, host: HostId, now: Duration) -> Option<PeerState> {
        self.hosts.get(&host).map(|listener| listener.heard(self.agreed.get(&host), now))
    }

    /// One host's.
    pub fn get(&self, host: HostId) -> Option<&InboundSession> {
        self.hosts.get(&host)
    }

    /// The hosts that are agreed to have this network, which this host has too.
    pub fn sharing(&self, network: &NetworkId) -> impl Iterator<Item = HostId> {
        self.agreed
            .iter()
            .filter(move |(_, networks)| networks.contains(network))
            .map(|(host, _)| *host)
    }
}
