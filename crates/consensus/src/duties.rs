//! What a host does of its own accord: as leader, keep the Raft group in step with the admitted hosts; as any host, keep its own
//! entry among them true. Both compare what is with what should be, so that it does not matter where a crash left things.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use openraft::{BasicNode, ChangeMembers};
use shoutd_core::HostId;
use shoutd_core::cluster::Command;
use tokio::time::{sleep, timeout};

use crate::consensus::Inner;
use crate::members::{Change, Members, next_change};
use crate::raft::{Metrics, host};
use crate::{FoundError, ProposeError, Settings};

/// Time between two looks when nothing seems to happen.
const LOOK: Duration = Duration::from_secs(1);

/// How long one change of the group may take.
const CHANGE_DEADLINE: Duration = Duration::from_secs(5);

/// Time until the next try after one that failed.
const PAUSE: Duration = Duration::from_millis(200);

/// Time until the next try after the cluster refused: nothing but a user's doing changes that.
const REFUSED_PAUSE: Duration = Duration::from_secs(30);

/// Log entries that a host may lack and still get a vote: what it receives in a moment.
const LAG_MAX: u64 = 200;

/// Changes the Raft group while this host leads.
pub(crate) async fn lead(inner: Arc<Inner>) {
    let mut metrics = inner.raft.metrics();
    let mut cluster = inner.published.cluster.clone();
    let mut announced = None;
    loop {
        let seen = metrics.borrow_and_update().clone();
        let agreed = Arc::clone(&cluster.borrow_and_update());
        let leads = seen.current_leader == Some(inner.me().get()) && seen.running_state.is_ok();
        announce(&inner, &seen, &mut announced);
        let change = leads.then(|| next_change(&members(&seen), &agreed.hosts, &ready(&inner, &seen))).flatten();
        if let Some(change) = change
            && let Err(error) = apply(&inner, &change).await
        {
            tracing::debug!(%error, ?change, "the group could not be changed");
            sleep(PAUSE).await;
            continue;
        }
        tokio::select! {
            changed = metrics.changed() => if changed.is_err() { return },
            changed = cluster.changed() => if changed.is_err() { return },
            () = inner.members_wanted.notified() => {}
            () = sleep(LOOK) => {}
        }
    }
}

/// Tells the log of a new leader.
fn announce(inner: &Inner, metrics: &Metrics, announced: &mut Option<HostId>) {
    let leader = metrics.current_leader.and_then(host);
    if let Some(new) = leader.filter(|_| *announced != leader) {
        tracing::info!(leader = inner.contacts.name(new), term = metrics.current_term, "the hosts follow a leader");
        *announced = leader;
    }
}

fn members(metrics: &Metrics) -> Members {
    let membership = metrics.membership_config.membership();
    let hosts = |ids: &BTreeSet<u64>| ids.iter().copied().filter_map(host).collect();
    Members {
        voters: membership.get_joint_config().iter().map(hosts).collect(),
        addresses: membership.nodes().filter_map(|(id, node)| Some((host(*id)?, node.addr.clone()))).collect(),
    }
}

/// The members that answer and have nearly all of the log.
fn ready(inner: &Inner, metrics: &Metrics) -> BTreeSet<HostId> {
    let least = metrics.last_log_index.unwrap_or(0).saturating_sub(LAG_MAX);
    let replication = metrics.replication.iter().flatten();
    let caught_up = replication.filter(|(_, matched)| matched.is_some_and(|matched| matched.index >= least));
    caught_up.filter_map(|(id, _)| host(*id)).filter(|host| inner.contacts.is_reachable(*host)).collect()
}

async fn apply(inner: &Inner, change: &Change) -> Result<(), String> {
    let nodes = |hosts: &BTreeMap<HostId, String>| -> BTreeMap<u64, BasicNode> {
        hosts.iter().map(|(host, address)| (host.get(), BasicNode::new(address))).collect()
    };
    let changes = match change {
        Change::Voters(voters) => ChangeMembers::ReplaceAllVoters(voters.iter().map(|host| host.get()).collect()),
        Change::Add(hosts) => ChangeMembers::AddNodes(nodes(hosts)),
        // openraft warns of this one: two hosts must not swap addresses while a leader finds voters by them. Ours names the
        // host that it means in each message.
        Change::Move(hosts) => ChangeMembers::SetNodes(nodes(hosts)),
    };
    match timeout(CHANGE_DEADLINE, inner.raft.change_membership(changes, true)).await {
        Ok(Ok(_)) => {
            tracing::info!(?change, "the group of agreeing hosts has changed");
            Ok(())
        }
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("not agreed on within {CHANGE_DEADLINE:?}")),
    }
}

/// Finishes a founding that was interrupted, and keeps this host's name and address up to date.
pub(crate) async fn represent(inner: Arc<Inner>) {
    let mut cluster = inner.published.cluster.clone();
    loop {
        let agreed = Arc::clone(&cluster.borrow_and_update());
        let pause = match agreed.hosts.get(&inner.me()) {
            Some(own) if own.address == inner.settings.advertise && own.name == inner.settings.name => None,
            Some(_) => try_to_introduce(&inner).await,
            // A host that is not there any more was removed, and must not come back by itself.
            None if agreed.hosts.is_empty() => try_to_found(&inner).await,
            None => None,
        };
        match pause {
            Some(pause) => sleep(pause).await,
            None => {
                if cluster.changed().await.is_err() {
                    return;
                }
            }
        }
    }
}

async fn try_to_introduce(inner: &Arc<Inner>) -> Option<Duration> {
    match inner.introduce(CHANGE_DEADLINE).await {
        Ok(()) => None,
        Err(error @ ProposeError::Refused(_)) => {
            tracing::warn!(%error, address = %inner.settings.advertise, "the cluster does not take this host's new address");
            Some(REFUSED_PAUSE)
        }
        Err(error) => {
            tracing::debug!(%error, "the cluster does not know this host's new address yet");
            Some(PAUSE)
        }
    }
}

async fn try_to_found(inner: &Arc<Inner>) -> Option<Duration> {
    let cluster = inner.identity.cluster()?;
    match inner.is_founder().await {
        Ok(true) => {}
        Ok(false) => return None,
        Err(error) => {
            tracing::warn!(%error, "cannot tell whether this host founded its cluster");
            return Some(LOOK);
        }
    }
    match inner.found(cluster, CHANGE_DEADLINE).await {
        Ok(()) => None,
        Err(error) => {
            let stopped = matches!(error, FoundError::Propose(ProposeError::Stopped));
            tracing::debug!(%error, "the cluster is not founded yet");
            (!stopped).then_some(PAUSE)
        }
    }
}

impl Inner {
    /// Has the cluster note this host's name and address.
    pub async fn introduce(self: &Arc<Self>, deadline: Duration) -> Result<(), ProposeError> {
        let Settings { advertise: address, name } = self.settings.clone();
        self.propose(Command::AdmitHost { host: self.me(), name, address }, deadline).await.map(drop)
    }
}
