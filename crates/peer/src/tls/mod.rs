//! Mutually authenticated streams: TLS 1.3 (RFC 8446) with a certificate on both sides.

#[cfg(test)]
mod tests;
mod verify;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rustls::client::{ClientConfig, ResolvesClientCert, Resumption};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, ServerConfig};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{CommonState, SignatureScheme};
use tokio::net::{TcpSocket, TcpStream};
pub use verify::Trust;

use crate::certificate::{Distrust, Usage, key_in};
use crate::credentials::CredentialStore;
use crate::transport::{Acceptor, Connecting, Connector, Established, Peer};

/// The only ALPN protocol (RFC 7301): HTTP/2.
const PROTOCOL: &[u8] = b"h2";

/// TLS could not be set up: this build of the library does not support our settings.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("cannot set up TLS: {0}")]
pub struct TlsError(#[from] rustls::Error);

/// Makes streams to peers.
#[derive(Debug, Clone)]
pub struct TlsConnector {
    store: Arc<CredentialStore>,
    trust: Trust,
    source: IpAddr,
}

/// Makes streams of incoming connections.
#[derive(Debug, Clone)]
pub struct TlsAcceptor {
    store: Arc<CredentialStore>,
}

/// Shows the newest certificate that the store has at the time of the handshake and the peer
/// accepts.
#[derive(Debug)]
struct Newest(Arc<CredentialStore>);

impl Newest {
    /// The certificate for a peer that names these authorities.
    fn certified(&self, named: &[&[u8]]) -> Arc<CertifiedKey> {
        self.0.certified_for(|authority| {
            authority.name().is_some_and(|name| named.contains(&name.as_ref()))
        })
    }
}

impl ResolvesServerCert for Newest {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = hello.certificate_authorities().unwrap_or_default();
        Some(self.certified(&named.iter().map(AsRef::as_ref).collect::<Vec<_>>()))
    }
}

impl ResolvesClientCert for Newest {
    fn resolve(&self, named: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.certified(named))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn provider() -> Arc<CryptoProvider> {
    let provider = rustls::crypto::ring::default_provider();
    Arc::new(CryptoProvider { signature_verification_algorithms: verify::ALGORITHMS, ..provider })
}

impl TlsConnector {
    /// Makes connections from `source`, the advertise address of this host, with the store's
    /// certificate, to servers that `trust` allows.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub fn new(
        store: Arc<CredentialStore>,
        trust: Trust,
        source: IpAddr,
    ) -> Result<Self, TlsError> {
        let connector = Self { store, trust, source };
        connector.config().map(|_| connector)
    }

    /// The settings for one connection: the authorities that this host trusts may change.
    fn config(&self) -> Result<ClientConfig, TlsError> {
        let (store, names) = (Arc::clone(&self.store), verify::names(&self.store));
        let check = verify::ServerCheck { store, trust: self.trust, names };
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(check))
            .with_client_cert_resolver(Arc::new(Newest(Arc::clone(&self.store))));
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        // A resumed session would not be checked again: a peer that was trusted once would be
        // trusted forever.
        config.resumption = Resumption::disabled();
        Ok(config)
    }

    /// If the peer is not trusted, the error contains a [`Distrust`](crate::Distrust).
    async fn establish(&self, address: SocketAddr) -> io::Result<Established> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if self.source.is_ipv4() == address.is_ipv4() {
            socket.bind(SocketAddr::new(self.source, 0))?;
        }
        let connection = socket.connect(address).await?;
        connection.set_nodelay(true)?;
        let config = self.config().map_err(io::Error::other)?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        // rustls needs a name; our check ignores it, as certificates name hosts by id.
        let name = ServerName::from(address.ip());
        let stream = connector.connect(name, connection).await.map_err(explain)?;
        let peer = peer(&self.store, stream.get_ref().1, Usage::Server)?;
        Ok(Established { stream: Box::new(stream), peer })
    }
}

impl TlsAcceptor {
    /// Accepts connections with the certificate that the store has at the time.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub fn new(store: Arc<CredentialStore>) -> Result<Self, TlsError> {
        let acceptor = Self { store };
        acceptor.config().map(|_| acceptor)
    }

    /// The settings for one connection: the authorities that this host trusts may change.
    fn config(&self) -> Result<ServerConfig, TlsError> {
        let check = verify::ClientCheck { names: verify::names(&self.store) };
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(Arc::new(check))
            .with_cert_resolver(Arc::new(Newest(Arc::clone(&self.store))));
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    async fn establish(&self, connection: TcpStream) -> io::Result<Established> {
        connection.set_nodelay(true)?;
        let config = self.config().map_err(io::Error::other)?;
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let stream = acceptor.accept(connection).await?;
        let peer = peer(&self.store, stream.get_ref().1, Usage::Client)?;
        Ok(Established { stream: Box::new(stream), peer })
    }
}

impl Connector for TlsConnector {
    fn connect(&self, address: SocketAddr) -> Connecting<'_> {
        Box::pin(self.establish(address))
    }
}

impl Acceptor for TlsAcceptor {
    fn accept(&self, connection: TcpStream) -> Connecting<'_> {
        Box::pin(self.establish(connection))
    }

    fn check(&self, peer: &Peer) -> Result<(), Distrust> {
        verify::check_again(&self.store, peer)
    }
}

fn unusable(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

/// The authenticated other end, after the handshake.
fn peer(store: &CredentialStore, state: &CommonState, usage: Usage) -> io::Result<Peer> {
    // ALPN does not fail if the client offers no protocol at all.
    if state.alpn_protocol() != Some(PROTOCOL) {
        return Err(unusable("it does not speak HTTP/2"));
    }
    let chain: &[CertificateDer<'_>] = state.peer_certificates().unwrap_or_default();
    let end = chain.first().ok_or_else(|| unusable("it shows no certificate"))?;
    let key = key_in(end).map_err(io::Error::other)?;
    let host = key.host().ok_or_else(|| unusable("its key has no valid host id"))?;
    let membership = verify::check_member(store, chain, usage, UnixTime::now());
    Ok(Peer { key, host, membership })
}

/// Finds the reason in the error of a handshake.
fn explain(error: io::Error) -> io::Error {
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return error;
    };
    if let Some(distrust) = verify::distrust_in(tls) {
        return io::Error::new(io::ErrorKind::PermissionDenied, distrust.clone());
    }
    io::Error::new(error.kind(), format!("it is not a shoutd, or an incompatible one: {tls}"))
}
