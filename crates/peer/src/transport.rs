//! What makes a stream of bytes between two hosts, and tells who is at its other end.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;

use shoutd_core::HostId;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::{Distrust, PublicKey};

/// A stream of bytes to and from a peer.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

/// What the other end of a stream proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The key that it has.
    pub key: PublicKey,
    /// The host that the key belongs to.
    pub host: HostId,
    /// Whether it belongs to this host's cluster, and if not, why it is not believed to.
    pub membership: Result<(), Distrust>,
}

/// A stream, and who is at its other end.
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

/// What making a stream comes to.
pub type Connecting<'a> = Pin<Box<dyn Future<Output = io::Result<Established>> + Send + 'a>>;

/// The client's side: makes a stream to a peer.
pub trait Connector: Send + Sync + 'static {
    /// Connects to the peer at this address. The caller sets the deadline.
    fn connect(&self, address: SocketAddr) -> Connecting<'_>;
}

/// The server's side: makes a stream of a TCP connection that came in.
pub trait Acceptor: Send + Sync + 'static {
    /// Does what has to be done before the first byte. The caller sets the deadline.
    fn accept(&self, connection: TcpStream) -> Connecting<'_>;
}
