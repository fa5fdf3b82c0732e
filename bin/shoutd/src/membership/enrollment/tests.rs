//! Tests of replayed enrollment requests: repeated by the same host, sent by another host with the
//! same content, and recorded by an eavesdropper.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use shoutd_consensus::{Consensus, Settings, Store};
use shoutd_core::ClusterId;
use shoutd_core::cluster::{Admissions, Command, Token as AgreedToken};
use shoutd_core::view::Membership;
use shoutd_docker::engine::EngineClient;
use shoutd_peer::identity::ENROLL;
use shoutd_peer::{
    Authority, CallError, Client, CredentialStore, Credentials, Identity, Rejection, SealKey,
    Secret, Server, TlsAcceptor, TlsConnector, Trust,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy, split};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use super::member::{SwarmDoor, Waiting, router};
use super::wire::{Answer, Request};
use crate::app::clock::now;
use crate::membership::agreement::Agreement;
use crate::membership::encrypt::EncryptWish;
use crate::metrics::Meters;

/// Deadline of everything that must happen; long, because the machine may be busy.
const SOON: Duration = Duration::from_secs(20);

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Lets no node of a Swarm in.
fn closed_door() -> SwarmDoor {
    SwarmDoor { engine: EngineClient::new(Path::new("/nonexistent")), is_open: false }
}

/// The only host of a cluster.
struct Member {
    _directory: TempDir,
    consensus: Arc<Consensus>,
    trust: Trust,
    address: SocketAddr,
    waiting: Arc<Waiting>,
    _membership: watch::Sender<Membership>,
    _stop: oneshot::Sender<()>,
}

impl Member {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let credentials = CredentialStore::open(directory.path()).unwrap();
        let store = Store::open(directory.path(), credentials.host()).unwrap();
        let identity = Identity::new(credentials.host(), None);
        let acceptor = TlsAcceptor::new(credentials.clone()).unwrap();
        let server = Server::bind((LOOPBACK, 0).into(), identity.clone(), acceptor).unwrap();
        let address = server.address();
        let connector = TlsConnector::new(credentials.clone(), Trust::Cluster, LOOPBACK).unwrap();
        let settings = Settings { advertise: address, name: "member".to_owned() };
        let consensus = Arc::new(
            Consensus::start(store, settings, Client::new(identity, connector)).await.unwrap(),
        );
        let cluster = ClusterId::new(7);
        consensus.found(cluster, SOON).await.unwrap();
        let (authority, seal_key) = (Authority::draw().unwrap(), SealKey::draw().unwrap());
        let key = credentials.key().public();
        let own = Credentials::issue(key, &authority, cluster, seal_key.clone(), SystemTime::now())
            .unwrap();
        credentials.enroll(own).unwrap();
        let sealed = authority.seal(&seal_key, cluster).unwrap();
        consensus.propose(Command::SetAuthority { authority: sealed }, SOON).await.unwrap();

        let (membership, member) = watch::channel(Membership::Member);
        let agreement = Agreement::new(
            credentials.host(),
            consensus.clone(),
            member,
            EncryptWish::default(),
            Meters::default(),
        );
        let waiting = Arc::new(Waiting::default());
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async { drop(stopped.await) };
        tokio::spawn(
            server.serve(router(agreement, credentials, waiting.clone(), closed_door()), stopped),
        );
        let trust = Trust::Pinned(authority.certificate().fingerprint());
        Self {
            _directory: directory,
            consensus,
            trust,
            address,
            waiting,
            _membership: membership,
            _stop: stop,
        }
    }

    async fn token(&self, lifetime: Option<Duration>, uses: Option<u32>) -> Secret {
        let secret = Secret::draw().unwrap();
        let token = AgreedToken { expires: lifetime.map(|lifetime| now() + lifetime), uses };
        self.propose(Command::AddToken { hash: secret.hash(), token, now: now() }).await;
        secret
    }

    async fn propose(&self, command: Command) {
        self.consensus.propose(command, SOON).await.unwrap();
    }

    fn admissions(&self) -> Admissions {
        self.consensus.state().borrow().admissions.clone()
    }

    /// Index of the last applied Raft entry. A refused command counts, too.
    fn agreements(&self) -> Option<u64> {
        self.consensus.status().applied
    }

    async fn ask(&self, client: &Client, request: &Request) -> Result<Answer, CallError> {
        client.call(self.address, ENROLL, request, SOON).await
    }
}

/// A host that enrolls: its key, and a client with this source address.
fn newcomer(trust: Trust, source: IpAddr) -> (Arc<CredentialStore>, Client) {
    // Its files are deleted at once; it needs them only when it is enrolled.
    let store = CredentialStore::open(tempfile::tempdir().unwrap().path()).unwrap();
    let client = connect(&store, trust, source);
    (store, client)
}

fn connect(store: &Arc<CredentialStore>, trust: Trust, source: IpAddr) -> Client {
    let connector = TlsConnector::new(store.clone(), trust, source).unwrap();
    Client::new(Identity::new(store.host(), None), connector)
}

fn with(secret: &Secret) -> Request {
    let secret = Some(secret.reveal().as_str().to_owned());
    Request { name: "host".to_owned(), secret, swarm: None }
}

fn is_certificate_of(answer: &Result<Answer, CallError>, store: &CredentialStore) -> bool {
    match answer {
        Ok(Answer::Certified { certificate, .. }) => certificate.key() == store.key().public(),
        _ => false,
    }
}

fn refusal(answer: Result<Answer, CallError>) -> String {
    match answer {
        Err(CallError::Refused { rejection: Rejection::Failed { reason }, .. }) => reason,
        other => panic!("{other:?}"),
    }
}

/// A host that did not get the answer asks again, on the same connection and on another one.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_asks_again_is_enrolled_once() {
    let member = Member::start().await;
    for uses in [Some(1), Some(5), None] {
        let secret = member.token(None, uses).await;
        let (store, client) = newcomer(member.trust, LOOPBACK);
        assert!(is_certificate_of(&member.ask(&client, &with(&secret)).await, &store));
        let once = member.admissions();
        assert_eq!(once.tokens[&secret.hash()].uses, uses.map(|uses| uses - 1));
        for again in [client, connect(&store, member.trust, LOOPBACK)] {
            assert!(is_certificate_of(&member.ask(&again, &with(&secret)).await, &store));
            assert_eq!(member.admissions(), once);
        }
        // With a revoked token, not even the same certificate is issued again.
        member.propose(Command::RevokeTokens).await;
        let reason =
            refusal(member.ask(&connect(&store, member.trust, LOOPBACK), &with(&secret)).await);
        assert!(reason.contains("token"), "{reason}");
        assert_eq!(member.admissions().enrolled, once.enrolled);
    }
    assert_eq!(member.admissions().enrolled.len(), 3);
}

/// An attacker has the content of a successful request. If the token was single-use, has expired or
/// was revoked, it is worthless, and repeated requests cost the cluster no proposal.
#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_enrolls_no_other_key() {
    let member = Member::start().await;
    for (kind, lifetime, uses) in [
        ("single-use", None, Some(1)),
        ("expired", Some(Duration::from_secs(600)), None),
        ("revoked", None, None),
    ] {
        let secret = member.token(lifetime, uses).await;
        let (store, client) = newcomer(member.trust, LOOPBACK);
        assert!(is_certificate_of(&member.ask(&client, &with(&secret)).await, &store), "{kind}");
        match kind {
            // The same token, with an expiry in the past.
            "expired" => {
                let token = AgreedToken { expires: Some(now() - Duration::from_secs(1)), uses };
                let long_ago = now() - Duration::from_secs(600);
                member
                    .propose(Command::AddToken { hash: secret.hash(), token, now: long_ago })
                    .await;
            }
            "revoked" => member.propose(Command::RevokeTokens).await,
            _ => {}
        }
        let (before, agreements) = (member.admissions(), member.agreements());
        let (_, thief) = newcomer(member.trust, LOOPBACK);
        for _ in 0..3 {
            let reason = refusal(member.ask(&thief, &with(&secret)).await);
            assert!(reason.contains("token"), "{kind}: {reason}");
        }
        assert_eq!((member.admissions(), member.agreements()), (before, agreements), "{kind}");
    }
}

/// A valid token enrolls every host that knows its secret, but each key only as itself and once.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_for_two_hosts_enrolls_two_keys_and_no_third() {
    let member = Member::start().await;
    let secret = member.token(None, Some(2)).await;
    for _ in 0..2 {
        let (store, client) = newcomer(member.trust, LOOPBACK);
        for _ in 0..2 {
            assert!(is_certificate_of(&member.ask(&client, &with(&secret)).await, &store));
        }
        assert!(member.admissions().enrolled.contains_key(&store.host()));
    }
    let (_, third) = newcomer(member.trust, LOOPBACK);
    let reason = refusal(member.ask(&third, &with(&secret)).await);
    assert!(reason.contains("token"), "{reason}");
    assert_eq!(member.admissions().enrolled.len(), 2);
}

/// Each connection has its own keys (RFC 8446, appendix E.1), and there is no session resumption.
#[tokio::test(flavor = "multi_thread")]
async fn a_replayed_recording_has_no_effect() {
    let member = Member::start().await;
    let secret = member.token(None, None).await;
    let (store, client) = newcomer(member.trust, LOOPBACK);
    let (tap, recorded) = wiretap(member.address).await;
    let answer = client.call::<_, Answer>(tap, ENROLL, &with(&secret), SOON).await;
    assert!(is_certificate_of(&answer, &store));
    drop(client);
    let recorded = recorded.lock().unwrap().clone();
    assert!(recorded.len() > 500, "only {} octets were recorded", recorded.len());
    let (before, agreements) = (member.admissions(), member.agreements());
    // All of it, and only the second half; at once, and in small pieces.
    for played in [&recorded[..], &recorded[recorded.len() / 2..]] {
        for piece in [played.len(), 100] {
            let mut stream = TcpStream::connect(member.address).await.unwrap();
            for piece in played.chunks(piece) {
                // The server may close the connection early.
                if stream.write_all(piece).await.is_err() {
                    break;
                }
            }
            let mut answer = Vec::new();
            drop(timeout(SOON, stream.read_to_end(&mut answer)).await.expect("the server closes"));
            assert_eq!((member.admissions(), member.agreements()), (before.clone(), agreements));
        }
    }
}

/// Hosts without a token ask repeatedly: each is listed once, up to the limit, and the cluster gets
/// no proposal.
#[tokio::test(flavor = "multi_thread")]
async fn the_list_of_waiting_hosts_is_bounded() {
    let member = Member::start().await;
    let agreements = member.agreements();
    let request = Request { name: "x".repeat(1000), secret: None, swarm: None };
    for source in 1..=4 {
        for _ in 0..20 {
            let (_, client) = newcomer(Trust::Anybody, IpAddr::from([127, 0, 7, source]));
            let answer = member.ask(&client, &request).await;
            assert!(matches!(answer, Ok(Answer::Waiting { .. })), "{answer:?}");
        }
    }
    let listed = member.waiting.list();
    assert!(listed.len() <= 64, "{}", listed.len());
    assert!(listed.iter().all(|applicant| applicant.name.len() == 64));
    let (store, client) = newcomer(Trust::Anybody, LOOPBACK);
    let elsewhere = Member::start().await;
    for _ in 0..5 {
        elsewhere.ask(&client, &request).await.unwrap();
        elsewhere.ask(&connect(&store, Trust::Anybody, LOOPBACK), &request).await.unwrap();
    }
    assert_eq!(elsewhere.waiting.list().len(), 1);
    assert_eq!((member.admissions().enrolled.len(), member.agreements()), (0, agreements));
}

/// Forwards connections to `to`, and records what the client sends.
async fn wiretap(to: SocketAddr) -> (SocketAddr, Arc<Mutex<Vec<u8>>>) {
    let recorded = Arc::new(Mutex::new(Vec::new()));
    let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let kept = recorded.clone();
    tokio::spawn(async move {
        while let Ok((from, _)) = listener.accept().await {
            let (mut from, mut back) = split(from);
            let (mut answers, mut onward) = split(TcpStream::connect(to).await.unwrap());
            tokio::spawn(async move { copy(&mut answers, &mut back).await });
            let kept = kept.clone();
            tokio::spawn(async move {
                let mut piece = [0; 4096];
                while let Ok(length @ 1..) = from.read(&mut piece).await {
                    kept.lock().unwrap().extend_from_slice(&piece[..length]);
                    onward.write_all(&piece[..length]).await.unwrap();
                }
            });
        }
    });
    (address, recorded)
}
