//! Founding a cluster, joining it, and admitting hosts.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use openraft::BasicNode;
use openraft::error::{InitializeError, RaftError};
use shoutd_core::cluster::{Command, Refusal};
use shoutd_core::{ClusterId, HostId};
use shoutd_peer::{CallError, Distrust, Rejection};
use tokio::time::{Instant, timeout_at};

use crate::clock::millis;
use crate::node::{Node, Settings};
use crate::removal_notice::RemovalNotice;
use crate::status::ConsensusStatus;
use crate::wire::{self, Answer, Join, Joined, Proposed};
use crate::{ProposeError, STATE_VERSION, StoreError, commit, propose};

/// How long one peer may take to answer before the next one is asked.
const PEER_DEADLINE: Duration = Duration::from_secs(5);

/// How long a peer without a leader waits for one: somewhat longer than an election takes.
const ELECTION: Duration = Duration::from_secs(3);

/// How long the peers may take to identify themselves.
const MEETING_DEADLINE: Duration = Duration::from_secs(1);

/// How many redirections to a leader a joining host follows.
const REDIRECTS_MAX: usize = 3;

/// Why a cluster was not founded.
#[derive(Debug, thiserror::Error)]
pub enum FoundError {
    /// This host belongs to another cluster.
    #[error("this host belongs to cluster {has} already, by its data directory")]
    OtherCluster {
        /// Its cluster.
        has: ClusterId,
    },
    /// It began to join this cluster, and does not know yet that it was admitted.
    #[error(
        "this host began to join cluster {0}, which another host founded: give a member of it as \
         a peer"
    )]
    Joining(ClusterId),
    /// The command that founds the cluster was not committed.
    #[error("founding the cluster: {0}")]
    Propose(#[from] ProposeError),
    /// The cluster could not be recorded in the store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why this host did not join the cluster of its peers.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Its data directory belongs to another cluster.
    #[error(
        "{peer} belongs to cluster {theirs}, this host to cluster {ours} by its data directory: \
         start it without --peer-addresses to stay in its own cluster; to join the other one, \
         leave this one (shoutdctl stop --leave) and start again with a token of the other"
    )]
    OtherCluster {
        /// The peer.
        peer: SocketAddr,
        /// The peer's cluster.
        theirs: ClusterId,
        /// This host's.
        ours: ClusterId,
    },
    /// Another authority certified the peer.
    #[error(
        "{peer} belongs to another cluster than this host: start it without --peer-addresses to \
         stay in its own cluster; to join the other one, leave this one (shoutdctl stop --leave) \
         and start again with a token of the other"
    )]
    Stranger {
        /// The peer.
        peer: SocketAddr,
    },
    /// The cluster refuses it.
    #[error("{peer} does not admit this host: {reason}")]
    Refused {
        /// The peer.
        peer: SocketAddr,
        /// Its reason.
        reason: String,
    },
    /// The peers answer and belong to no cluster.
    #[error("{} to no cluster yet: start a cluster there first", belong(.peers))]
    NoCluster {
        /// The peers.
        peers: Vec<SocketAddr>,
    },
    /// No peer answered.
    #[error("{}", list(.errors))]
    Unreachable {
        /// The error of each peer.
        errors: Vec<CallError>,
    },
    /// The only peer given is this host.
    #[error("{0} is this host itself: give another host of the cluster")]
    Itself(SocketAddr),
    /// The cluster cannot commit anything now.
    #[error("{peer} cannot admit this host now: {error}")]
    NotNow {
        /// The peer.
        peer: SocketAddr,
        /// Its reason.
        error: ProposeError,
    },
    /// This host was admitted, but the cluster's messages do not arrive.
    #[error(
        "{peer} admitted this host, but no message of the cluster arrived at {address}: is TCP \
         port {} open on this host?",
        .address.port()
    )]
    Silence {
        /// The peer.
        peer: SocketAddr,
        /// The address at which this host waited.
        address: SocketAddr,
    },
    /// This host was removed, or left out by a recovery. The text is that of
    /// [`crate::Consensus::removed`].
    #[error("{0}")]
    Removed(String),
    /// The address is another host's, which may be about to move as well.
    #[error("{peer} does not admit this host: {reason}")]
    AddressTaken {
        /// The peer.
        peer: SocketAddr,
        /// What it answered.
        reason: String,
    },
    /// The cluster's state has a version that this build does not support.
    #[error(
        "{peer} runs a newer version of shoutd (version {theirs} of agreed state, this one knows \
         {STATE_VERSION}): upgrade shoutd on this host"
    )]
    Outdated {
        /// The peer.
        peer: SocketAddr,
        /// The version of its state.
        theirs: u32,
    },
    /// The cluster could not be recorded in the store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn belong(peers: &[SocketAddr]) -> String {
    let names: Vec<_> = peers.iter().map(SocketAddr::to_string).collect();
    format!("{} {}", names.join(", "), if peers.len() == 1 { "belongs" } else { "belong" })
}

fn list(errors: &[CallError]) -> String {
    if errors.is_empty() {
        return "no peer was named".to_owned();
    }
    errors.iter().map(CallError::to_string).collect::<Vec<_>>().join("; ")
}

impl FoundError {
    /// Whether a retry with the same arguments can succeed.
    pub fn may_pass(&self) -> bool {
        match self {
            // A host that asked to join may still learn that it was admitted.
            Self::Propose(_) | Self::Joining(_) => true,
            Self::OtherCluster { .. } | Self::Store(_) => false,
        }
    }
}

impl JoinError {
    /// Whether a retry with the same arguments can succeed.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::NoCluster { .. }
            | Self::Unreachable { .. }
            | Self::NotNow { .. }
            | Self::Silence { .. } => true,
            Self::OtherCluster { .. }
            | Self::Stranger { .. }
            | Self::Refused { .. }
            | Self::AddressTaken { .. }
            | Self::Removed(_)
            | Self::Outdated { .. }
            | Self::Itself(_)
            | Self::Store(_) => false,
        }
    }
}

pub(crate) async fn found(
    node: &Arc<Node>,
    cluster: ClusterId,
    deadline: Duration,
) -> Result<(), FoundError> {
    // Recorded first: a host that is interrupted after this line continues when it restarts.
    let has = node.belong_to(cluster, true, 0).await?;
    if has != cluster {
        return Err(FoundError::OtherCluster { has });
    }
    let known = node.cluster();
    if known.id == Some(cluster) && known.hosts.contains_key(&node.me()) {
        return Ok(());
    }
    if !node.is_founder().await? {
        return Err(FoundError::Joining(cluster));
    }
    let own = BasicNode::new(node.settings.advertise);
    match node.raft.initialize(BTreeMap::from([(node.me().get(), own)])).await {
        // Not allowed if there is a log already: then it was done before.
        Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {}
        Err(RaftError::APIError(InitializeError::NotInMembers(_)) | RaftError::Fatal(_)) => {
            return Err(ProposeError::Stopped.into());
        }
    }
    let until = Instant::now() + deadline;
    propose::propose(node, Command::Found { cluster }, deadline).await?;
    Ok(introduce(node, until.saturating_duration_since(Instant::now())).await?)
}

pub(crate) async fn join(
    node: &Arc<Node>,
    peers: &[SocketAddr],
    until: Instant,
) -> Result<(), JoinError> {
    let (mut unreachable, mut without_cluster, mut not_now) = (Vec::new(), Vec::new(), None);
    meet(node, peers).await;
    for peer in peers.iter().copied().filter(|peer| *peer != node.settings.advertise) {
        match ask(node, peer, until).await {
            Ok(()) => return Ok(()),
            Err(JoinError::Unreachable { errors }) => unreachable.extend(errors),
            Err(JoinError::NoCluster { peers }) => without_cluster.extend(peers),
            Err(error) if error.may_pass() => not_now = Some(error),
            Err(error) => return Err(error),
        }
    }
    match (not_now, peers) {
        (Some(error), _) => Err(error),
        (None, [own]) if *own == node.settings.advertise => Err(JoinError::Itself(*own)),
        (None, _) if !without_cluster.is_empty() => {
            Err(JoinError::NoCluster { peers: without_cluster })
        }
        (None, _) => Err(JoinError::Unreachable { errors: unreachable }),
    }
}

/// Finds hosts of this host's cluster at the addresses that a user gave: they may have moved,
/// and so may this one.
pub(crate) async fn meet(node: &Node, peers: &[SocketAddr]) {
    let others = peers.iter().copied().filter(|peer| *peer != node.settings.advertise);
    let asked = others.filter(|_| node.identity.cluster().is_some()).map(async |peer| {
        let status = node.peer_health.call_address(peer, wire::STATUS, &(), MEETING_DEADLINE).await;
        status.map(|status: ConsensusStatus| node.peer_health.learn(status.host, peer))
    });
    drop(join_all(asked).await);
}

/// Asks one peer, and follows its redirections to the leader.
async fn ask(node: &Arc<Node>, first: SocketAddr, until: Instant) -> Result<(), JoinError> {
    let mut peer = first;
    for _ in 0..=REDIRECTS_MAX {
        let within = until.saturating_duration_since(Instant::now()).min(PEER_DEADLINE);
        let request = Join {
            name: node.settings.name.clone(),
            address: node.settings.advertise,
            state: STATE_VERSION,
            within: millis(within * 9 / 10),
        };
        let message = node.peer_health.message(None, request);
        let answer =
            node.calls.call::<_, Answer<Joined>>(None, peer, wire::JOIN, &message, within).await;
        let joined = match answer.map_err(|error| refused(node, peer, error))? {
            Ok(joined) => joined,
            Err(removal_notice) => return Err(turned_away(node, removal_notice)),
        };
        match joined {
            Joined::Admitted { cluster, epoch } => {
                return enter(node, peer, (cluster, epoch), until).await;
            }
            Joined::Outdated { state } => {
                return Err(JoinError::Outdated { peer, theirs: state });
            }
            // This host leads itself, for example after all hosts restarted: no other needs to
            // admit it.
            Joined::NotLeader { leader: Some(leader) } if leader.host == node.me() => {
                let introduced =
                    introduce(node, until.saturating_duration_since(Instant::now())).await;
                return introduced.map_err(|error| JoinError::NotNow { peer, error });
            }
            Joined::NotLeader { leader: Some(leader) } => peer = leader.address,
            Joined::NotLeader { leader: None } => {
                return Err(JoinError::NotNow {
                    peer,
                    error: ProposeError::NoLeader("no leader".to_owned()),
                });
            }
            Joined::NoCluster => return Err(JoinError::NoCluster { peers: vec![peer] }),
            Joined::Itself => return Err(JoinError::Itself(peer)),
            // The removal of this host is committed, but it is still in the Raft membership.
            // Once it is not, the others send it its removal notice.
            Joined::Refused(refusal @ Refusal::HostRemoved { .. }) => {
                return Err(JoinError::NotNow { peer, error: refusal.into() });
            }
            Joined::Refused(refusal @ Refusal::HostAddressTaken { .. }) => {
                return Err(JoinError::AddressTaken { peer, reason: refusal.to_string() });
            }
            Joined::Refused(refusal) => {
                return Err(JoinError::Refused { peer, reason: refusal.to_string() });
            }
            Joined::Failed(error) => return Err(JoinError::NotNow { peer, error }),
        }
    }
    Err(JoinError::NotNow {
        peer,
        error: ProposeError::NoLeader("the leader keeps changing".to_owned()),
    })
}

/// Waits until agreed state with this host's entry arrives.
async fn enter(
    node: &Node,
    peer: SocketAddr,
    (theirs, epoch): (ClusterId, u64),
    until: Instant,
) -> Result<(), JoinError> {
    let ours = node.belong_to(theirs, false, epoch).await?;
    if ours != theirs {
        return Err(JoinError::OtherCluster { peer, theirs, ours });
    }
    let address = node.settings.advertise;
    let mut cluster = node.published.cluster.clone();
    let there = cluster.wait_for(|cluster| {
        cluster.hosts.get(&node.me()).is_some_and(|host| host.address == address)
    });
    match timeout_at(until, there).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(_)) => Err(JoinError::NotNow { peer, error: ProposeError::Stopped }),
        Err(_) => Err(JoinError::Silence { peer, address }),
    }
}

/// Admits a host, as the leader. Returns when the host is in the Raft membership. Whether it
/// gets a vote is decided once it has the log.
pub(crate) async fn admit(node: &Node, host: HostId, request: Join, until: Instant) -> Joined {
    if host == node.me() {
        return Joined::Itself;
    }
    let Some(cluster) = node.cluster().id else {
        return Joined::NoCluster;
    };
    let state = node.cluster().state_version();
    if request.state < state {
        return Joined::Outdated { state };
    }
    // If this host was admitted a moment ago, or its leader was lost, it has a leader soon.
    let mut metrics = node.raft.metrics();
    let election = until.min(Instant::now() + ELECTION);
    let _ =
        timeout_at(election, metrics.wait_for(|metrics| metrics.current_leader.is_some())).await;
    let command = Command::AdmitHost { host, name: request.name, address: request.address };
    match commit::write_until(node, command, until).await {
        Proposed::Done { result: Ok(_), .. } => {}
        Proposed::Done { result: Err(Refusal::NoCluster), .. } => return Joined::NoCluster,
        Proposed::Done { result: Err(refusal), .. } => return Joined::Refused(refusal),
        // This host must not name itself: the caller would only ask it again.
        Proposed::NotLeader { leader } => {
            return Joined::NotLeader { leader: leader.filter(|to| to.host != node.me()) };
        }
        Proposed::Failed(error) => return Joined::Failed(error),
    }
    node.members_wanted.notify_one();
    let member = metrics
        .wait_for(|metrics| metrics.membership_config.membership().get_node(&host.get()).is_some());
    match timeout_at(until, member).await {
        Ok(_) => Joined::Admitted { cluster, epoch: node.participation.epoch() },
        Err(_) => Joined::Failed(ProposeError::TimedOut(request.within)),
    }
}

/// Records a removal notice for this host.
fn turned_away(node: &Node, removal_notice: RemovalNotice) -> JoinError {
    let text = format!("{removal_notice:?}");
    node.participation.leave(removal_notice);
    JoinError::Removed(node.removed().unwrap_or(text))
}

fn refused(node: &Node, peer: SocketAddr, error: CallError) -> JoinError {
    match error {
        CallError::Refused { rejection: Rejection::OtherCluster { has, caller }, .. } => {
            JoinError::OtherCluster { peer, theirs: has, ours: caller }
        }
        CallError::Refused { rejection: Rejection::Busy { reason }, .. } => {
            JoinError::NotNow { peer, error: ProposeError::NoLeader(reason) }
        }
        CallError::Untrusted { distrust: Distrust::NoCluster, .. } => {
            JoinError::NoCluster { peers: vec![peer] }
        }
        CallError::Untrusted {
            distrust: Distrust::OtherAuthority | Distrust::OtherCluster(_),
            ..
        } => JoinError::Stranger { peer },
        // One of the two clocks is wrong. Once it is set, a retry succeeds.
        CallError::Untrusted {
            distrust: distrust @ (Distrust::Expired(_) | Distrust::NotYetValid(_)),
            ..
        } => JoinError::NotNow { peer, error: ProposeError::NoLeader(distrust.to_string()) },
        // In the TLS handshake this host accepted the peer's certificate, so both certificates
        // are of one cluster. The peer can only object to the validity time of this host's.
        CallError::Refused { rejection: rejection @ Rejection::Unauthenticated { .. }, .. } => {
            JoinError::NotNow { peer, error: ProposeError::NoLeader(rejection.to_string()) }
        }
        CallError::Untrusted { distrust, .. } => {
            JoinError::Refused { peer, reason: distrust.to_string() }
        }
        CallError::Refused { rejection: Rejection::Removed { .. }, .. } => {
            turned_away(node, RemovalNotice::Removed { at: None })
        }
        CallError::Refused { rejection, .. } => {
            JoinError::Refused { peer, reason: rejection.to_string() }
        }
        CallError::Malformed { reason, .. } => JoinError::Refused {
            peer,
            reason: format!("it does not speak shoutd's protocol: {reason}"),
        },
        error @ (CallError::Unreachable { .. } | CallError::TimedOut { .. }) => {
            JoinError::Unreachable { errors: vec![error] }
        }
    }
}

/// Asks the cluster to record this host's name and address in agreed state. If hosts have
/// exchanged their addresses in a ring, asks it to move all of them at once.
pub(crate) async fn introduce(node: &Arc<Node>, deadline: Duration) -> Result<(), ProposeError> {
    let Settings { advertise: address, name } = node.settings.clone();
    let admit = Command::AdmitHost { host: node.me(), name, address };
    let introduced = propose::propose(node, admit, deadline).await;
    let is_taken =
        matches!(introduced, Err(ProposeError::Refused(Refusal::HostAddressTaken { .. })));
    match node.peer_health.ring().filter(|_| is_taken) {
        Some(hosts) => {
            propose::propose(node, Command::MoveHosts { hosts }, deadline).await.map(drop)
        }
        None => introduced.map(drop),
    }
}
