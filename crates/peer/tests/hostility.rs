//! Attacks of strangers and of a compromised member, all at once: the server must continue to
//! answer and stay below its memory limit. It runs in a process of its own, so that its memory can
//! be measured apart from its attackers'.

#[cfg(test)]
#[allow(dead_code, reason = "shared with other tests")]
mod common;

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read};
    use std::net::{IpAddr, SocketAddr};
    use std::process::{Child, Command, Stdio};
    use std::sync::Arc;
    use std::time::Duration;
    use std::{env, fs};

    use axum::routing::post;
    use axum::{Extension, Json, Router};
    use bytes::Bytes;
    use serde_json::Value;
    use shoutd_core::HostId;
    use shoutd_peer::identity::ENROLL;
    use shoutd_peer::limits::MEMORY_MAX;
    use shoutd_peer::{Caller, Client, Connector, CredentialStore, Identity, TlsConnector, Trust};
    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpSocket, TcpStream};
    use tokio::task::JoinSet;
    use tokio::time::{Instant, timeout};

    use crate::common::{LOOPBACK, SOON, certified, client_of, ours, serve_as, stranger};

    /// Environment variable that makes this process the server.
    const SERVER: &str = "SHOUTD_TEST_SERVER";

    /// How long each attack lasts.
    const ATTACK: Duration = Duration::from_secs(3);

    fn router() -> Router {
        let take = post(async |Extension(caller): Extension<Caller>, Json(_): Json<Value>| {
            Json(caller.host)
        });
        let large = post(async || "x".repeat(4 << 20));
        let swallow = post(async |_: Bytes| "");
        Router::new()
            .route(ENROLL, take.clone())
            .route("/take", take)
            .route("/large", large)
            .route("/swallow", swallow)
    }

    /// The server process, killed on drop.
    struct Server {
        process: Child,
        address: SocketAddr,
    }

    impl Server {
        fn start() -> Self {
            let name = "tests::a_server_under_attack_answers_and_stays_small";
            let mut process = Command::new(env::current_exe().unwrap())
                .args([name, "--exact", "--nocapture"])
                .env(SERVER, "1")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let lines =
                BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
            let address = lines
                .filter_map(|line| Some(line.split_once("listening ")?.1.parse().unwrap()))
                .next();
            Self { process, address: address.expect("the server says where it listens") }
        }

        /// Its peak resident memory in bytes (`VmHWM`, see proc(5)).
        fn peak_memory(&self) -> u64 {
            let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
            line.trim().strip_suffix("kB").unwrap().trim().parse::<u64>().unwrap() * 1024
        }
    }

    impl Drop for Server {
        fn drop(&mut self) {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }

    /// Serves until its standard input is closed, which happens however the test ends.
    async fn be_the_server() {
        let running = serve_as(&certified(1, ours(), std::time::SystemTime::now()), router());
        println!("\nlistening {}", running.address);
        let _ = tokio::task::spawn_blocking(|| std::io::stdin().read(&mut [0])).await;
        running.stop().await;
    }

    fn member() -> Arc<CredentialStore> {
        certified(1, ours(), std::time::SystemTime::now())
    }

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let [_, length @ ..] = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    /// The preface of an HTTP/2 connection (RFC 9113, section 3.4), with settings that do not limit
    /// what the server sends.
    fn preface() -> Vec<u8> {
        [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            frame(4, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]),
        ]
        .concat()
    }

    /// The header block of `POST` to a path: indexed fields and literals (RFC 7541, section 6).
    fn headers(path: &str, more: &[(&str, &str)]) -> Vec<u8> {
        let mut block = vec![0x83, 0x87];
        block.extend([&[0x04][..], &literal(path), &[0x01], &literal("x")].concat());
        for (name, value) in more {
            block.extend([&[0x00][..], &literal(name), &literal(value)].concat());
        }
        block
    }

    fn literal(text: &str) -> Vec<u8> {
        [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat()
    }

    /// The id of a client's stream.
    fn stream(number: u32) -> u32 {
        (2 * number + 1) & 0x7fff_ffff
    }

    /// An attack over one connection.
    struct Flood {
        /// The bytes sent first.
        first: Vec<u8>,
        /// The bytes sent after that, by the number of the message.
        more: Box<dyn Fn(u32) -> Vec<u8> + Send + Sync>,
    }

    impl Flood {
        fn new(first: Vec<u8>, more: impl Fn(u32) -> Vec<u8> + Send + Sync + 'static) -> Self {
            Self { first, more: Box::new(more) }
        }
    }

    /// The attacks over one connection.
    fn floods(host: HostId) -> Vec<Flood> {
        let host = host.to_string();
        let [enroll, large, swallow] = [ENROLL, "/large", "/swallow"]
            .map(|path| headers(path, &[("shoutd-protocol", "1"), ("shoutd-host", &host)]));
        let reset_enroll = enroll.clone();
        vec![
            // Pings.
            Flood::new(preface(), |_| frame(6, 0, 0, &[7; 8]).repeat(500)),
            // Settings.
            Flood::new(preface(), |_| frame(4, 0, 0, &[0, 3, 0, 0, 0, 9]).repeat(500)),
            // Rapid reset.
            Flood::new(preface(), move |number| {
                let streams = (0..100).map(|n| stream(100 * number + n));
                streams
                    .flat_map(|id| [frame(1, 4, id, &reset_enroll), frame(3, 0, id, &[0, 0, 0, 8])])
                    .flatten()
                    .collect()
            }),
            // Continuations.
            Flood::new([preface(), frame(1, 0, 1, &enroll)].concat(), |_| {
                frame(9, 0, 1, &headers("/x", &[("a", &"b".repeat(100))]).repeat(100))
            }),
            // Empty frames.
            Flood::new([preface(), frame(1, 4, 1, &enroll)].concat(), |_| {
                frame(0, 0, 1, &[]).repeat(500)
            }),
            // An endless body.
            Flood::new([preface(), frame(1, 4, 1, &swallow)].concat(), |_| {
                frame(0, 0, 1, &[b'x'; 16_384])
            }),
            // Large answers that the client does not read.
            Flood::new(preface(), move |number| frame(1, 5, stream(number), &large)),
            // Window updates.
            Flood::new(preface(), |_| frame(8, 0, 0, &[0x7f, 0xff, 0xff, 0xff]).repeat(500)),
            // Priorities.
            Flood::new(preface(), |n| frame(2, 0, 2 * n + 1, &[0, 0, 0, 0, 1]).repeat(500)),
            // Unknown frames.
            Flood::new(preface(), |_| frame(0xbb, 0xff, 0, &[9; 16_000])),
            // Malformed JSON.
            Flood::new(preface(), move |number| {
                [frame(1, 4, stream(number), &enroll), frame(0, 1, stream(number), &[b'['; 4000])]
                    .concat()
            }),
        ]
    }

    /// Sends a flood over one TLS connection after the other, and reads nothing.
    async fn flood(store: Arc<CredentialStore>, address: SocketAddr, source: IpAddr, index: usize) {
        let Flood { first, more } = floods(store.host()).swap_remove(index);
        let connector = TlsConnector::new(store, Trust::Anybody, source).unwrap();
        let until = Instant::now() + ATTACK;
        while Instant::now() < until {
            let attack = async {
                let Ok(mut connection) = connector.connect(address).await else { return };
                let mut number = 0;
                let mut sent = connection.stream.write_all(&first).await;
                while sent.is_ok() {
                    sent = connection.stream.write_all(&more(number)).await;
                    number += 1;
                }
            };
            let _ = tokio::time::timeout_at(until, attack).await;
        }
    }

    /// Connects again and again, with garbage or half a handshake, and keeps the connections open.
    async fn connect(address: SocketAddr, source: IpAddr, bytes: &'static [u8]) {
        let mut held = Vec::new();
        let until = Instant::now() + ATTACK;
        while Instant::now() < until && held.len() < 500 {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind((source, 0).into()).unwrap();
            if let Ok(Ok(mut stream)) =
                tokio::time::timeout_at(until, socket.connect(address)).await
            {
                let _ = stream.write_all(bytes).await;
                held.push(stream);
            }
        }
        let _: Vec<TcpStream> = held;
    }

    async fn answers(client: &Client, address: SocketAddr) {
        let answer = client.call::<_, HostId>(address, "/take", &serde_json::json!({}), SOON).await;
        assert!(answer.is_ok(), "{answer:?}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_server_under_attack_answers_and_stays_small() {
        if env::var_os(SERVER).is_some() {
            return be_the_server().await;
        }
        let server = Server::start();
        let address = server.address;
        let friend = member();
        let friend = Client::new(
            Identity::new(friend.host(), Some(ours())),
            TlsConnector::new(friend, Trust::Cluster, LOOPBACK).unwrap(),
        );
        answers(&friend, address).await;
        let mut attackers = JoinSet::new();
        for index in 0..floods(member().host()).len() {
            let last = u8::try_from(index + 1).unwrap();
            attackers.spawn(flood(stranger(), address, [127, 0, 2, last].into(), index));
            attackers.spawn(flood(member(), address, [127, 0, 3, last].into(), index));
        }
        for (last, bytes) in (1..).zip([
            &b"\x16\x03\x01\x10\x00\x01"[..],
            b"GET / HTTP/1.1\r\n\r\n",
            &[0xff; 4096],
            b"",
        ]) {
            attackers.spawn(connect(address, [127, 0, 4, last].into(), bytes));
        }
        while !attackers.is_empty() {
            answers(&friend, address).await;
            let _ = timeout(Duration::from_millis(200), attackers.join_next()).await;
            let peak = server.peak_memory();
            assert!(peak < MEMORY_MAX, "the server took {} MiB", peak >> 20);
        }
        let newcomer = client_of(&stranger(), Trust::Anybody);
        let _ = newcomer.call::<_, HostId>(address, ENROLL, &serde_json::json!({}), SOON).await;
        answers(&friend, address).await;
        println!("the server took up to {} MiB", server.peak_memory() >> 20);
    }
}
