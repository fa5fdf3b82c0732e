//! Limits of the transport between hosts, with their reasons.

use std::time::Duration;

/// Connections that a server, and a client, keep at a time: one from each host of the largest cluster, and some to spare.
pub const CONNECTIONS_MAX: usize = 1024;

/// Connections from one address. A host needs one; a few more are in use while it reconnects or restarts.
pub const CONNECTIONS_PER_ADDRESS_MAX: usize = 32;

/// Requests that one connection may have under way. Agreement needs a handful; a burst of starting containers needs more.
pub const STREAMS_PER_CONNECTION_MAX: u32 = 64;

/// Requests under way on all connections together; with [`BODY_BYTES_MAX`] it bounds the memory they can take.
pub const REQUESTS_MAX: usize = 256;

/// Octets of the body of a request or an answer: a piece of a snapshot, or the largest command and what is around it.
pub const BODY_BYTES_MAX: usize = 16 << 20;

/// Octets of the headers of one request. Ours have about 300.
pub const HEADER_BYTES_MAX: u32 = 8 << 10;

/// How long a new connection may take until its first request is there.
pub const FIRST_REQUEST_DEADLINE: Duration = Duration::from_secs(5);

/// How long a server works on one request, receiving its body included. Longer than any caller waits.
pub const REQUEST_DEADLINE: Duration = Duration::from_secs(30);

/// A connection without a new request for so long is closed by the server; that also ends one whose peer does not read its
/// answers.
pub const IDLE_MAX: Duration = Duration::from_secs(120);

/// How often a server asks a silent client whether it is there, and how long the answer may take.
pub const SERVER_KEEPALIVE: Duration = Duration::from_secs(10);

/// How often a client asks a silent server whether it is there. Both together are the time after which a connection that a
/// partition or a power cut left behind is replaced, well before TCP itself would give it up.
pub const CLIENT_KEEPALIVE: Duration = Duration::from_secs(2);
/// How long the answer to [`CLIENT_KEEPALIVE`] may take: a loaded host is not a dead one.
pub const CLIENT_KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(4);

/// How long establishing a connection may take. It goes on when the call that asked for it gives up, so that calls with a
/// short deadline get through a slow network in the end.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(3);

/// How long requests under way may take to finish once the server is to stop.
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);
