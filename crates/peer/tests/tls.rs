//! Which hosts are accepted, which are refused and why, and what strangers can do to a server, over
//! real connections on loopback.

#[cfg(test)]
#[allow(dead_code, reason = "shared with other tests")]
mod common;

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::time::{Duration, SystemTime};

    use axum::routing::post;
    use axum::{Extension, Json, Router};
    use shoutd_core::{ClusterId, Fingerprint, HostId};
    use shoutd_peer::identity::ENROLL;
    use shoutd_peer::limits::{
        FIRST_REQUEST_DEADLINE, STRANGER_BODY_BYTES_MAX, STRANGER_REQUESTS_PER_ADDRESS,
        STRANGERS_MAX, STRANGERS_PER_ADDRESS_MAX,
    };
    use shoutd_peer::{
        CallError, Caller, Client, Connector, CredentialStore, Credentials, Distrust, Identity,
        Rejection, Server, Trust, VALIDITY,
    };
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpSocket, TcpStream};
    use tokio::time::{Instant, sleep, timeout};

    use crate::common::{
        LOOPBACK, Running, SOON, acceptor, certified, client, client_of, connector, host, identity,
        member, ours, prepared, serve_as, stranger,
    };

    fn router() -> Router {
        let who = post(async |Extension(caller): Extension<Caller>| Json(caller.host));
        Router::new()
            .route(
                ENROLL,
                post(async |Extension(caller): Extension<Caller>, _: String| {
                    Json(caller.key.fingerprint())
                }),
            )
            .route("/who", who.clone())
            .route("/v1/enroll/", who.clone())
            .route("/v1/enroll/x", who)
    }

    async fn who(client: &Client, address: SocketAddr) -> Result<HostId, CallError> {
        client.call(address, "/who", &(), SOON).await
    }

    async fn enroll(client: &Client, address: SocketAddr) -> Result<Fingerprint, CallError> {
        client.call(address, ENROLL, &(), SOON).await
    }

    fn rejection<T: std::fmt::Debug>(answer: Result<T, CallError>) -> Rejection {
        match answer {
            Err(CallError::Refused { rejection, .. }) => rejection,
            other => panic!("{other:?}"),
        }
    }

    fn distrust<T: std::fmt::Debug>(answer: Result<T, CallError>) -> Distrust {
        match answer {
            Err(CallError::Untrusted { distrust, .. }) => distrust,
            other => panic!("{other:?}"),
        }
    }

    fn unauthenticated<T: std::fmt::Debug>(answer: Result<T, CallError>) -> String {
        match rejection(answer) {
            Rejection::Unauthenticated { reason } => reason,
            other => panic!("{other:?}"),
        }
    }

    fn days(days: u64) -> Duration {
        Duration::from_secs(days * 86_400)
    }

    #[tokio::test]
    async fn a_stranger_reaches_one_path_and_is_told_why_on_any_other() {
        let server = serve_as(&member(1), router());
        let newcomer = stranger();
        let client = client_of(&newcomer, Trust::Anybody);
        assert_eq!(
            enroll(&client, server.address).await.unwrap(),
            newcomer.key().public().fingerprint()
        );
        assert_eq!(
            unauthenticated(who(&client, server.address).await),
            "it belongs to no cluster yet"
        );
        for path in ["/v1/enroll/", "/v1/enroll/x", "/v1/../v1/enroll", "//v1/enroll", "/nothing"] {
            unauthenticated(client.call::<_, HostId>(server.address, path, &(), SOON).await);
        }
        // A member reaches both.
        let member = second();
        assert_eq!(who(&member, server.address).await.unwrap(), host(2));
        assert!(enroll(&member, server.address).await.is_ok());
        server.stop().await;
    }

    fn second() -> Client {
        client(2, Some(7))
    }

    #[tokio::test]
    async fn neither_side_trusts_a_certificate_that_is_not_of_its_cluster() {
        let now = SystemTime::now();
        let (other_authority, other_cluster) =
            (certified(2, ours(), now), certified(1, ClusterId::new(8), now));
        let expired = certified(1, ours(), now - VALIDITY - days(5));
        let server = serve_as(&member(1), router());
        let none = stranger();
        for (store, reason) in [
            (&other_authority, "its certificate is not from the authority that this host trusts"),
            (&other_cluster, "its certificate is for cluster 00000000000000000000000000000008"),
            (&expired, "its certificate expired 5 days ago; check the clocks of both hosts"),
            (&none, "it belongs to no cluster yet"),
        ] {
            // As a client it trusts the server, and shows its certificate.
            let identity = Identity::new(store.host(), Some(ours()));
            let caller = Client::new(identity, connector_of(store, Trust::Anybody));
            let told = unauthenticated(who(&caller, server.address).await);
            assert!(told.starts_with(reason), "{told}");
            // As a server it does not get the request.
            let impostor = serve_as(store, router());
            let told = distrust(who(&second(), impostor.address).await).to_string();
            assert!(told.starts_with(reason), "{told}");
            impostor.stop().await;
        }
        // A host that belongs to no cluster has no authority to check others with.
        let undecided = client_of(&none, Trust::Cluster);
        assert_eq!(distrust(who(&undecided, server.address).await), Distrust::NotEnrolled);
        let unformed = serve_as(&none, router());
        let told =
            unauthenticated(who(&client_of(&stranger(), Trust::Anybody), server.address).await);
        assert_eq!(told, "it belongs to no cluster yet");
        unformed.stop().await;
        server.stop().await;
    }

    fn connector_of(store: &Arc<CredentialStore>, trust: Trust) -> impl Connector {
        shoutd_peer::TlsConnector::new(Arc::clone(store), trust, LOOPBACK).unwrap()
    }

    #[tokio::test]
    async fn a_host_cannot_impersonate_another() {
        let server = serve_as(&member(1), router());
        let pretender = Client::new(identity(3, Some(7)), connector(2, LOOPBACK));
        let expected =
            format!("it claims to be host {}, but has the key of host {}", host(3), host(2));
        assert_eq!(unauthenticated(who(&pretender, server.address).await), expected);
        assert_eq!(unauthenticated(enroll(&pretender, server.address).await), expected);
        // The other way round: a host that has another's address does not get requests for it.
        let asked = Arc::new(AtomicUsize::new(0));
        let counting = Arc::clone(&asked);
        let secret = post(async move || Json(counting.fetch_add(1, Ordering::SeqCst)));
        let other = serve_as(&member(4), Router::new().route("/secret", secret));
        let answer =
            second().call_host::<_, usize>(host(1), other.address, "/secret", &(), SOON).await;
        assert_eq!(rejection(answer), Rejection::OtherHost { is: host(4), wanted: host(1) });
        assert_eq!(asked.load(Ordering::SeqCst), 0);
        other.stop().await;
        server.stop().await;
    }

    #[tokio::test]
    async fn a_removed_host_is_refused_even_on_an_open_connection() {
        let removed = Arc::new(AtomicBool::new(false));
        let (flag, victim) = (Arc::clone(&removed), host(2));
        let server = Server::bind((LOOPBACK, 0).into(), identity(1, Some(7)), acceptor(1)).unwrap();
        let server = server.refusing(move |host| host == victim && flag.load(Ordering::SeqCst));
        let server = Running::start(server, router());
        let (gone, stays) = (second(), client(3, Some(7)));
        assert!(who(&gone, server.address).await.is_ok());
        removed.store(true, Ordering::SeqCst);
        let told = rejection(who(&gone, server.address).await);
        assert_eq!(told, Rejection::Removed { host: victim });
        assert!(told.to_string().contains("delete its data directory"), "{told}");
        assert!(who(&stays, server.address).await.is_ok());
        // The enrollment handler decides whether it may join again.
        assert!(enroll(&gone, server.address).await.is_ok());
        server.stop().await;
    }

    #[tokio::test]
    async fn a_token_leads_to_its_own_cluster_only() {
        let [first, second] =
            [1, 2].map(|number| prepared(number).authority.certificate().fingerprint());
        let (newcomer, server) = (stranger(), serve_as(&member(1), router()));
        let right = client_of(&newcomer, Trust::Pinned(first));
        assert!(enroll(&right, server.address).await.is_ok());
        let wrong = client_of(&newcomer, Trust::Pinned(second));
        let other = distrust(enroll(&wrong, server.address).await);
        assert_eq!(other, Distrust::OtherToken { token: second, cluster: first });
        for named in [first, second] {
            assert!(other.to_string().contains(&named.to_string()), "{other}");
        }
        // Without a token it trusts any host that could admit it.
        assert!(enroll(&client_of(&newcomer, Trust::Anybody), server.address).await.is_ok());
        let unformed = serve_as(&stranger(), router());
        for trust in [Trust::Pinned(first), Trust::Anybody, Trust::Cluster] {
            let store = if trust == Trust::Cluster { member(2) } else { Arc::clone(&newcomer) };
            assert_eq!(
                distrust(enroll(&client_of(&store, trust), unformed.address).await),
                Distrust::NoCluster
            );
        }
        unformed.stop().await;
        server.stop().await;
    }

    #[tokio::test]
    async fn an_admitted_host_is_a_member_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let store = CredentialStore::open(directory.path()).unwrap();
        let server = serve_as(&member(1), router());
        let own = serve_as(&store, router());
        let client = client_of(&store, Trust::Cluster);
        assert_eq!(distrust(who(&client, server.address).await), Distrust::NotEnrolled);
        assert_eq!(distrust(who(&second(), own.address).await), Distrust::NoCluster);
        let given = prepared(1);
        let key = store.key().public();
        let credentials =
            Credentials::issue(key, &given.authority, ours(), given.seal_key, SystemTime::now())
                .unwrap();
        store.enroll(credentials).unwrap();
        assert_eq!(who(&client, server.address).await.unwrap(), store.host());
        assert_eq!(who(&second(), own.address).await.unwrap(), host(2));
        store.leave().unwrap();
        assert_eq!(
            distrust(who(&client_of(&store, Trust::Cluster), server.address).await),
            Distrust::NotEnrolled
        );
        own.stop().await;
        server.stop().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn certificates_are_renewed_without_interruption() {
        let directory = tempfile::tempdir().unwrap();
        let store = CredentialStore::open(directory.path()).unwrap();
        let (given, key, now) = (prepared(1), *store.key().public(), SystemTime::now());
        let issue = |at| {
            Credentials::issue(&key, &given.authority, ours(), given.seal_key.clone(), at).unwrap()
        };
        store.enroll(issue(now - VALIDITY + days(1))).unwrap();
        let server = serve_as(&store, router());
        let (kept, address) = (second(), server.address);
        assert!(who(&kept, address).await.is_ok());
        // New connections the whole time, from and to the host whose certificate changes.
        let done = Arc::new(AtomicBool::new(false));
        let calls = (0..4).map(|_| {
            let (done, store) = (Arc::clone(&done), Arc::clone(&store));
            let other = serve_as(&member(3), router());
            tokio::spawn(async move {
                let mut count = 0;
                while !done.load(Ordering::SeqCst) {
                    who(&client(2, Some(7)), address).await.unwrap();
                    who(&client_of(&store, Trust::Cluster), other.address).await.unwrap();
                    count += 1;
                }
                other.stop().await;
                count
            })
        });
        let calls: Vec<_> = calls.collect();
        for _ in 0..20 {
            let (store, given) = (Arc::clone(&store), prepared(1));
            tokio::task::spawn_blocking(move || {
                store.renew(&given.authority, SystemTime::now()).unwrap();
            })
            .await
            .unwrap();
            assert!(who(&kept, address).await.is_ok());
            sleep(Duration::from_millis(10)).await;
        }
        done.store(true, Ordering::SeqCst);
        for call in calls {
            assert!(timeout(SOON, call).await.unwrap().unwrap() > 0);
        }
        assert!(!store.credentials().unwrap().needs_renewal(now + days(50)));
        // A host whose certificate had expired is accepted again without a restart of either side.
        store.enroll(issue(now - VALIDITY - days(3))).unwrap();
        let fresh = client(5, Some(7));
        assert!(matches!(distrust(who(&fresh, address).await), Distrust::Expired(_)));
        store.renew(&given.authority, now).unwrap();
        assert!(who(&fresh, address).await.is_ok());
        server.stop().await;
    }

    /// A host that was down for long asks with a certificate that has expired, and then has a new
    /// one.
    #[tokio::test]
    async fn one_whose_certificate_had_expired_is_believed_as_soon_as_it_has_another() {
        let now = SystemTime::now();
        let server = serve_as(&member(1), router());
        let (directory, given) = (tempfile::tempdir().unwrap(), prepared(1));
        let store = CredentialStore::open(directory.path()).unwrap();
        let (key, long_ago) = (store.key().public(), now - VALIDITY - days(5));
        let issued = Credentials::issue(key, &given.authority, ours(), given.seal_key, long_ago);
        store.enroll(issued.unwrap()).unwrap();
        let client = client_of(&store, Trust::Cluster);
        let told = unauthenticated(who(&client, server.address).await);
        assert!(told.contains("expired 5 days ago"), "{told}");
        store.renew(&given.authority, now).unwrap();
        assert!(who(&client, server.address).await.is_ok());
        server.stop().await;
    }

    #[tokio::test]
    async fn requests_of_strangers_are_limited_in_size_and_rate() {
        let server = serve_as(&member(1), router());
        let client = client_of(&stranger(), Trust::Anybody);
        let large = "x".repeat(STRANGER_BODY_BYTES_MAX);
        let answer = client.call::<_, Fingerprint>(server.address, ENROLL, &large, SOON).await;
        assert!(matches!(answer, Err(CallError::Refused { .. })), "{answer:?}");
        let (burst, _) = STRANGER_REQUESTS_PER_ADDRESS;
        let mut busy = 0;
        for _ in 0..4 * burst {
            match enroll(&client, server.address).await {
                Err(CallError::Refused { rejection: Rejection::Busy { reason }, .. }) => {
                    assert_eq!(reason, "too many requests from 127.0.0.1");
                    busy += 1;
                }
                other => drop(other.unwrap()),
            }
        }
        assert!(busy >= 2 * burst, "{busy}");
        // The limit holds neither for members nor for strangers at other addresses.
        for _ in 0..4 * burst {
            who(&second(), server.address).await.unwrap();
        }
        let elsewhere = stranger();
        let source = IpAddr::from([127, 0, 0, 79]);
        let connector =
            shoutd_peer::TlsConnector::new(Arc::clone(&elsewhere), Trust::Anybody, source).unwrap();
        let elsewhere = Client::new(Identity::new(elsewhere.host(), None), connector);
        assert!(enroll(&elsewhere, server.address).await.is_ok());
        server.stop().await;
    }

    /// A ClientHello that offers TLS 1.2 only (RFC 5246, section 7.4.1.2).
    fn client_hello_of_tls_1_2() -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend([0x55; 32]);
        body.extend([0, 0, 4, 0xc0, 0x2f, 0xc0, 0x2b, 1, 0]);
        let extensions = [
            [0, 10, 0, 4, 0, 2, 0, 29].as_slice(),
            &[0, 11, 0, 2, 1, 0],
            &[0, 13, 0, 6, 0, 4, 4, 3, 8, 7],
            &[0, 16, 0, 5, 0, 3, 2, b'h', b'2'],
        ]
        .concat();
        body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
        body.extend(extensions);
        let length = u16::try_from(body.len()).unwrap();
        let mut record = vec![22, 3, 1];
        record.extend((length + 4).to_be_bytes());
        record.extend([1, 0]);
        record.extend(length.to_be_bytes());
        record.extend(body);
        record
    }

    /// Reads until the server closes.
    async fn closed(stream: &mut TcpStream) -> Vec<u8> {
        let mut bytes = Vec::new();
        // With a FIN, or with a reset if the server did not read everything.
        let _ =
            timeout(FIRST_REQUEST_DEADLINE + SOON, stream.read_to_end(&mut bytes)).await.unwrap();
        bytes
    }

    #[tokio::test]
    async fn a_connection_that_is_not_tls_1_3_is_refused_at_once() {
        let server = serve_as(&member(1), router());
        let mut random: Vec<u8> =
            (0..60_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
        random[0] = 99;
        // A record with a length above the limit of RFC 8446, section 5.2.
        let long = [&[22, 3, 1, 0xff, 0xff][..], &[0; 70_000]].concat();
        let http = b"POST /v1/enroll HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}".to_vec();
        let prior_knowledge = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
        for bytes in [random, long, http, prior_knowledge, client_hello_of_tls_1_2()] {
            let start = Instant::now();
            let mut stream = TcpStream::connect(server.address).await.unwrap();
            let _ = stream.write_all(&bytes).await;
            let answer = closed(&mut stream).await;
            assert!(
                answer.len() < 100 && answer.first().is_none_or(|first| *first == 21),
                "an alert at most: {answer:?}"
            );
            assert!(start.elapsed() < FIRST_REQUEST_DEADLINE, "{:?}", start.elapsed());
        }
        assert!(who(&second(), server.address).await.is_ok());
        server.stop().await;
    }

    #[tokio::test]
    async fn a_slow_or_silent_connection_is_closed() {
        let server = serve_as(&member(1), router());
        let mut silent = TcpStream::connect(server.address).await.unwrap();
        let mut half = TcpStream::connect(server.address).await.unwrap();
        half.write_all(&client_hello_of_tls_1_2()[..40]).await.unwrap();
        let address = server.address;
        let slow = async {
            let mut slow = TcpStream::connect(address).await.unwrap();
            let start = Instant::now();
            // A record that is never complete.
            let _ = slow.write_all(&[22, 3, 1, 0x10, 0]).await;
            while slow.write_all(&[0]).await.is_ok() {
                sleep(Duration::from_millis(100)).await;
                assert!(start.elapsed() < FIRST_REQUEST_DEADLINE + SOON);
            }
        };
        // This one finishes its handshake and then sends no request.
        let idle = async {
            let mut idle =
                connector_of(&stranger(), Trust::Anybody).connect(address).await.unwrap().stream;
            let mut bytes = Vec::new();
            let _ =
                timeout(FIRST_REQUEST_DEADLINE + SOON, idle.read_to_end(&mut bytes)).await.unwrap();
        };
        let member = async {
            for _ in 0..20 {
                assert!(who(&second(), address).await.is_ok());
                sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::join!(slow, idle, member, closed(&mut silent), closed(&mut half));
        server.stop().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn members_get_in_however_many_strangers_are_connected() {
        let server = serve_as(&member(1), router());
        let mut held = Vec::new();
        // First from the member's own address, as a container on its host would, then from many
        // others.
        for _ in 0..200 {
            held.push(TcpStream::connect(server.address).await.unwrap());
        }
        assert!(who(&second(), server.address).await.is_ok());
        for number in 0..2 * STRANGERS_MAX {
            let [.., high, low] = (number / (STRANGERS_PER_ADDRESS_MAX - 1)).to_be_bytes();
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind((IpAddr::from([127, 1, high, low]), 0).into()).unwrap();
            held.push(socket.connect(server.address).await.unwrap());
            if number % 64 == 0 {
                assert!(who(&second(), server.address).await.is_ok());
            }
        }
        let connected = second();
        assert!(who(&connected, server.address).await.is_ok());
        // Most of them were closed to free slots; the rest reach their deadline.
        let start = Instant::now();
        for mut stream in held {
            closed(&mut stream).await;
        }
        assert!(start.elapsed() < FIRST_REQUEST_DEADLINE + SOON);
        assert!(who(&connected, server.address).await.is_ok());
        server.stop().await;
    }

    #[tokio::test]
    async fn a_host_with_many_connections_takes_no_slots_from_others() {
        let server = serve_as(&member(1), router());
        let other = client(3, Some(7));
        assert!(who(&other, server.address).await.is_ok());
        let many: Vec<_> = (0..100).map(|_| second()).collect();
        for client in &many {
            assert!(who(client, server.address).await.is_ok());
        }
        // The server closed its oldest connections; the client replaces them when it needs them.
        assert!(who(&many[0], server.address).await.is_ok());
        assert!(who(&other, server.address).await.is_ok());
        server.stop().await;
    }
}
