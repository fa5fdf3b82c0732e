//! Sends openraft's messages.

use std::sync::Arc;
use std::time::Duration;

use openraft::error::{
    InstallSnapshotError, RPCError, RaftError, RemoteError, Timeout, Unreachable,
};
use openraft::network::{Backoff, RPCOption, RPCTypes, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use openraft::{AnyError, BasicNode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use shoutd_core::HostId;
use shoutd_peer::CallError;
use tokio::time::{Instant, timeout_at};

use crate::notice::NoticeKind;
use crate::participation::Participation;
use crate::peer_health::PeerHealth;
use crate::raft::{Types, host};
use crate::wire::{self, Progress};

/// How long openraft pauses after a host could not be reached. Well below the election time-out, so
/// that a host that is back receives a heartbeat before it stands for election.
const PAUSE: Duration = Duration::from_millis(250);

/// Makes a link to each host.
#[derive(Debug, Clone)]
pub(crate) struct Network {
    pub me: u64,
    pub peer_health: Arc<PeerHealth>,
    pub participation: Arc<Participation>,
}

/// The link to one host.
#[derive(Debug)]
pub(crate) struct Link {
    network: Network,
    target: u64,
    node: BasicNode,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: u64, node: &BasicNode) -> Link {
        Link { network: self.clone(), target, node: node.clone() }
    }
}

type Failure<E> = RPCError<u64, BasicNode, RaftError<u64, E>>;

impl Link {
    async fn call<Q: Serialize + Sync, A: DeserializeOwned, E: std::error::Error>(
        &self,
        action: RPCTypes,
        path: &str,
        request: &Q,
        option: &RPCOption,
    ) -> Result<A, Failure<E>> {
        let peer_health = &self.network.peer_health;
        let located = host(self.target)
            .and_then(|host| Some((host, peer_health.address(host, Some(&self.node.addr))?)));
        let Some((host, address)) = located else {
            let unknown =
                AnyError::error(format!("the address of host {:016x} is not known", self.target));
            return Err(Unreachable::new(&unknown).into());
        };
        // openraft drops the call at its hard limit. We end it just before, to record the time-out.
        let timeout = option.hard_ttl() * 9 / 10;
        let until = Instant::now() + timeout;
        if timeout_at(until, self.network.participation.sending_allowed()).await.is_err() {
            let early = AnyError::error(
                "this host has just started, and asks the others for the state of the cluster \
                 first",
            );
            return Err(Unreachable::new(&early).into());
        }
        let remaining = until.saturating_duration_since(Instant::now());
        match peer_health.call(host, address, path, request, remaining).await {
            Ok(answer) => Ok(answer),
            Err(CallError::TimedOut { .. }) => {
                Err(Timeout { action, id: self.network.me, target: self.target, timeout }.into())
            }
            // openraft backs off only after `Unreachable`; after other errors it retries at once,
            // without end.
            Err(error) => Err(Unreachable::new(&error).into()),
        }
    }
}

impl Link {
    /// Records what a follower has acknowledged, and detects one that was rolled back. openraft
    /// then sends it the log again from where it is.
    fn note_progress(
        &self,
        target: HostId,
        rpc: &AppendEntriesRequest<Types>,
        answer: &AppendEntriesResponse<u64>,
    ) {
        let term = rpc.vote.leader_id().term;
        let peer_health = &self.network.peer_health;
        let acknowledged = match answer {
            AppendEntriesResponse::Success => {
                rpc.entries.last().map(|entry| entry.log_id).or(rpc.prev_log_id)
            }
            AppendEntriesResponse::PartialSuccess(matching) => *matching,
            AppendEntriesResponse::HigherVote(_) => return,
            AppendEntriesResponse::Conflict => {
                let lacks = rpc.prev_log_id.map_or(0, |before| before.index);
                let said = peer_health.progress_of(target);
                if let Some(said) = said.filter(|said| said.term == term && said.index >= lacks) {
                    let (name, participation) =
                        (peer_health.name(target), &self.network.participation);
                    let text = format!(
                        "the data directory of {name} was rolled back: it had acknowledged {} log \
                         entries and lacks the last of them; it does not vote until it has \
                         received what is missing",
                        said.index + 1
                    );
                    tracing::warn!("{text}");
                    participation.notices.add(NoticeKind::Rollback, name, text);
                }
                return;
            }
        };
        let index = acknowledged.map_or(0, |last| last.index);
        peer_health.recall(target, Progress { term, index });
    }
}

impl RaftNetwork<Types> for Link {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, Failure<openraft::error::Infallible>> {
        let answer = self.call(RPCTypes::AppendEntries, wire::APPEND, &rpc, &option).await?;
        if let Some(target) = host(self.target) {
            self.note_progress(target, &rpc, &answer);
        }
        Ok(answer)
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<u64>,
        option: RPCOption,
    ) -> Result<VoteResponse<u64>, Failure<openraft::error::Infallible>> {
        let answer: VoteResponse<u64> =
            self.call(RPCTypes::Vote, wire::VOTE, &rpc, &option).await?;
        if let Some(target) = host(self.target).filter(|_| answer.vote_granted) {
            let said = Progress { term: rpc.vote.leader_id().term, index: 0 };
            self.network.peer_health.recall(target, said);
        }
        Ok(answer)
    }

    async fn install_snapshot(
        &mut self,
        rpc: InstallSnapshotRequest<Types>,
        option: RPCOption,
    ) -> Result<InstallSnapshotResponse<u64>, Failure<InstallSnapshotError>> {
        let answer: Result<_, InstallSnapshotError> =
            self.call(RPCTypes::InstallSnapshot, wire::SNAPSHOT, &rpc, &option).await?;
        // openraft must see this error unchanged: it then sends the snapshot from its beginning.
        answer.map_err(|error| RemoteError::new(self.target, RaftError::APIError(error)).into())
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(PAUSE))
    }
}
