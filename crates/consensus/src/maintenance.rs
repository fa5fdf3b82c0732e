//! The background tasks of a host. As the leader it keeps the Raft membership in step with the
//! admitted hosts. Every host keeps its own entry in agreed state up to date, and stops when it was
//! removed. All of them compare the current with the desired state, so a crash may leave any
//! intermediate state.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use openraft::{BasicNode, ChangeMembers, ServerState};
use shoutd_core::HostId;
use shoutd_core::cluster::Cluster;
use tokio::time::{Instant, sleep, timeout};

use crate::members::{Change, HostView, Members, next_change};
use crate::node::Node;
use crate::raft::{Metrics, host};
use crate::readiness::{members, ready};
use crate::removal_notice::RemovalNotice;
use crate::{FoundError, ProposeError, admission, duplicate_identity};

/// Time between two checks without an event.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// How long one membership change may take.
const CHANGE_DEADLINE: Duration = Duration::from_secs(5);

/// Pause after a failed try.
const PAUSE: Duration = Duration::from_millis(200);

/// Pause after the cluster refused: usually only a user can change that.
const REFUSED_PAUSE: Duration = Duration::from_secs(30);

/// How long a removed host still receives the log, so that it learns of its removal.
const DISMISSAL: Duration = Duration::from_secs(2);

/// How long a host continues after its removal: if it leads, it still has to tell the others that
/// the removal is committed.
const PARTING: Duration = Duration::from_millis(500);

/// Changes the Raft membership while this host leads.
pub(crate) async fn lead(node: Arc<Node>) {
    let mut metrics = node.raft.metrics();
    let mut cluster = node.published.cluster.clone();
    let (mut logged, mut watch) = (None, Watch::default());
    loop {
        let seen = metrics.borrow_and_update().clone();
        let agreed = Arc::clone(&cluster.borrow_and_update());
        // A leader that loses its vote leads until that is committed. It must not change the
        // membership then.
        let leads = seen.state == ServerState::Leader
            && seen.running_state.is_ok()
            && votes(&seen, node.me());
        // The founder has a vote before it is admitted, and other hosts may be admitted before it.
        // Until then it is missing from agreed state, but it was not removed and must keep its
        // vote.
        let is_admitted = agreed.hosts.contains_key(&node.me())
            || RemovalNotice::of(&agreed, node.me()).is_some();
        log_leader(&node, &seen, &mut logged);
        let change = if leads && is_admitted {
            let members = members(&seen);
            let view = watch.look(&members, &agreed, ready(&node, &seen), &node);
            next_change(&members, &agreed.hosts, &view)
        } else {
            watch = Watch::default();
            None
        };
        if let Some(change) = change
            && let Err(error) = apply(&node, &change).await
        {
            tracing::debug!(%error, ?change, "the Raft membership could not be changed");
            sleep(PAUSE).await;
            continue;
        }
        tokio::select! {
            changed = metrics.changed() => if changed.is_err() { return },
            changed = cluster.changed() => if changed.is_err() { return },
            () = node.members_wanted.notified() => {}
            () = sleep(CHECK_INTERVAL) => {}
        }
    }
}

/// What the leader remembers of the members.
#[derive(Debug, Default)]
struct Watch {
    /// When each voter was last ready.
    ready: BTreeMap<HostId, Instant>,
    /// Since when members of the Raft group are no longer hosts of the cluster.
    removed: BTreeMap<HostId, Instant>,
}

impl Watch {
    fn look(
        &mut self,
        members: &Members,
        agreed: &Cluster,
        ready: BTreeSet<HostId>,
        node: &Node,
    ) -> HostView {
        let now = Instant::now();
        let voters: BTreeSet<_> = members.voters.iter().flatten().copied().collect();
        self.ready.retain(|id, _| voters.contains(id));
        for voter in &voters {
            let last = self.ready.entry(*voter).or_insert(now);
            if ready.contains(voter) {
                *last = now;
            }
        }
        self.removed
            .retain(|id, _| !agreed.hosts.contains_key(id) && members.addresses.contains_key(id));
        for member in members.addresses.keys().filter(|id| !agreed.hosts.contains_key(*id)) {
            self.removed.entry(*member).or_insert(now);
        }
        let away = self.ready.iter().filter(|(_, last)| last.elapsed() >= node.patience.voter_away);
        let dismissed = self.removed.iter().filter(|(_, since)| since.elapsed() >= DISMISSAL);
        HostView {
            away: away.map(|(id, _)| *id).collect(),
            dismissed: dismissed.map(|(id, _)| *id).collect(),
            leaving: node.leaving.lock().clone(),
            ready,
            leader: Some(node.me()),
        }
    }
}

/// Logs a new leader.
fn log_leader(node: &Node, metrics: &Metrics, logged: &mut Option<HostId>) {
    let leader = metrics.current_leader.and_then(host);
    if let Some(new) = leader.filter(|_| *logged != leader) {
        tracing::info!(
            leader = node.peer_health.name(new),
            term = metrics.current_term,
            "new leader"
        );
        *logged = leader;
    }
}

fn votes(metrics: &Metrics, host: HostId) -> bool {
    metrics.membership_config.membership().voter_ids().any(|voter| voter == host.get())
}

/// The hosts with their addresses, as openraft's nodes.
fn nodes(hosts: &BTreeMap<HostId, String>) -> BTreeMap<u64, BasicNode> {
    hosts.iter().map(|(host, address)| (host.get(), BasicNode::new(address))).collect()
}

async fn apply(node: &Node, change: &Change) -> Result<(), String> {
    // A former voter stays as a learner, so that it learns why it lost its vote. But a leader that
    // stayed as a learner would continue to lead.
    let retain = !matches!(change, Change::Voters(voters) if !voters.contains(&node.me()));
    let changes = match change {
        Change::Voters(voters) => {
            ChangeMembers::ReplaceAllVoters(voters.iter().map(|host| host.get()).collect())
        }
        Change::Add(hosts) => ChangeMembers::AddNodes(nodes(hosts)),
        // openraft warns that two hosts must not swap addresses by `SetNodes`: it calls voters by
        // their address, and could reach the wrong one. That is safe here, because each of our
        // messages names the host that it is for.
        Change::Move(hosts) => ChangeMembers::SetNodes(nodes(hosts)),
        Change::Drop(hosts) => {
            ChangeMembers::RemoveNodes(hosts.iter().map(|host| host.get()).collect())
        }
    };
    match timeout(CHANGE_DEADLINE, node.raft.change_membership(changes, retain)).await {
        Ok(Ok(_)) => {
            tracing::info!(?change, "Raft membership changed");
            Ok(())
        }
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("not committed within {CHANGE_DEADLINE:?}")),
    }
}

/// Finishes an interrupted founding, and keeps this host's name and address in agreed state up to
/// date.
pub(crate) async fn represent(node: Arc<Node>) {
    let mut cluster = node.published.cluster.clone();
    let mut known_at = node.participation.watch_known_at();
    node.participation.sending_allowed().await;
    loop {
        let agreed = Arc::clone(&cluster.borrow_and_update());
        known_at.mark_unchanged();
        let pause = match agreed.hosts.get(&node.me()) {
            Some(own)
                if duplicate_identity::outdated_address(&node).is_none()
                    && own.name == node.settings.name =>
            {
                None
            }
            // Another host runs with this host's identity: the daemon ends.
            Some(_) if duplicate_identity::look_for_duplicate(&node).await => return,
            Some(_) => try_to_introduce(&node).await,
            None if agreed.hosts.is_empty() => try_to_found(&node).await,
            // Others have an entry: this host was removed, and must not come back by itself.
            None => None,
        };
        match pause {
            // Another host may have to change first, for example if this one takes over its
            // address.
            Some(pause) => drop(timeout(pause, cluster.changed()).await),
            None => tokio::select! {
                changed = cluster.changed() => if changed.is_err() { return },
                changed = known_at.changed() => if changed.is_err() { return },
            },
        }
    }
}

async fn try_to_introduce(node: &Arc<Node>) -> Option<Duration> {
    match admission::introduce(node, CHANGE_DEADLINE).await {
        Ok(()) => {
            node.participation.note_known_at(node.settings.advertise);
            None
        }
        Err(error @ ProposeError::Refused(_)) => {
            let address = node.settings.advertise;
            tracing::warn!(%error, %address, "the cluster refuses this host's new address");
            Some(REFUSED_PAUSE)
        }
        Err(error) => {
            tracing::debug!(%error, "this host's new address is not committed yet");
            Some(PAUSE)
        }
    }
}

async fn try_to_found(node: &Arc<Node>) -> Option<Duration> {
    let cluster = node.identity.cluster()?;
    match node.is_founder().await {
        Ok(true) => {}
        Ok(false) => return None,
        Err(error) => {
            tracing::warn!(%error, "cannot tell whether this host founded its cluster");
            return Some(CHECK_INTERVAL);
        }
    }
    match admission::found(node, cluster, CHANGE_DEADLINE).await {
        Ok(()) => None,
        Err(error) => {
            let stopped = matches!(error, FoundError::Propose(ProposeError::Stopped));
            tracing::debug!(%error, "the cluster is not founded yet");
            (!stopped).then_some(PAUSE)
        }
    }
}

/// Stops consensus when this host has left the cluster.
pub(crate) async fn depart(node: Arc<Node>) {
    tokio::select! {
        () = removal_agreed(&node) => {
            sleep(PARTING).await;
            let notice = RemovalNotice::of(&node.cluster(), node.me())
                .unwrap_or(RemovalNotice::Removed { at: None });
            node.participation.leave(notice);
        }
        _ = node.participation.left() => {}
    }
    let removal_notice = node.participation.left().await;
    if let Some(line) = node.removed() {
        tracing::error!("{line}");
    }
    if let Err(error) = node.record.record_removal_notice(removal_notice).await {
        tracing::debug!(%error, "the removal notice is not on disk; this host will get it again");
    }
    if let Err(error) = node.raft.shutdown().await {
        tracing::debug!(%error, "openraft did not shut down cleanly");
    }
}

/// Resolves when this host itself sees that it was removed, and that the others no longer need it.
async fn removal_agreed(node: &Node) {
    let mut metrics = node.raft.metrics();
    loop {
        let is_out = {
            let seen = metrics.borrow_and_update();
            let members = &seen.membership_config;
            let agreed = members.log_id().is_some() && *members.log_id() <= seen.last_applied;
            agreed && members.membership().voter_ids().all(|voter| voter != node.me().get())
        };
        if is_out && RemovalNotice::of(&node.cluster(), node.me()).is_some() {
            return;
        }
        if metrics.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
