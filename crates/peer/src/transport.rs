//! What makes a stream of bytes between two hosts: the one place that encryption and proof of identity go into.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};

/// A stream of bytes to and from a peer.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

/// What making a stream comes to.
pub type Connecting<'a> = Pin<Box<dyn Future<Output = io::Result<Box<dyn Stream>>> + Send + 'a>>;

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

/// TCP as it is.
#[derive(Debug, Clone, Copy)]
pub struct Plain {
    source: Option<IpAddr>,
}

impl Plain {
    /// TCP whose connections start at this address, which is the one that peers know the host by.
    pub fn from_address(source: IpAddr) -> Self {
        Self { source: Some(source) }
    }
}

impl Connector for Plain {
    fn connect(&self, address: SocketAddr) -> Connecting<'_> {
        Box::pin(async move {
            let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            if let Some(source) = self.source.filter(|source| source.is_ipv4() == address.is_ipv4()) {
                socket.bind(SocketAddr::new(source, 0))?;
            }
            let connection = socket.connect(address).await?;
            connection.set_nodelay(true)?;
            Ok(Box::new(connection) as Box<dyn Stream>)
        })
    }
}

impl Acceptor for Plain {
    fn accept(&self, connection: TcpStream) -> Connecting<'_> {
        Box::pin(async move {
            connection.set_nodelay(true)?;
            Ok(Box::new(connection) as Box<dyn Stream>)
        })
    }
}
