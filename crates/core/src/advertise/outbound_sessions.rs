//! What all peers have of this host's advertisement.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::{Content, Message, OutboundSession, Reply};
use crate::cluster::Cluster;
use crate::{EndpointId, HostId, NetworkId};

/// What all peers have of this host's advertisement.
#[derive(Debug, Clone, Default)]
pub struct OutboundSessions {
    /// The last sequence number used. All peers share it, so that a new session to the same peer
    /// continues with higher numbers.
    sequence: u64,
    hosts: BTreeMap<HostId, OutboundSession>,
    /// Peers that should have nothing and have acknowledged that. Until then, they may have content
    /// of an earlier run.
    done: BTreeSet<HostId>,
}

impl OutboundSessions {
    /// Sets what each peer should have. A peer that should have nothing is told so once, because it
    /// may still have the advertisement of an earlier run. For `entropy` see
    /// [`OutboundSession::new`].
    pub fn address(
        &mut self,
        cluster: &Cluster,
        me: HostId,
        mut audience: BTreeMap<HostId, Content>,
        mut entropy: impl FnMut() -> u64,
    ) {
        self.hosts.retain(|host, _| cluster.hosts.contains_key(host));
        self.done.retain(|host| cluster.hosts.contains_key(host) && !audience.contains_key(host));
        for host in cluster.hosts.keys().filter(|host| **host != me && !self.done.contains(host)) {
            let session =
                self.hosts.entry(*host).or_insert_with(|| OutboundSession::new(entropy()));
            session.want(audience.remove(host).unwrap_or_default());
        }
        self.retire();
    }

    fn retire(&mut self) {
        let done = self.hosts.extract_if(.., |_, session| session.is_done());
        self.done.extend(done.map(|(host, _)| host));
    }

    /// The messages to send now; see [`OutboundSession::next`].
    pub fn next(&mut self, now: Duration) -> Vec<(HostId, Arc<Message>)> {
        let Self { sequence, hosts, .. } = self;
        hosts
            .iter_mut()
            .filter_map(|(host, session)| Some((*host, session.next(sequence, now)?)))
            .collect()
    }

    /// Handles a peer's answer to the message in flight, or that there was none. For `entropy` see
    /// [`OutboundSession::answered`].
    pub fn answered(&mut self, host: HostId, reply: Option<Reply>, entropy: u64, now: Duration) {
        if let Some(session) = self.hosts.get_mut(&host) {
            match reply {
                Some(reply) => session.answered(&reply, entropy, now),
                None => session.failed(now),
            }
        }
        self.retire();
    }

    /// Handles that a peer refused the message in flight; see [`OutboundSession::refused`].
    pub fn refused(&mut self, host: HostId, now: Duration) {
        if let Some(session) = self.hosts.get_mut(&host) {
            session.refused(now);
        }
    }

    /// Handles that a peer sent a message. It may have restarted since the last exchange.
    pub fn received_from(&mut self, host: HostId, is_new_run: bool, now: Duration) {
        if let Some(session) = self.hosts.get_mut(&host) {
            if is_new_run { session.start_over(now) } else { session.retry_now(now) }
        }
    }

    /// When there may be something to send although nothing changed; `None` if never.
    pub fn wake(&self) -> Option<Duration> {
        self.hosts.values().filter_map(OutboundSession::wake).min()
    }

    /// The peers that answer, should have this endpoint, and have not acknowledged it.
    pub fn unacknowledged_by(
        &self,
        network: &NetworkId,
        endpoint: &EndpointId,
    ) -> impl Iterator<Item = HostId> {
        self.hosts
            .iter()
            .filter(|(_, session)| {
                session.wants(network) && !session.is_failing() && !session.has(network, endpoint)
            })
            .map(|(host, _)| *host)
    }

    /// Whether the last message to a peer failed.
    pub fn is_failing(&self, host: HostId) -> bool {
        self.hosts.get(&host).is_some_and(OutboundSession::is_failing)
    }

    /// Whether this peer has acknowledged all that it should have.
    pub fn has_all(&self, host: HostId) -> bool {
        self.hosts.get(&host).is_none_or(OutboundSession::is_up_to_date)
    }

    /// Whether every peer has acknowledged all that it should have.
    pub fn is_up_to_date(&self) -> bool {
        self.hosts.values().all(OutboundSession::is_up_to_date)
    }
}
