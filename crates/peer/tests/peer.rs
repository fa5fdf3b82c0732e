//! Server and client over real connections on loopback.

#[cfg(test)]
#[allow(dead_code, reason = "shared with other tests")]
mod common;

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use axum::routing::post;
    use axum::{Extension, Json, Router};
    use shoutd_core::{ClusterId, HostId};
    use shoutd_peer::limits::{BODY_BYTES_MAX, FIRST_REQUEST_DEADLINE};
    use shoutd_peer::{
        Acceptor, BindError, CallError, Caller, Client, Connecting, Connector, Distrust, Identity,
        Peer, Rejection, Server, TlsAcceptor, TlsConnector,
    };
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::sync::Notify;
    use tokio::time::{sleep, timeout};

    use crate::common::{
        LOOPBACK, Running, SOON, acceptor, client, connector, host, identity, serve_router,
    };

    fn serve_on(address: SocketAddr, identity: Identity, acceptor: impl Acceptor) -> Running {
        serve_router(address, identity, acceptor, router())
    }

    fn serve(identity: Identity) -> Running {
        serve_on((LOOPBACK, 0).into(), identity, acceptor(1))
    }

    fn router() -> Router {
        Router::new()
            .route("/echo", post(async |Json(text): Json<String>| Json(text)))
            .route(
                "/who",
                post(async |Extension(caller): Extension<Caller>| {
                    Json((caller.host, caller.address.ip()))
                }),
            )
            .route("/large", post(async |Json(bytes): Json<usize>| Json("x".repeat(bytes))))
            .route(
                "/slow",
                post(async |Json(millis): Json<u64>| {
                    sleep(Duration::from_millis(millis)).await;
                    Json(millis)
                }),
            )
            .route("/refuse", post(async || Rejection::Failed { reason: "not today".to_owned() }))
    }

    async fn echo(client: &Client, address: SocketAddr) -> Result<String, CallError> {
        client.call(address, "/echo", &"hello", SOON).await
    }

    /// Counts incoming connections.
    struct Counting(Arc<AtomicUsize>, TlsAcceptor);

    impl Acceptor for Counting {
        fn accept(&self, connection: TcpStream) -> Connecting<'_> {
            self.0.fetch_add(1, Ordering::SeqCst);
            self.1.accept(connection)
        }

        fn check(&self, peer: &Peer) -> Result<(), Distrust> {
            self.1.check(peer)
        }
    }

    #[tokio::test]
    async fn a_handler_gets_the_callers_host_and_address() {
        let server = serve(identity(1, Some(7)));
        let who: (HostId, IpAddr) =
            client(2, Some(7)).call(server.address, "/who", &(), SOON).await.unwrap();
        assert_eq!(who, (host(2), LOOPBACK));
        // A host that does not know its cluster yet is answered too; so is a call by host id.
        assert_eq!(echo(&client(3, None), server.address).await.unwrap(), "hello");
        let named: String =
            client(2, None).call_host(host(1), server.address, "/echo", &"hi", SOON).await.unwrap();
        assert_eq!(named, "hi");
        server.stop().await;
    }

    #[tokio::test]
    async fn a_client_connects_from_its_advertise_address() {
        let server = serve(identity(1, None));
        let source: IpAddr = "127.0.0.77".parse().unwrap();
        let client = Client::new(identity(2, None), connector(2, source));
        let (_, address): (HostId, IpAddr) =
            client.call(server.address, "/who", &(), SOON).await.unwrap();
        assert_eq!(address, source);
        server.stop().await;
    }

    #[tokio::test]
    async fn ipv6_works() {
        let source = IpAddr::V6(std::net::Ipv6Addr::LOCALHOST);
        let server = serve_on((source, 0).into(), identity(1, None), acceptor(1));
        let client = Client::new(identity(2, None), connector(2, source));
        assert_eq!(echo(&client, server.address).await.unwrap(), "hello");
        server.stop().await;
    }

    #[tokio::test]
    async fn hosts_of_two_clusters_do_not_talk() {
        let server = serve(identity(1, Some(7)));
        let error = echo(&client(2, Some(8)), server.address).await.unwrap_err();
        let CallError::Refused { rejection, .. } = &error else { panic!("{error}") };
        assert_eq!(
            *rejection,
            Rejection::OtherCluster { has: ClusterId::new(7), caller: ClusterId::new(8) }
        );
        assert!(error.to_string().ends_with(
            "refused: this host belongs to cluster 00000000000000000000000000000007, the caller \
             to 00000000000000000000000000000008"
        ));
        server.stop().await;
    }

    #[tokio::test]
    async fn a_host_does_not_answer_for_another() {
        let server = serve(identity(1, None));
        let answer = client(2, None)
            .call_host::<_, String>(host(9), server.address, "/echo", &"hi", SOON)
            .await;
        let Err(CallError::Refused { rejection, .. }) = answer else { panic!("{answer:?}") };
        assert_eq!(rejection, Rejection::OtherHost { is: host(1), wanted: host(9) });
        server.stop().await;
    }

    #[tokio::test]
    async fn an_identity_joins_one_cluster_and_no_other() {
        let identity = identity(1, None);
        let shared = identity.clone();
        identity.join(ClusterId::new(7)).unwrap();
        shared.join(ClusterId::new(7)).unwrap();
        assert_eq!(shared.join(ClusterId::new(8)), Err(ClusterId::new(7)));
        assert_eq!(shared.cluster(), Some(ClusterId::new(7)));
    }

    #[tokio::test]
    async fn errors_of_the_peer_arrive_with_its_text() {
        let server = serve(identity(1, None));
        let client = client(2, None);
        let refused = client.call::<_, ()>(server.address, "/refuse", &(), SOON).await.unwrap_err();
        assert!(refused.to_string().ends_with("refused: not today"), "{refused}");
        let missing =
            client.call::<_, ()>(server.address, "/nothing", &(), SOON).await.unwrap_err();
        assert!(missing.to_string().contains("404"), "{missing}");
        let other =
            client.call::<_, u64>(server.address, "/echo", &"hello", SOON).await.unwrap_err();
        assert!(matches!(other, CallError::Malformed { .. }), "{other}");
        server.stop().await;
    }

    #[tokio::test]
    async fn a_refused_connection_fails_at_once_and_a_slow_answer_at_the_deadline() {
        let server = serve(identity(1, None));
        let (address, client) = (server.address, client(2, None));
        let slow = client
            .call::<_, u64>(address, "/slow", &5000, Duration::from_millis(100))
            .await
            .unwrap_err();
        assert!(matches!(slow, CallError::TimedOut { .. }), "{slow}");
        assert_eq!(slow.to_string(), format!("{address} did not answer within 100 ms"));
        server.stop().await;
        let refused = echo(&client, address).await.unwrap_err();
        assert_eq!(
            refused.to_string(),
            format!("{address} cannot be reached: Connection refused (os error 111)")
        );
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn one_connection_serves_all_calls_and_is_replaced_when_the_peer_restarts() {
        let accepted = Arc::new(AtomicUsize::new(0));
        let server = serve_on(
            (LOOPBACK, 0).into(),
            identity(1, None),
            Counting(Arc::clone(&accepted), acceptor(1)),
        );
        let (address, client) = (server.address, client(2, None));
        let calls = (0..200).map(|_| {
            let client = client.clone();
            tokio::spawn(async move { echo(&client, address).await.unwrap() })
        });
        for call in calls.collect::<Vec<_>>() {
            call.await.unwrap();
        }
        assert_eq!(accepted.load(Ordering::SeqCst), 1);
        server.stop().await;
        let server =
            serve_on(address, identity(1, None), Counting(Arc::clone(&accepted), acceptor(1)));
        assert_eq!(echo(&client, address).await.unwrap(), "hello");
        assert_eq!(accepted.load(Ordering::SeqCst), 2);
        server.stop().await;
    }

    /// Takes longer to connect than any caller waits.
    struct Slow(TlsConnector);

    impl Connector for Slow {
        fn connect(&self, address: SocketAddr) -> Connecting<'_> {
            Box::pin(async move {
                sleep(Duration::from_millis(300)).await;
                self.0.connect(address).await
            })
        }
    }

    #[tokio::test]
    async fn calls_with_short_deadlines_eventually_get_through_a_slow_network() {
        let server = serve(identity(1, None));
        let client = Client::new(identity(2, None), Slow(connector(2, LOOPBACK)));
        let arrived = async {
            while client
                .call::<_, String>(server.address, "/echo", &"hi", Duration::from_millis(100))
                .await
                .is_err()
            {}
        };
        timeout(Duration::from_secs(3), arrived).await.unwrap();
        server.stop().await;
    }

    #[tokio::test]
    async fn too_large_a_body_is_refused_on_either_side() {
        let server = serve(identity(1, None));
        let client = client(2, None);
        let near = "x".repeat(BODY_BYTES_MAX - 2);
        let echoed: String = client.call(server.address, "/echo", &near, SOON).await.unwrap();
        assert_eq!(echoed.len(), near.len());
        let request = client
            .call::<_, String>(server.address, "/echo", &"x".repeat(BODY_BYTES_MAX), SOON)
            .await
            .unwrap_err();
        assert!(request.to_string().contains("the request has"), "{request}");
        let answer = client
            .call::<_, String>(server.address, "/large", &BODY_BYTES_MAX, SOON)
            .await
            .unwrap_err();
        assert!(answer.to_string().contains("the answer has more than"), "{answer}");
        server.stop().await;
    }

    #[tokio::test]
    async fn a_stopping_server_finishes_requests_in_flight() {
        let (entered, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (inside, outside) = (Arc::clone(&entered), Arc::clone(&release));
        let held = post(async move || {
            inside.notify_one();
            outside.notified().await;
            Json("done".to_owned())
        });
        let server = serve_router(
            (LOOPBACK, 0).into(),
            identity(1, None),
            acceptor(1),
            Router::new().route("/held", held),
        );
        let (address, client) = (server.address, client(2, None));
        let call =
            tokio::spawn(
                async move { client.call::<_, String>(address, "/held", &(), SOON).await },
            );
        timeout(SOON, entered.notified()).await.unwrap();
        server.stop.send(()).unwrap();
        // The server no longer listens, and the call continues.
        let refused = async { while TcpStream::connect(address).await.is_ok() {} };
        timeout(SOON, refused).await.unwrap();
        release.notify_one();
        assert_eq!(call.await.unwrap().unwrap(), "done");
        timeout(SOON, server.serving).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn connections_that_do_not_speak_the_protocol_are_closed() {
        let server = serve(identity(1, None));
        let mut silent = TcpStream::connect(server.address).await.unwrap();
        let mut garbage = TcpStream::connect(server.address).await.unwrap();
        garbage.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        // HTTP/2 answers with a GOAWAY frame before it closes, with a FIN, or with a reset if the
        // server did not read everything.
        let (mut bytes, patience) = (Vec::new(), FIRST_REQUEST_DEADLINE + SOON);
        let _ = timeout(patience, garbage.read_to_end(&mut bytes)).await.unwrap();
        timeout(patience, silent.read_to_end(&mut bytes)).await.unwrap().unwrap();
        assert_eq!(echo(&client(2, None), server.address).await.unwrap(), "hello");
        server.stop().await;
    }

    #[tokio::test]
    async fn a_server_that_cannot_listen_says_why_in_one_line() {
        let server = serve(identity(1, None));
        let error = Server::bind(server.address, identity(1, None), acceptor(1)).unwrap_err();
        assert!(matches!(error, BindError::PortInUse(_)));
        let port = server.address.port();
        assert_eq!(
            error.to_string(),
            format!(
                "port {port} on 127.0.0.1 is in use by another program (`ss -ltnp sport = \
                 :{port}` names it): stop it or choose another port"
            )
        );
        let error = Server::bind("192.0.2.1:7789".parse().unwrap(), identity(1, None), acceptor(1))
            .unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("no interface of this host has 192.0.2.1; its addresses are "),
            "{error}"
        );
        server.stop().await;
    }
}
