//! The types and the configuration for openraft, private to this crate, except for a simulation
//! (see `testing`).

use std::io::Cursor;
use std::time::Duration;

use openraft::{Config, SnapshotPolicy};
use serde::{Deserialize, Serialize};
use shoutd_core::HostId;
use shoutd_core::cluster::{Outcome, Refusal};

use crate::clock::millis;
use crate::logged::Logged;

/// The clock, timers and tasks of consensus.
#[cfg(not(feature = "testing"))]
pub(crate) type Runtime = openraft::TokioRuntime;
/// Those of a simulation, where there is one.
#[cfg(feature = "testing")]
pub use crate::testing::Runtime;

openraft::declare_raft_types!(
    /// Our types, by openraft's names.
    pub Types:
        D = Logged,
        R = Answer,
        NodeId = u64,
        Node = openraft::BasicNode,
        Entry = openraft::Entry<Types>,
        SnapshotData = Cursor<Vec<u8>>,
        AsyncRuntime = Runtime,
);

pub(crate) type Raft = openraft::Raft<Types>;
/// A log entry.
pub type Entry = openraft::Entry<Types>;
/// Leader and index of a log entry.
pub type LogId = openraft::LogId<u64>;
/// A vote.
pub type Vote = openraft::Vote<u64>;
/// The Raft membership, and where the log has it.
pub type StoredMembership = openraft::StoredMembership<u64, openraft::BasicNode>;
/// What a snapshot includes.
pub type SnapshotMeta = openraft::SnapshotMeta<u64, openraft::BasicNode>;
/// A snapshot.
pub type Snapshot = openraft::Snapshot<Types>;
pub(crate) type Metrics = openraft::RaftMetrics<u64, openraft::BasicNode>;
/// A failure of the store, for openraft.
pub type StorageError = openraft::StorageError<u64>;

/// The result of applying a log entry; `None` for openraft's own entries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer(pub Option<Result<Outcome, Refusal>>);

/// The host with this id; `None` for zero, which openraft uses for "no node".
pub(crate) fn host(id: u64) -> Option<HostId> {
    HostId::new(id)
}

/// The heartbeat interval. openraft ticks once in one and a half of these, so followers receive a
/// heartbeat every 300 ms. It is also the time-out of one message to a follower: well above the 3
/// ms of a commit to disk, even when two cores are busy.
const HEARTBEAT: Duration = Duration::from_millis(200);

/// A follower stands for election when it has received nothing from a leader for `ELECTION_MAX`
/// (openraft's lease: during it all refuse to vote for another) and then for a time drawn from
/// between these two: 1.5 to 2 s after the last heartbeat, when it has missed five or six. So a
/// slow leader is not deposed, and a lost one is replaced within about 2.5 s.
const ELECTION_MIN: Duration = Duration::from_millis(500);
/// See [`ELECTION_MIN`].
pub(crate) const ELECTION_MAX: Duration = Duration::from_millis(1000);

/// How long sending a snapshot chunk may take; for the last one this includes writing the snapshot
/// to the follower's disk.
const SNAPSHOT_CHUNK_DEADLINE: Duration = Duration::from_secs(10);

/// Bytes of a snapshot chunk. In JSON each byte takes up to four characters; see
/// `shoutd_peer::limits::BODY_BYTES_MAX`.
const SNAPSHOT_CHUNK_BYTES: u64 = 1 << 20;

/// Log entries between snapshots: the daemon applies up to this many again when it starts.
const SNAPSHOT_EVERY: u64 = 1000;

/// Log entries kept although a snapshot includes them, so that a host that was away for a moment
/// needs no snapshot.
const ENTRIES_KEPT: u64 = 500;

/// The limit on log entries in one message; `store::log` bounds their size.
const ENTRIES_PER_MESSAGE: u64 = 128;

/// openraft's configuration.
pub fn config() -> Config {
    Config {
        cluster_name: "shoutd".to_owned(),
        heartbeat_interval: millis(HEARTBEAT),
        election_timeout_min: millis(ELECTION_MIN),
        election_timeout_max: millis(ELECTION_MAX),
        install_snapshot_timeout: millis(SNAPSHOT_CHUNK_DEADLINE),
        snapshot_max_chunk_size: SNAPSHOT_CHUNK_BYTES,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_EVERY),
        max_in_snapshot_log_to_keep: ENTRIES_KEPT,
        // A follower that is further behind gets a snapshot. openraft requires more than in the
        // snapshot policy.
        replication_lag_threshold: 2 * SNAPSHOT_EVERY,
        max_payload_entries: ENTRIES_PER_MESSAGE,
        // The pre-vote enables elections when one can succeed.
        enable_elect: false,
        // Each purge is a transaction; one per hundred entries is enough.
        purge_batch_size: 100,
        ..Config::default()
    }
}
