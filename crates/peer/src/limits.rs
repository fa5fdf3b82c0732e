//! Limits of the transport between hosts, with their reasons.

use std::time::Duration;

/// Connections with hosts of the cluster that a server, and a client, keep at a time: one with each
/// host of the largest cluster, and some to spare.
pub const CONNECTIONS_MAX: usize = 1024;

/// Connections from one host of the cluster. It needs one; a few more are in use while it
/// reconnects or restarts.
pub const CONNECTIONS_PER_HOST_MAX: usize = 16;

/// Connections from whoever has not proved to be a host of the cluster: handshakes under way, and
/// hosts that want to join. With what a handshake may buffer, 64 KiB, and a stranger's requests it
/// bounds the memory they can take.
pub const STRANGERS_MAX: usize = 256;

/// Of these, connections from one address: several hosts may be behind it.
pub const STRANGERS_PER_ADDRESS_MAX: usize = 16;

/// How long a stranger's connection may last after its handshake: long enough for a change to
/// agreed state.
pub const STRANGER_LIFETIME: Duration = Duration::from_secs(35);

/// Requests that a stranger's connection may have under way: it has but one thing to ask.
pub const STREAMS_PER_STRANGER_MAX: u32 = 2;

/// Requests of all strangers under way.
pub const STRANGER_REQUESTS_MAX: usize = 32;

/// Octets of the body of a stranger's request. Ours have less than 200.
pub const STRANGER_BODY_BYTES_MAX: usize = 8 << 10;

/// How often strangers may ask: so many at once, and one more in each of these times. A host that
/// waits to be let in asks every other second, and several of them may be behind one address.
pub const STRANGER_REQUESTS_PER_ADDRESS: (u32, Duration) = (32, Duration::from_millis(250));

/// The same for all addresses together: a data centre that is switched on is let in within seconds,
/// and agreement, which each of these requests may ask something of, is left in peace.
pub const STRANGER_REQUESTS_IN_ALL: (u32, Duration) = (256, Duration::from_millis(50));

/// Requests that one connection may have under way. Agreement needs a handful; a burst of starting
/// containers needs more.
pub const STREAMS_PER_CONNECTION_MAX: u32 = 64;

/// Requests under way on all connections together; with [`SMALL_BODY_BYTES_MAX`] and
/// [`BULK_BYTES_MAX`] it bounds the memory they can take.
pub const REQUESTS_MAX: usize = 256;

/// Octets of the body of a request or an answer: a piece of a snapshot, or the largest command and
/// what is around it.
pub const BODY_BYTES_MAX: usize = 16 << 20;

/// Octets of the headers of one request. Ours have about 300.
pub const HEADER_BYTES_MAX: u32 = 8 << 10;

/// How long a new connection may take until its first request is there.
pub const FIRST_REQUEST_DEADLINE: Duration = Duration::from_secs(5);

/// How long a server works on one request, receiving its body included. Longer than any caller
/// waits.
pub const REQUEST_DEADLINE: Duration = Duration::from_secs(30);

/// A connection without a new request for so long is closed by the server; that also ends one whose
/// peer does not read its answers.
pub const IDLE_MAX: Duration = Duration::from_secs(120);

/// How often a server asks a silent client whether it is there, and how long the answer may take.
pub const SERVER_KEEPALIVE: Duration = Duration::from_secs(10);

/// How often a client asks a silent server whether it is there. Both together are the time after
/// which a connection that a partition or a power cut left behind is replaced, well before TCP
/// itself would give it up.
pub const CLIENT_KEEPALIVE: Duration = Duration::from_secs(2);
/// How long the answer to [`CLIENT_KEEPALIVE`] may take: a loaded host is not a dead one.
pub const CLIENT_KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(4);

/// How long establishing a connection may take. It goes on when the call that asked for it gives
/// up, so that calls with a short deadline get through a slow network in the end.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(3);

/// How long requests under way may take to finish once the server is to stop.
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);

/// Octets that a process which serves peers may have in memory whatever strangers, and a few hosts
/// of the cluster gone bad, send it: large bodies take [`BULK_BYTES_MAX`] at the most, small ones
/// 16 MiB, and connections the rest. A test attacks a server and measures.
pub const MEMORY_MAX: u64 = 256 << 20;

/// Octets of a body that is not large: nearly all are far below. One that does not say its length
/// beforehand must not be larger.
pub const SMALL_BODY_BYTES_MAX: usize = 64 << 10;

/// Octets of all large bodies, of requests being read and of answers not yet sent: a few of the
/// largest at a time, which is all that sending snapshots needs. Further ones are told that the
/// server is busy, and come again.
pub const BULK_BYTES_MAX: usize = 64 << 20;
