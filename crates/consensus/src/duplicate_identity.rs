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

/// The address at which the cluster knows this host, if it is not its own: as the others said,
/// or else as in agreed state.
pub(crate) fn outdated_address(node: &Node) -> Option<SocketAddr> {
    let said = *node.participation.watch_known_at().borrow();
    let agreed = node.cluster().hosts.get(&node.me()).map(|host| host.address);
    said.or(agreed).filter(|address| *address != node.settings.advertise)
}

/// Calls the address at which the cluster knows this host, if it is not its own. Returns
/// whether another host runs there with this host's identity.
pub(crate) async fn look_for_duplicate(node: &Node) -> bool {
    let Some(address) = outdated_address(node) else { return false };
    let question = node.peer_health.message(None, ());
    let answer: Result<wire::Answer<StatusAnswer>, _> =
        node.calls.call(Some(node.me()), address, wire::STATUS, &question, DEADLINE).await;
    let exists = matches!(answer, Ok(Ok(_)));
    if exists {
        node.participation.found_duplicate(address);
    }
    exists
}

/// Detects a call with this host's identity that is not from this run of its daemon.
pub(crate) fn note_copy(node: &Node, caller: &Caller, sender: Sender) {
    if caller.host != node.me() || sender.run == node.peer_health.own().run {
        return;
    }
    if node.participation.called_by_copy(sender.address) {
        let text = copy_text(node, sender.address);
        tracing::error!("{text}");
        node.participation.notices.add(NoticeKind::Copied, node.settings.name.clone(), text);
    }
}

fn copy_text(node: &Node, copy: SocketAddr) -> String {
    format!(
        "a host at {copy} was started with a copy of the data directory of this host, which \
         is at {}: two hosts cannot have one identity; the one at {copy} stops; to let it \
         join the cluster as a new host, remove its data directory there",
        node.settings.advertise
    )
}

/// The problem to show while a copy of this host calls it.
pub(crate) fn copy_problem(node: &Node) -> Option<String> {
    node.participation.copy().map(|copy| copy_text(node, copy))
}

/// Why this host ends: the cluster knows the other one.
pub(crate) fn duplicate_text(node: &Node, other: SocketAddr) -> String {
    format!(
        "the host at {other} runs with the identity ({1}) of this host, which is at {0}: one \
         data directory is a copy of the other; if {other} is to stay, remove the data \
         directory here and let this host join again; if this host is to stay, stop shoutd at \
         {other} and start it here",
        node.settings.advertise,
        node.me()
    )
}
