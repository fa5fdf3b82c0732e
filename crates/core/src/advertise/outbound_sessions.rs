//! What all peers have of this host's announcements.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::{Content, Message, OutboundSession, Reply};
use crate::cluster::Cluster;
use crate::{EndpointId, HostId, NetworkId};

/// What all peers have of this host's announcements.
#[derive(Debug, Clone, Default)]
pub struct OutboundSessions {
    /// The last number that was given to anything. One row for all peers, so that a peer that is
    /// spoken to again after a while sees higher ones.
    sequence: u64,
    hosts: BTreeMap<HostId, OutboundSession>,
    /// Peers that are to have nothing and have acknowledged that. They may have had something of an
    /// earlier run.
    done: BTreeSet<HostId>,
}

impl OutboundSessions {
    /// Says what each peer is to have. To have nothing is to be said too, once: a peer may still
    /// have what an earlier run announced. `entropy` gives random numbers; see
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
            let speaker =
                self.hosts.entry(*host).or_insert_with(|| OutboundSession::new(entropy()));
            speaker.want(audience.remove(host).unwrap_or_default());
        }
        self.retire();
    }

    fn retire(&mut self) {
        let done = self.hosts.extract_if(.., |_, speaker| speaker.is_done());
        self.done.extend(done.map(|(host, _)| host));
    }

    /// The messages to send now; see [`OutboundSession::next`].
    pub fn next(&mut self, now: Duration) -> Vec<(HostId, Arc<Message>)> {
        let Self { sequence, hosts, .. } = self;
        let next = |(host, speaker): (&HostId, &mut OutboundSession)| {
            speaker.next(sequence, now).map(|message| (*host, message))
        };
        hosts.iter_mut().filter_map(next).collect()
    }

    /// What a peer answered to the message under way, or that it did not. For `entropy` see
    /// [`OutboundSession::answered`].
    pub fn answered(&mut self, host: HostId, reply: Option<Reply>, entropy: u64, now: Duration) {
        if let Some(speaker) = self.hosts.get_mut(&host) {
            match reply {
                Some(reply) => speaker.answered(&reply, entropy, now),
                None => speaker.failed(now),
            }
        }
        self.retire();
    }

    /// A peer does not take the message under way; see [`OutboundSession::refused`].
    pub fn refused(&mut self, host: HostId, now: Duration) {
        if let Some(speaker) = self.hosts.get_mut(&host) {
            speaker.refused(now);
        }
    }

    /// A peer was heard, and may have started anew since it was last spoken to.
    pub fn heard_from(&mut self, host: HostId, is_new_run: bool, now: Duration) {
        if let Some(speaker) = self.hosts.get_mut(&host) {
            if is_new_run { speaker.start_over(now) } else { speaker.hurry(now) }
        }
    }

    /// When there may be something to send though nothing has changed; `None` if never.
    pub fn wake(&self) -> Option<Duration> {
        self.hosts.values().filter_map(OutboundSession::wake).min()
    }

    /// The peers that do not know this endpoint yet, though they are to and answer.
    pub fn uninformed(
        &self,
        network: &NetworkId,
        endpoint: &EndpointId,
    ) -> impl Iterator<Item = HostId> {
        let lacks = |speaker: &OutboundSession| {
            speaker.wants(network) && !speaker.is_failing() && !speaker.has(network, endpoint)
        };
        self.hosts.iter().filter(move |(_, speaker)| lacks(speaker)).map(|(host, _)| *host)
    }

    /// Whether a peer did not answer when it was last spoken to.
    pub fn is_failing(&self, host: HostId) -> bool {
        self.hosts.get(&host).is_some_and(OutboundSession::is_failing)
    }

    /// Whether every peer has all it is to have.
    pub fn is_up_to_date(&self) -> bool {
        self.hosts.values().all(OutboundSession::is_up_to_date)
    }
}
