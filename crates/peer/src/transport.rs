//! How a byte stream between two hosts is made, and who is at its other end.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;

use shoutd_core::{Fingerprint, HostId};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::{Distrust, PublicKey};

/// A stream of bytes to and from a peer.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

/// The authenticated other end of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The key of which it proved possession.
    pub key: PublicKey,
    /// The host that the key belongs to.
    pub host: HostId,
    /// Whether it belongs to this host's cluster: the authority that certifies it. If not, why we
    /// do not trust it.
    pub membership: Result<Fingerprint, Distrust>,
}

/// A stream and its authenticated other end.
pub struct Established {
    /// The stream.
    pub stream: Box<dyn Stream>,
    /// The other end.
    pub peer: Peer,
}

impl fmt::Debug for Established {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Established").field("peer", &self.peer).finish_non_exhaustive()
    }
}

/// The future that makes a stream.
pub type Connecting<'a> = Pin<Box<dyn Future<Output = io::Result<Established>> + Send + 'a>>;

/// The client's side.
pub trait Connector: Send + Sync + 'static {
    /// Connects to the peer at this address. The caller sets the deadline.
    fn connect(&self, address: SocketAddr) -> Connecting<'_>;
}

/// The server's side.
pub trait Acceptor: Send + Sync + 'static {
    /// Does the handshake on an incoming TCP connection. The caller sets the deadline.
    fn accept(&self, connection: TcpStream) -> Connecting<'_>;

    /// Checks again that a peer belongs to this host's cluster. Connections live long, and the
    /// authority that certified the peer may have been replaced in the meantime.
    fn check(&self, peer: &Peer) -> Result<(), Distrust>;
}
