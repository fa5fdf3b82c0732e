//! Detects that a data directory was copied: two hosts run with one identity.
//!
//! The cluster knows a host at one address. A host that learns that the others know it at another
//! address calls that address first. If a host answers there with this host's identity, this host
//! must not run. Both are told, each with the other's address. If no host answers, this one has
//! merely moved, and tells the others.

use std::net::SocketAddr;
use std::time::Duration;

use shoutd_peer::Caller;

use crate::node::Node;
use crate::notice::NoticeKind;
use crate::wire::{self, Sender, StatusAnswer};

/// How long the other address may take to answer.
const DEADLINE: Duration = Duration::from_millis(1000);

impl Node {
    /// The address at which the cluster knows this host, if it is not its own: as the others said,
    /// or else as in agreed state.
    pub fn outdated_address(&self) -> Option<SocketAddr> {
        let said = *self.participation.watch_known_at().borrow();
        let agreed = self.cluster().hosts.get(&self.me()).map(|host| host.address);
        said.or(agreed).filter(|address| *address != self.settings.advertise)
    }

    /// Calls the address at which the cluster knows this host, if it is not its own. Returns
    /// whether another host runs there with this host's identity.
    pub async fn look_for_duplicate(&self) -> bool {
        let Some(address) = self.outdated_address() else { return false };
        let question = self.peer_health.message(None, ());
        let answer: Result<wire::Answer<StatusAnswer>, _> =
            self.calls.call(Some(self.me()), address, wire::STATUS, &question, DEADLINE).await;
        let exists = matches!(answer, Ok(Ok(_)));
        if exists {
            self.participation.found_duplicate(address);
        }
        exists
    }

    /// Detects a call with this host's identity that is not from this run of its daemon.
    pub fn note_copy(&self, caller: &Caller, sender: Sender) {
        if caller.host != self.me() || sender.run == self.peer_health.own().run {
            return;
        }
        if self.participation.called_by_copy(sender.address) {
            let text = self.copy_text(sender.address);
            tracing::error!("{text}");
            self.participation.notices.add(NoticeKind::Copied, self.settings.name.clone(), text);
        }
    }

    fn copy_text(&self, copy: SocketAddr) -> String {
        format!(
            "a host at {copy} was started with a copy of the data directory of this host, which \
             is at {}: two hosts cannot have one identity; the one at {copy} stops; to let it \
             join the cluster as a new host, remove its data directory there",
            self.settings.advertise
        )
    }

    /// The problem to show while a copy of this host calls it.
    pub fn copy_problem(&self) -> Option<String> {
        self.participation.copy().map(|copy| self.copy_text(copy))
    }

    /// Why this host ends: the cluster knows the other one.
    pub fn duplicate_text(&self, other: SocketAddr) -> String {
        format!(
            "the host at {other} runs with the identity ({1}) of this host, which is at {0}: one \
             data directory is a copy of the other; if {other} is to stay, remove the data \
             directory here and let this host join again; if this host is to stay, stop shoutd at \
             {other} and start it here",
            self.settings.advertise,
            self.me()
        )
    }
}
