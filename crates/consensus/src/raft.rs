//! What openraft is told about our types. Nothing of it leaves this crate.

use std::io::Cursor;
use std::time::Duration;

use openraft::{Config, SnapshotPolicy};
use serde::{Deserialize, Serialize};
use shoutd_core::HostId;
use shoutd_core::cluster::{Outcome, Refusal};

use crate::logged::Logged;

/// Clock, timers and tasks of consensus.
#[cfg(not(test))]
pub(crate) type Runtime = openraft::TokioRuntime;
/// Seeded ones, within a simulation.
#[cfg(test)]
pub(crate) use crate::simulation::Runtime;

openraft::declare_raft_types!(
    /// Our types, by the names openraft has for them.
    pub(crate) Types:
        D = Logged,
        R = Answer,
        NodeId = u64,
        Node = openraft::BasicNode,
        Entry = openraft::Entry<Types>,
        SnapshotData = Cursor<Vec<u8>>,
        AsyncRuntime = Runtime,
);

pub(crate) type Raft = openraft::Raft<Types>;
pub(crate) type Entry = openraft::Entry<Types>;
pub(crate) type LogId = openraft::LogId<u64>;
pub(crate) type Vote = openraft::Vote<u64>;
pub(crate) type StoredMembership = openraft::StoredMembership<u64, openraft::BasicNode>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<u64, openraft::BasicNode>;
pub(crate) type Snapshot = openraft::Snapshot<Types>;
pub(crate) type Metrics = openraft::RaftMetrics<u64, openraft::BasicNode>;
pub(crate) type StorageError = openraft::StorageError<u64>;

/// What applying one log entry came to; `None` for the entries that consensus makes for itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answer(pub Option<Result<Outcome, Refusal>>);

/// The host with this id, unless it is zero, which openraft uses for "nobody".
pub(crate) fn host(id: u64) -> Option<HostId> {
    HostId::new(id)
}

/// How often a leader is to be heard. openraft looks at its clock once in one and a half of these,
/// so followers hear from it every 300 ms. It is also the time that one message to a follower may
/// take: well above the 3 ms of a commit to disk, even when two cores are busy with something else.
const HEARTBEAT: Duration = Duration::from_millis(200);

/// A follower stands for election when it has heard no leader for `ELECTION_MAX` (during which all
/// refuse to elect another) and then for a time drawn from between these two: 1.5 to 2 s after the
/// last heartbeat, that is five or six in a row missed. A host that is merely slow is not deposed,
/// and a lost leader is replaced within about 2.5 s.
const ELECTION_MIN: Duration = Duration::from_millis(500);
/// See [`ELECTION_MIN`].
pub(crate) const ELECTION_MAX: Duration = Duration::from_millis(1000);

/// How long a piece of a snapshot may take on its way, and the last one until it is on the
/// follower's disk.
const SNAPSHOT_PIECE_DEADLINE: Duration = Duration::from_secs(10);

/// Octets of a piece of a snapshot. Each byte takes up to four on the way; see
/// `shoutd_peer::limits::BODY_BYTES_MAX`.
const SNAPSHOT_PIECE_BYTES: u64 = 1 << 20;

/// Log entries after which a snapshot is taken: the most that is applied again when the daemon
/// starts.
const SNAPSHOT_EVERY: u64 = 1000;

/// Log entries that are kept though a snapshot has them, so that a host that was away for a moment
/// gets just these.
const ENTRIES_KEPT: u64 = 500;

/// Log entries in one message at most; their size is bounded too, see `store::log`.
const ENTRIES_PER_MESSAGE: u64 = 128;

/// The numbers above, as openraft wants them.
pub(crate) fn config() -> Config {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    Config {
        cluster_name: "shoutd".to_owned(),
        heartbeat_interval: millis(HEARTBEAT),
        election_timeout_min: millis(ELECTION_MIN),
        election_timeout_max: millis(ELECTION_MAX),
        install_snapshot_timeout: millis(SNAPSHOT_PIECE_DEADLINE),
        snapshot_max_chunk_size: SNAPSHOT_PIECE_BYTES,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_EVERY),
        max_in_snapshot_log_to_keep: ENTRIES_KEPT,
        // A follower that is further behind gets a snapshot. openraft wants it above the snapshot
        // policy.
        replication_lag_threshold: 2 * SNAPSHOT_EVERY,
        max_payload_entries: ENTRIES_PER_MESSAGE,
        // The scout allows it when it can succeed.
        enable_elect: false,
        // Each purge is a transaction; one in a hundred entries is enough.
        purge_batch_size: 100,
        ..Config::default()
    }
}
