//! Handshakes with clients and servers that are not shoutd, over real connections on loopback.

use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime};

use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::version::TLS13;
use shoutd_core::ClusterId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::*;
use crate::authority::{Authority, Prepared, SealKey, forge, own_certificate};
use crate::certificate::Distrust;
use crate::credentials::Credentials;
use crate::key::HostKey;
use crate::token::Secret;

const SOON: Duration = Duration::from_secs(10);

fn cluster() -> ClusterId {
    ClusterId::new(7)
}

fn prepared() -> Prepared {
    Prepared::from_secret(&Secret::from_digits(&"3c".repeat(16)).unwrap()).unwrap()
}

fn member() -> Arc<CredentialStore> {
    let directory = tempfile::tempdir().unwrap();
    let store = CredentialStore::open(directory.path()).unwrap();
    let Prepared { authority, seal_key, .. } = prepared();
    let key = store.key().public();
    store
        .enroll(
            Credentials::issue(key, &authority, cluster(), seal_key, SystemTime::now()).unwrap(),
        )
        .unwrap();
    store
}

/// Trusts any server.
fn trusting(store: Arc<CredentialStore>) -> Arc<verify::ServerCheck> {
    Arc::new(verify::ServerCheck { store, trust: Trust::Anybody, names: Vec::new() })
}

/// A client that shows this chain and signs with this key.
fn client(
    chain: Option<(Vec<CertificateDer<'static>>, &HostKey)>,
    protocols: &[&[u8]],
) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(trusting(member()));
    let mut config = match chain {
        Some((chain, key)) => {
            let key = PrivatePkcs8KeyDer::from(key.pkcs8().to_vec());
            builder.with_client_auth_cert(chain, key.into()).unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    config
}

/// The result of our server's handshake with this client.
async fn accepted(config: ClientConfig) -> io::Result<Peer> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let connecting = tokio::spawn(async move {
        let connection = TcpStream::connect(address).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        if let Ok(mut stream) = connector.connect(ServerName::from(address.ip()), connection).await
        {
            // In TLS 1.3 the client's handshake ends before the server has checked its certificate.
            let _ = stream.write_all(b"x").await;
            let _ = stream.read_u8().await;
        }
    });
    let (connection, _) = listener.accept().await.unwrap();
    let accepted =
        timeout(SOON, TlsAcceptor::new(member()).unwrap().accept(connection)).await.unwrap();
    let peer = accepted.map(|established| established.peer);
    timeout(SOON, connecting).await.unwrap().unwrap();
    peer
}

/// The result of our client's handshake with a server that shows this chain and signs with this
/// key.
async fn connected(
    chain: Vec<CertificateDer<'static>>,
    key: &HostKey,
    trust: Trust,
) -> io::Result<Peer> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, PrivatePkcs8KeyDer::from(key.pkcs8().to_vec()).into())
        .unwrap();
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        let (connection, _) = listener.accept().await.unwrap();
        let _ = tokio_rustls::TlsAcceptor::from(Arc::new(config)).accept(connection).await;
    });
    let connector = TlsConnector::new(member(), trust, Ipv4Addr::LOCALHOST.into()).unwrap();
    let connected = timeout(SOON, connector.connect(address)).await.unwrap();
    timeout(SOON, serving).await.unwrap().unwrap();
    connected.map(|established| established.peer)
}

fn distrust(answer: io::Result<Peer>) -> Distrust {
    answer.unwrap_err().get_ref().unwrap().downcast_ref::<Distrust>().unwrap().clone()
}

#[tokio::test]
async fn a_client_must_show_a_certificate_and_speak_http_2() {
    let key = HostKey::draw().unwrap();
    let own = vec![own_certificate(&key).unwrap().der().clone()];
    let peer = accepted(client(Some((own.clone(), &key)), &[PROTOCOL])).await.unwrap();
    assert_eq!((peer.host, peer.membership), (key.host(), Err(Distrust::NoCluster)));
    let error = accepted(client(None, &[PROTOCOL])).await.unwrap_err();
    assert!(error.to_string().contains("peer sent no certificates"), "{error}");
    let error = accepted(client(Some((own.clone(), &key)), &[])).await.unwrap_err();
    assert_eq!(error.to_string(), "it does not speak HTTP/2");
    let error = accepted(client(Some((own, &key)), &[b"http/1.1"])).await.unwrap_err();
    assert!(error.to_string().contains("protocol"), "{error}");
}

#[tokio::test]
async fn a_certificate_is_of_no_use_without_its_key() {
    let (stolen, key) = (member(), HostKey::draw().unwrap());
    let chain = stolen.certified().cert.clone();
    let certified = CertifiedKey::new(chain, key.signer());
    #[derive(Debug)]
    struct Thief(Arc<CertifiedKey>);
    impl ResolvesClientCert for Thief {
        fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
            Some(Arc::clone(&self.0))
        }
        fn has_certs(&self) -> bool {
            true
        }
    }
    let mut config = client(None, &[PROTOCOL]);
    config.client_auth_cert_resolver = Arc::new(Thief(Arc::new(certified)));
    let error = accepted(config).await.unwrap_err();
    assert!(error.to_string().contains("BadSignature"), "{error}");
}

#[tokio::test]
async fn a_certificate_must_name_the_host_of_its_key_even_if_our_authority_signed_it() {
    let (key, other) = (HostKey::draw().unwrap(), HostKey::draw().unwrap());
    let Prepared { authority, .. } = prepared();
    let forged =
        forge(&authority, key.public(), crate::certificate::member_name(other.host(), cluster()));
    let chain = vec![forged, authority.certificate().chain_link()];
    let expected = Distrust::OtherName { names: other.host(), is: key.host() };
    let peer = accepted(client(Some((chain.clone(), &key)), &[PROTOCOL])).await.unwrap();
    assert_eq!((peer.host, peer.membership), (key.host(), Err(expected.clone())));
    let pinned = Trust::Pinned(authority.certificate().fingerprint());
    for trust in [Trust::Cluster, pinned, Trust::Anybody] {
        assert_eq!(distrust(connected(chain.clone(), &key, trust).await), expected);
    }
}

#[tokio::test]
async fn an_authoritys_certificate_in_the_chain_proves_nothing() {
    let (key, impostor, now) =
        (HostKey::draw().unwrap(), Authority::draw().unwrap(), SystemTime::now());
    let ours = prepared().authority.certificate().clone();
    let certificate = impostor.issue(key.public(), cluster(), now).unwrap().chain_link();
    let pinned = Trust::Pinned(ours.fingerprint());
    // With its own authority's certificate it only proves to belong to its own cluster.
    let other = Distrust::OtherToken {
        token: ours.fingerprint(),
        cluster: impostor.certificate().fingerprint(),
    };
    for (chain, expected) in [
        (vec![certificate.clone(), ours.chain_link()], Distrust::OtherAuthority),
        (vec![certificate.clone(), impostor.certificate().chain_link()], other),
        (vec![certificate.clone()], Distrust::OtherAuthority),
    ] {
        assert_eq!(distrust(connected(chain.clone(), &key, pinned).await), expected);
        assert_eq!(
            distrust(connected(chain.clone(), &key, Trust::Cluster).await),
            Distrust::OtherAuthority
        );
        let peer = accepted(client(Some((chain, &key)), &[PROTOCOL])).await.unwrap();
        assert_eq!(peer.membership, Err(Distrust::OtherAuthority));
    }
}

#[tokio::test]
async fn the_length_of_a_chain_is_limited() {
    let key = HostKey::draw().unwrap();
    let own = own_certificate(&key).unwrap().der().clone();
    let long = vec![own; 3];
    assert!(accepted(client(Some((long.clone(), &key)), &[PROTOCOL])).await.is_err());
    assert!(connected(long, &key, Trust::Anybody).await.is_err());
}

#[test]
fn debug_output_of_a_store_contains_no_seal_key() {
    let store = member();
    let seal_key: &SealKey = &prepared().seal_key;
    assert!(!format!("{store:?}").contains(seal_key.reveal().as_str()));
}
