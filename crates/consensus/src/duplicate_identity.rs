//! Noticing that a data directory was copied: two hosts that run with one identity.
//!
//! The cluster knows a host at one address. One that learns that the others look for it elsewhere
//! asks there first: if somebody answers as itself, that one is at work as this host, and this one
//! must not be. Both are told, each with the other's address. If nobody does, this host has merely
//! moved, and says so.

use std::net::SocketAddr;
use std::time::Duration;

use shoutd_peer::Caller;

use crate::node::Node;
use crate::notice::NoticeKind;
use crate::wire::{self, Sender, StatusAnswer};

/// How long another host may take to show that it has this host's identity.
const DEADLINE: Duration = Duration::from_millis(1000);

impl Node {
    /// Where the cluster has this host, if that is elsewhere than it is: as the others said, or as
    /// this host itself knows.
    pub fn misplaced(&self) -> Option<SocketAddr> {
        let said = *self.participation.watch_place().borrow();
        let agreed = self.cluster().hosts.get(&self.me()).map(|host| host.address);
        said.or(agreed).filter(|place| *place != self.settings.advertise)
    }

    /// Asks where the cluster has this host, if that is elsewhere. Returns whether another host is
    /// at work there as this one.
    pub async fn look_for_twin(&self) -> bool {
        let Some(place) = self.misplaced() else { return false };
        let question = self.peer_health.message(None, ());
        let answer: Result<wire::Answer<StatusAnswer>, _> =
            self.calls.call(Some(self.me()), place, wire::STATUS, &question, DEADLINE).await;
        let is_there = matches!(answer, Ok(Ok(_)));
        if is_there {
            self.participation.find_twin(place);
        }
        is_there
    }

    /// Takes note of a question that comes from this host itself, and not from this run of it.
    pub fn note_copy(&self, caller: &Caller, sender: Sender) {
        if caller.host != self.me() || sender.run == self.peer_health.own().run {
            return;
        }
        if self.participation.meet_copy(sender.address) {
            let text = self.copy_text(sender.address);
            tracing::error!("{text}");
            self.participation.notices.add(NoticeKind::Copied, self.settings.name.clone(), text);
        }
    }

    fn copy_text(&self, copy: SocketAddr) -> String {
        format!(
            "a host at {copy} was started with a copy of the data directory of this one, at {}: \
             two hosts cannot be one; the one at {copy} ends, and joins the cluster as a new host \
             when its data directory is removed there",
            self.settings.advertise
        )
    }

    /// What is to be shown while a copy of this host asks.
    pub fn copy_problem(&self) -> Option<String> {
        self.participation.copy().map(|copy| self.copy_text(copy))
    }

    /// Why this host ends that is not the one which the cluster knows.
    pub fn twin_text(&self, twin: SocketAddr) -> String {
        format!(
            "the host at {twin} is at work with the identity of this one, at {}: one data \
             directory is a copy of the other's, and two hosts cannot be one ({}); if {twin} is \
             to stay, remove the data directory here and let this host join anew; if this host is \
             to stay, stop shoutd at {twin} and start it here",
            self.settings.advertise,
            self.me()
        )
    }
}
