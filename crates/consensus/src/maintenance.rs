//! What a host does of its own accord: as leader, keep the Raft group in step with the admitted
//! hosts; as any host, keep its own entry among them true, and stop when it was removed. Both
//! compare what is with what should be, so that it does not matter where a crash left things.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use openraft::{BasicNode, ChangeMembers, ServerState};
use shoutd_core::HostId;
use shoutd_core::cluster::{Cluster, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::members::{Change, HostView, Members, next_change};
use crate::node::Node;
use crate::raft::{Metrics, host};
use crate::removal_notice::RemovalNotice;
use crate::{FoundError, ProposeError, Settings};

/// Time between two looks when nothing seems to happen.
const LOOK: Duration = Duration::from_secs(1);

/// How long one change of the group may take.
const CHANGE_DEADLINE: Duration = Duration::from_secs(5);

/// Time until the next try after one that failed.
const PAUSE: Duration = Duration::from_millis(200);

/// Time until the next try after the cluster refused: nothing but a user's doing changes that.
const REFUSED_PAUSE: Duration = Duration::from_secs(30);

/// How long a host that was removed is still told what is agreed on, so that it learns of its
/// removal.
const DISMISSAL: Duration = Duration::from_secs(2);

/// How long a host that was removed goes on for the others' sake: as the leader it tells them that
/// its removal is agreed on.
const PARTING: Duration = Duration::from_millis(500);

/// Log entries that a host may lack and still get a vote: what it receives in a moment.
const LAG_MAX: u64 = 200;

/// Changes the Raft group while this host leads.
pub(crate) async fn lead(node: Arc<Node>) {
    let mut metrics = node.raft.metrics();
    let mut cluster = node.published.cluster.clone();
    let (mut announced, mut watch) = (None, Watch::default());
    loop {
        let seen = metrics.borrow_and_update().clone();
        let agreed = Arc::clone(&cluster.borrow_and_update());
        // One that ceases to vote leads until that is agreed on, and must not change the group any
        // more.
        let leads = seen.state == ServerState::Leader
            && seen.running_state.is_ok()
            && votes(&seen, node.me());
        // The founder votes before it is admitted, and others may be admitted before it: it was not
        // removed.
        let is_admitted = agreed.hosts.contains_key(&node.me())
            || RemovalNotice::of(&agreed, node.me()).is_some();
        announce(&node, &seen, &mut announced);
        let change = if leads && is_admitted {
            let members = members(&seen);
            let sight = watch.look(&members, &agreed, ready(&node, &seen), &node);
            next_change(&members, &agreed.hosts, &sight)
        } else {
            watch = Watch::default();
            None
        };
        if let Some(change) = change
            && let Err(error) = apply(&node, &change).await
        {
            tracing::debug!(%error, ?change, "the group could not be changed");
            sleep(PAUSE).await;
            continue;
        }
        tokio::select! {
            changed = metrics.changed() => if changed.is_err() { return },
            changed = cluster.changed() => if changed.is_err() { return },
            () = node.members_wanted.notified() => {}
            () = sleep(LOOK) => {}
        }
    }
}

/// What the leader remembers of the members.
#[derive(Debug, Default)]
struct Watch {
    /// When each voter was ready last.
    ready: BTreeMap<HostId, Instant>,
    /// Since when members are none of the cluster's hosts any more.
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
        let is_removed = |id: &HostId| !agreed.hosts.contains_key(id);
        self.removed.retain(|id, _| is_removed(id) && members.addresses.contains_key(id));
        for member in members.addresses.keys().copied().filter(is_removed) {
            self.removed.entry(member).or_insert(now);
        }
        let away = self.ready.iter().filter(|(_, last)| last.elapsed() >= node.patience.voter_away);
        let dismissed = self.removed.iter().filter(|(_, since)| since.elapsed() >= DISMISSAL);
        HostView {
            away: away.map(|(id, _)| *id).collect(),
            dismissed: dismissed.map(|(id, _)| *id).collect(),
            leaving: node.leaving.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            ready,
            leader: Some(node.me()),
        }
    }
}

/// Tells the log of a new leader.
fn announce(node: &Node, metrics: &Metrics, announced: &mut Option<HostId>) {
    let leader = metrics.current_leader.and_then(host);
    if let Some(new) = leader.filter(|_| *announced != leader) {
        tracing::info!(
            leader = node.peer_health.name(new),
            term = metrics.current_term,
            "the hosts follow a leader"
        );
        *announced = leader;
    }
}

fn votes(metrics: &Metrics, host: HostId) -> bool {
    metrics.membership_config.membership().voter_ids().any(|voter| voter == host.get())
}

pub(crate) fn members(metrics: &Metrics) -> Members {
    let membership = metrics.membership_config.membership();
    let hosts = |ids: &BTreeSet<u64>| ids.iter().copied().filter_map(host).collect();
    Members {
        voters: membership.get_joint_config().iter().map(hosts).collect(),
        addresses: membership
            .nodes()
            .filter_map(|(id, node)| Some((host(*id)?, node.addr.clone())))
            .collect(),
    }
}

/// The members that answer and have nearly all of the log; this host, which leads, is one.
pub(crate) fn ready(node: &Node, metrics: &Metrics) -> BTreeSet<HostId> {
    let least = metrics.last_log_index.unwrap_or(0).saturating_sub(LAG_MAX);
    let replication = metrics.replication.iter().flatten();
    let caught_up =
        replication.filter(|(_, matched)| matched.is_some_and(|matched| matched.index >= least));
    let there = |id: &HostId| *id == node.me() || node.peer_health.is_reachable(*id);
    caught_up.filter_map(|(id, _)| host(*id)).filter(there).chain([node.me()]).collect()
}

async fn apply(node: &Node, change: &Change) -> Result<(), String> {
    let nodes = |hosts: &BTreeMap<HostId, String>| -> BTreeMap<u64, BasicNode> {
        hosts.iter().map(|(host, address)| (host.get(), BasicNode::new(address))).collect()
    };
    // A voter that does not vote any more follows on without a vote, as it has to learn why. But a
    // leader would go on leading.
    let retain = !matches!(change, Change::Voters(voters) if !voters.contains(&node.me()));
    let changes = match change {
        Change::Voters(voters) => {
            ChangeMembers::ReplaceAllVoters(voters.iter().map(|host| host.get()).collect())
        }
        Change::Add(hosts) => ChangeMembers::AddNodes(nodes(hosts)),
        // openraft warns of this one: two hosts must not swap addresses while a leader finds voters
        // by them. Ours names the host that it means in each message.
        Change::Move(hosts) => ChangeMembers::SetNodes(nodes(hosts)),
        Change::Drop(hosts) => {
            ChangeMembers::RemoveNodes(hosts.iter().map(|host| host.get()).collect())
        }
    };
    match timeout(CHANGE_DEADLINE, node.raft.change_membership(changes, retain)).await {
        Ok(Ok(_)) => {
            tracing::info!(?change, "the group of agreeing hosts has changed");
            Ok(())
        }
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("not agreed on within {CHANGE_DEADLINE:?}")),
    }
}

/// Finishes a founding that was interrupted, and keeps this host's name and address up to date.
pub(crate) async fn represent(node: Arc<Node>) {
    let mut cluster = node.published.cluster.clone();
    let mut place = node.participation.watch_place();
    node.participation.speech().await;
    loop {
        let agreed = Arc::clone(&cluster.borrow_and_update());
        place.mark_unchanged();
        let pause = match agreed.hosts.get(&node.me()) {
            Some(own) if node.misplaced().is_none() && own.name == node.settings.name => None,
            // Another is at work as this host: the daemon ends.
            Some(_) if node.look_for_twin().await => return,
            Some(_) => try_to_introduce(&node).await,
            // A host that is not there any more was removed, and must not come back by itself.
            None if agreed.hosts.is_empty() => try_to_found(&node).await,
            None => None,
        };
        match pause {
            // Another host may have to make room first, as where one takes the address that another
            // had.
            Some(pause) => drop(timeout(pause, cluster.changed()).await),
            None => tokio::select! {
                changed = cluster.changed() => if changed.is_err() { return },
                changed = place.changed() => if changed.is_err() { return },
            },
        }
    }
}

async fn try_to_introduce(node: &Arc<Node>) -> Option<Duration> {
    match node.introduce(CHANGE_DEADLINE).await {
        Ok(()) => {
            node.participation.place(node.settings.advertise);
            None
        }
        Err(error @ ProposeError::Refused(_)) => {
            tracing::warn!(%error, address = %node.settings.advertise, "the cluster does not take this host's new address");
            Some(REFUSED_PAUSE)
        }
        Err(error) => {
            tracing::debug!(%error, "the cluster does not know this host's new address yet");
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
            return Some(LOOK);
        }
    }
    match node.found(cluster, CHANGE_DEADLINE).await {
        Ok(()) => None,
        Err(error) => {
            let stopped = matches!(error, FoundError::Propose(ProposeError::Stopped));
            tracing::debug!(%error, "the cluster is not founded yet");
            (!stopped).then_some(PAUSE)
        }
    }
}

/// Ends this host's part when it has left the cluster.
pub(crate) async fn depart(node: Arc<Node>) {
    tokio::select! {
        () = removal_agreed(&node) => {
            sleep(PARTING).await;
            let removal_notice = RemovalNotice::of(&node.cluster(), node.me()).unwrap_or(RemovalNotice::Removed { at: None });
            node.participation.leave(removal_notice);
        }
        _ = node.participation.left() => {}
    }
    let removal_notice = node.participation.left().await;
    if let Some(line) = node.removed() {
        tracing::error!("{line}");
    }
    if let Err(error) = node.record.record_farewell(removal_notice).await {
        tracing::debug!(%error, "the removal is not recorded; this host will be told again");
    }
    if let Err(error) = node.raft.shutdown().await {
        tracing::debug!(%error, "consensus did not stop in order");
    }
}

/// Ready when this host itself sees that it was removed, and that the others do not need it for
/// anything any more.
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

impl Node {
    /// Has the cluster note this host's name and address.
    pub async fn introduce(self: &Arc<Self>, deadline: Duration) -> Result<(), ProposeError> {
        let Settings { advertise: address, name } = self.settings.clone();
        self.propose(Command::AdmitHost { host: self.me(), name, address }, deadline)
            .await
            .map(drop)
    }
}
