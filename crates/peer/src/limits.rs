//! Limits of the transport between hosts, with their reasons.

use std::time::Duration;

/// Connections to members that a server or a client keeps at a time: one for each host of the
/// largest cluster, and some to spare.
pub const CONNECTIONS_MAX: usize = 1024;

/// Connections from one member. It needs one, and a few more while it reconnects or restarts.
pub const CONNECTIONS_PER_HOST_MAX: usize = 16;

/// Connections from callers that have not proved to be members: handshakes in progress, and hosts
/// that want to join. Together with the 64 KiB that a handshake may buffer and the limits on a
/// stranger's requests, it bounds the memory that strangers can take.
pub const STRANGERS_MAX: usize = 256;

/// Strangers' connections from one address: several hosts may share it behind NAT.
pub const STRANGERS_PER_ADDRESS_MAX: usize = 16;

/// How long a stranger's connection may last after its handshake: long enough for a change to
/// agreed state.
pub const STRANGER_LIFETIME: Duration = Duration::from_secs(35);

/// Requests in flight on a stranger's connection: it has only one thing to ask.
pub const STREAMS_PER_STRANGER_MAX: u32 = 2;

/// Requests of all strangers in flight.
pub const STRANGER_REQUESTS_MAX: usize = 32;

/// Bytes of the body of a stranger's request. Ours have less than 200.
pub const STRANGER_BODY_BYTES_MAX: usize = 8 << 10;

/// Rate of requests from strangers at one address: the burst, and the time after which one more is
/// allowed. A host that waits for approval asks every two seconds, and several such hosts may share
/// an address.
pub const STRANGER_REQUESTS_PER_ADDRESS: (u32, Duration) = (32, Duration::from_millis(250));

/// The same for all addresses together. A data center that is powered on is admitted within
/// seconds; Raft, which each of these requests may load, is not overloaded.
pub const STRANGER_REQUESTS_IN_ALL: (u32, Duration) = (256, Duration::from_millis(50));

/// Requests in flight on one connection. Raft needs a handful; a burst of starting containers needs
/// more.
pub const STREAMS_PER_CONNECTION_MAX: u32 = 64;

/// Requests in flight on all connections together. With [`SMALL_BODY_BYTES_MAX`] and
/// [`BULK_BYTES_MAX`] it bounds the memory they can take.
pub const REQUESTS_MAX: usize = 256;

/// Bytes of the body of a request or a response: a snapshot chunk, or the largest command with its
/// envelope.
pub const BODY_BYTES_MAX: usize = 16 << 20;

/// Bytes of the headers of one request. Ours have about 300.
pub const HEADER_BYTES_MAX: u32 = 8 << 10;

/// How long a new connection may take until its first request arrives.
pub const FIRST_REQUEST_DEADLINE: Duration = Duration::from_secs(5);

/// How long a server works on one request, including the time to receive its body. Longer than any
/// caller waits.
pub const REQUEST_DEADLINE: Duration = Duration::from_secs(30);

/// The server closes a connection that has had no new request for this long. This also ends one
/// whose peer does not read its responses.
pub const IDLE_MAX: Duration = Duration::from_secs(120);

/// How often a server pings a silent client, and how long the answer may take.
pub const SERVER_KEEPALIVE: Duration = Duration::from_secs(10);

/// How often a client pings a silent server. This and [`CLIENT_KEEPALIVE_TIMEOUT`] together are the
/// time after which we replace a connection that a partition or a power cut left behind, well
/// before TCP itself would give it up.
pub const CLIENT_KEEPALIVE: Duration = Duration::from_secs(2);
/// How long the answer to [`CLIENT_KEEPALIVE`] may take: a loaded host is not a dead one.
pub const CLIENT_KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(4);

/// How long establishing a connection may take. The attempt continues when the call that asked for
/// it gives up, so that calls with a short deadline eventually get through a slow network.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(3);

/// How long requests in flight may take to finish once the server stops.
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);

/// Bytes of memory of a process that serves peers, whatever strangers and a few compromised members
/// send it: large bodies take up to [`BULK_BYTES_MAX`], small ones 16 MiB, connections the rest. A
/// test (`tests/hostility.rs`) attacks a server and measures.
pub const MEMORY_MAX: u64 = 256 << 20;

/// Bytes of a small body: nearly all are far below this. A body without a `Content-Length` must be
/// small.
pub const SMALL_BODY_BYTES_MAX: usize = 64 << 10;

/// Bytes of all large bodies: of requests being read and of responses not yet sent. A few of the
/// largest at a time are all that sending snapshots needs. The server answers further ones that it
/// is busy, and their senders retry.
pub const BULK_BYTES_MAX: usize = 64 << 20;
