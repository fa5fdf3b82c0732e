//! Proposing commands: this host commits them if it leads, and forwards them to the leader
//! otherwise. Removing a host takes more than a command, so the leader is sent an [`Errand`].

use std::sync::Arc;
use std::time::Duration;

use shoutd_core::HostId;
use shoutd_core::cluster::{Command, Outcome, Refusal};
use shoutd_peer::CallError;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};

use crate::clock::millis;
use crate::logged::Logged;
use crate::node::Node;
use crate::obstacle::Obstacle;
use crate::status::{ConsensusStatus, Role};
use crate::wire::{self, Errand, Located, Propose, Proposed};
use crate::{ProposeError, commit, obstacle, removal};

/// Bytes of a command's JSON. The limits on user input keep commands below this. It protects the
/// log against a bug: an entry too large to be sent would block replication.
const COMMAND_BYTES_MAX: usize = 8 << 20;

/// Time between two tries.
const PAUSE: Duration = Duration::from_millis(50);

/// Time between two checks of the disk.
const DISK_LOOK: Duration = Duration::from_millis(500);

/// How long the other voters may take to say who leads.
const SEARCH_DEADLINE: Duration = Duration::from_millis(1000);

pub(crate) async fn propose(
    node: &Arc<Node>,
    command: Command,
    deadline: Duration,
) -> Result<Outcome, ProposeError> {
    let bytes = serde_json::to_vec(&command).map_or(usize::MAX, |json| json.len());
    if bytes > COMMAND_BYTES_MAX {
        let text = format!("the command has {bytes} bytes; {COMMAND_BYTES_MAX} is the limit");
        return Err(Refusal::TooLarge(text).into());
    }
    run_errand(node, Errand::Command(command.into()), deadline).await
}

pub(crate) async fn run_errand(
    node: &Arc<Node>,
    errand: Errand,
    deadline: Duration,
) -> Result<Outcome, ProposeError> {
    let until = Instant::now() + deadline;
    let mut trouble = None;
    let agreed = timeout_at(until, async {
        tokio::select! {
            biased;
            done = run_until(node, &errand, until, &mut trouble) => done,
            unable = unable(node) => Err(unable),
        }
    });
    let agreed = agreed.await;
    agreed.unwrap_or_else(|_| Err(obstacle::why_not(node, trouble, deadline)))
}

/// Resolves when two checks in a row find the same disk fault, so that a caller does not wait
/// until its deadline.
async fn unable(node: &Node) -> ProposeError {
    let mut before = None;
    loop {
        sleep(DISK_LOOK).await;
        let now = node.record.fault();
        if let Some(fault) = now.clone().filter(|_| before == now) {
            return ProposeError::Disk(fault);
        }
        before = now;
    }
}

/// Tries until the errand is done or an error is final. `trouble` is the last obstacle.
async fn run_until(
    node: &Arc<Node>,
    errand: &Errand,
    until: Instant,
    trouble: &mut Option<Obstacle>,
) -> Result<Outcome, ProposeError> {
    let mut hint = None;
    loop {
        obstacle::check_able(node)?;
        let leader = hint.take().or_else(|| node.located(node.leader()?));
        let proposed = match leader {
            Some(leader) if leader.host == node.me() => {
                carry_out(node, errand.clone(), until).await
            }
            Some(leader) => match forward(node, leader, errand, until).await {
                Ok(proposed) => proposed,
                Err(error) => {
                    // If time ran out during the call, the earlier obstacle explains more.
                    if trouble.is_none() || Instant::now() < until {
                        *trouble = Some(Obstacle::Call(leader.host, error));
                    }
                    // This host's view may be out of date. The others may know the leader.
                    Proposed::NotLeader {
                        leader: search_leader(node).await.filter(|found| found.host != leader.host),
                    }
                }
            },
            None if node.identity.cluster().is_none() => return Err(Refusal::NoCluster.into()),
            None => Proposed::NotLeader { leader: search_leader(node).await },
        };
        match proposed {
            Proposed::Done { index, result } => {
                let outcome = result?;
                // A host that removed itself might never receive that entry.
                let is_own_removal = *errand == Errand::Remove(node.me());
                return if is_own_removal {
                    Ok(outcome)
                } else {
                    commit::wait_applied(node, index).await.map(|()| outcome)
                };
            }
            Proposed::NotLeader { leader } => hint = leader,
            Proposed::Failed(
                error @ (ProposeError::Refused(_)
                | ProposeError::NoMajority(_)
                | ProposeError::OldLeader(_)),
            ) => return Err(error),
            // The leader cannot do it now. The next try may find another leader.
            Proposed::Failed(error) => *trouble = Some(Obstacle::Leader(error)),
        }
        sleep(PAUSE).await;
    }
}

/// Forwards an errand to the leader. Gives up when this host learns of another leader.
async fn forward(
    node: &Node,
    leader: Located,
    errand: &Errand,
    until: Instant,
) -> Result<Proposed, CallError> {
    let remaining = until.saturating_duration_since(Instant::now());
    // The leader gives up a little earlier, so that its reason arrives.
    let request = Propose { errand: errand.clone(), within: millis(remaining * 9 / 10) };
    let answer =
        node.peer_health.call(leader.host, leader.address, wire::PROPOSE, &request, remaining);
    tokio::select! {
        // An answer takes precedence over news of another leader.
        biased;
        answer = answer => answer,
        () = commit::other_leader_than(node, leader.host) => {
            Ok(Proposed::NotLeader { leader: None })
        }
    }
}

/// Does another host's errand if this host leads.
pub(crate) async fn carry_out_for(
    node: &Node,
    caller: HostId,
    errand: Errand,
    until: Instant,
) -> Proposed {
    if node.leader() == Some(node.me()) && !node.cluster().hosts.contains_key(&caller) {
        // The previous leader may have admitted it, and this host has not applied that yet.
        let text =
            format!("the leader {} does not know host {caller}", node.peer_health.name(node.me()));
        return Proposed::Failed(ProposeError::NoLeader(text));
    }
    carry_out(node, errand, until).await
}

/// Does an errand if this host leads.
async fn carry_out(node: &Node, errand: Errand, until: Instant) -> Proposed {
    match errand {
        Errand::Command(Logged::Known(command)) => commit::write_until(node, command, until).await,
        // This host must not append a command that it does not know: it could not apply it
        // itself.
        Errand::Command(Logged::Unknown(_)) => {
            Proposed::Failed(ProposeError::OldLeader(node.peer_health.name(node.me())))
        }
        Errand::Remove(host) => removal::remove_until(node, host, until).await,
    }
}

/// Asks the other voters for the leader. Needed if the leader does not reach this host, for
/// example at a new address.
async fn search_leader(node: &Arc<Node>) -> Option<Located> {
    let mut asked = JoinSet::new();
    for voter in node.voters().into_iter().filter(|voter| *voter != node.me()) {
        if let Some(Located { host, address }) = node.located(voter) {
            let node = Arc::clone(node);
            asked.spawn(async move {
                node.peer_health
                    .ask_status(host, address, SEARCH_DEADLINE)
                    .await
                    .ok()
                    .map(|answer| answer.status)
            });
        }
    }
    let mut best: Option<ConsensusStatus> = None;
    while let Some(answered) = asked.join_next().await {
        let Ok(Some(status)) = answered else { continue };
        // A candidate has raised its term without having a leader in it.
        let leads = status.leader.is_some() && status.role != Role::Candidate;
        if leads && best.as_ref().is_none_or(|best| best.term < status.term) {
            best = Some(status);
        }
    }
    node.located(best?.leader?)
}
