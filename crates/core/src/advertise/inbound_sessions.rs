//! The advertisements that all peers send us.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{InboundSession, InvalidAdvertisement, Message, PeerState, Reply};
use crate::cluster::Cluster;
use crate::{HostId, NetworkId};

/// The advertisements of all peers. There is a session for each host of the cluster that advertises
/// something or is expected to.
#[derive(Debug, Clone, Default)]
pub struct InboundSessions {
    hosts: BTreeMap<HostId, InboundSession>,
    /// For each peer, the networks that it is agreed to have and this host has too.
    agreed: BTreeMap<HostId, BTreeSet<NetworkId>>,
}

impl InboundSessions {
    /// Follows agreed state. A host that is agreed to have one of this host's networks is expected
    /// to advertise it. A host that left the cluster is forgotten.
    pub fn track(
        &mut self,
        cluster: &Cluster,
        agreed: BTreeMap<HostId, BTreeSet<NetworkId>>,
        now: Duration,
    ) {
        self.hosts.retain(|host, session| {
            cluster.hosts.contains_key(host) && (agreed.contains_key(host) || !session.is_empty())
        });
        for host in agreed.keys() {
            self.hosts.entry(*host).or_insert_with(|| InboundSession::new(now));
        }
        for (host, session) in &mut self.hosts {
            session.prune(agreed.get(host));
        }
        self.agreed = agreed;
    }

    /// Processes a message from this host.
    ///
    /// # Errors
    /// If the message is invalid.
    pub fn receive(
        &mut self,
        host: HostId,
        message: &Message,
        now: Duration,
    ) -> Result<Reply, InvalidAdvertisement> {
        self.hosts.entry(host).or_insert_with(|| InboundSession::new(now)).receive(message, now)
    }

    /// Marks a host as not in sync until its next message, because it may be gone.
    pub fn mark_not_in_sync(&mut self, host: HostId) {
        if let Some(session) = self.hosts.get_mut(&host) {
            session.mark_not_in_sync();
        }
    }

    /// Something came from this host through the tunnel.
    pub fn note_tunnelled(&mut self, host: HostId, now: Duration) {
        if let Some(session) = self.hosts.get_mut(&host) {
            session.note_tunnelled(now);
        }
    }

    /// Withdraws the advertisements of hosts whose hold time has expired.
    pub fn expire(&mut self, now: Duration) {
        self.hosts.values_mut().for_each(|session| session.expire(now));
    }

    /// The next time after `after` at which something changes if all peers stay silent; `None` if
    /// nothing does.
    pub fn wake(&self, after: Duration) -> Option<Duration> {
        self.hosts.values().filter_map(|session| session.wake(after)).min()
    }

    /// The hosts that advertise something or are expected to.
    pub fn hosts(&self) -> impl Iterator<Item = HostId> {
        self.hosts.keys().copied()
    }

    /// The state of one peer.
    pub fn peer_state(&self, host: HostId, now: Duration) -> Option<PeerState> {
        self.hosts.get(&host).map(|session| session.peer_state(self.agreed.get(&host), now))
    }

    /// The session of one host.
    pub fn get(&self, host: HostId) -> Option<&InboundSession> {
        self.hosts.get(&host)
    }

    /// The hosts that are agreed to have this network, if this host has it too.
    pub fn sharing(&self, network: &NetworkId) -> impl Iterator<Item = HostId> {
        self.agreed
            .iter()
            .filter(move |(_, networks)| networks.contains(network))
            .map(|(host, _)| *host)
    }
}
