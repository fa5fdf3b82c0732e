//! WireGuard processes of two hosts in namespaces, with real devices. These tests need root.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says what it expects by failing"
)]

mod lab;

use std::io::{Read, Write};
use std::num::NonZeroU16;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use lab::stream::{Stream, answers};
use lab::{DEVICE, Host, Lab, preshared_key, secret, wait_until};
use libtest_mimic::{Arguments, Trial};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use shoutd_netlink::wireguard::{
    Change, PeerChange, PeerUpdate, PresharedKey, PrivateKey, PublicKey,
};
use shoutd_netlink::{Kind, LinkChange, Namespace, NewVxlan, Route};
use shoutd_tunnel::{ClientError, SUBCOMMAND};

/// 100 datagrams in a second.
const PERIOD: Duration = Duration::from_millis(10);

/// The protocol's time between handshakes.
const USUAL: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(SUBCOMMAND) {
        lab::serve();
        return ExitCode::SUCCESS;
    }
    let tests: [(&str, fn()); 11] = [
        ("traffic flows both ways, without privileges", traffic_flows),
        ("a preshared key changes on both sides at once", || key_change(Duration::ZERO)),
        ("a preshared key changes on one side, later on the other", || {
            key_change(Duration::from_secs(12));
        }),
        ("keepalives alone renew a session", keepalives),
        ("a removed control socket comes back", removed_socket),
        ("a killed process takes its device over", killed),
        ("a removed peer is refused at once", removed),
        ("VXLAN frames cross the tunnel", vxlan),
        ("thousands of peers are set and told", many_peers),
        ("hostile requests are refused", hostile),
        ("a process ends with its device, and at SIGTERM", ends),
    ];
    let trials = tests.map(|(name, test)| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    });
    let mut arguments = Arguments::from_args();
    // They measure time, too.
    arguments.test_threads.get_or_insert(1);
    libtest_mimic::run(&arguments, trials.into()).exit_code()
}

fn traffic_flows() {
    let lab = Lab::up(USUAL);
    let streams = [
        Stream::begin(lab.one(), lab.two(), 9001, PERIOD),
        Stream::begin(lab.two(), lab.one(), 9002, PERIOD),
    ];
    thread::sleep(Duration::from_secs(2));
    for outcome in streams.map(Stream::end) {
        println!("    {} sent, {} lost", outcome.sent.len(), outcome.lost());
        assert_eq!(outcome.which(), [0; 0]);
    }
    for (host, other) in [(lab.one(), lab.two()), (lab.two(), lab.one())] {
        let state = host.state().unwrap();
        assert_eq!(state.public_key, Some(host.public_key()));
        assert_eq!(state.listen_port, lab::PORT);
        let peer = host.peer(other);
        assert!(peer.preshared_key.is_some(), "{peer:?}");
        assert!(peer.received_octets > 0 && peer.sent_octets > 0, "{peer:?}");
        assert_eq!(peer.endpoint, Some(other.endpoint()));
        assert_eq!(peer.allowed_ips, [other.inside().into()].into());
        let age = SystemTime::now().duration_since(peer.last_handshake.unwrap()).unwrap();
        assert!(age < lab::PATIENCE, "{age:?}");
        let served = host.with_client(async |client| client.process()).unwrap();
        assert_eq!(served, host.process());
        assert_eq!(std::fs::metadata(host.socket()).unwrap().mode() & 0o777, 0o600);
        has_no_privileges(host);
    }
}

fn has_no_privileges(host: &Host) {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", host.process())).unwrap();
    let mut threads = 0;
    for task in tasks {
        let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        if status.starts_with("Name:\tlifeline") {
            continue;
        }
        threads += 1;
        for set in ["CapPrm", "CapEff", "CapInh", "CapBnd"] {
            assert!(status.contains(&format!("{set}:\t0000000000000000")), "{status}");
        }
        assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    }
    assert!(threads > 1, "{threads}");
}

/// Nothing passes but keepalives, for which gotatun itself renews no session.
fn keepalives() {
    let lab = Lab::up(Duration::from_secs(3));
    let (one, two) = (lab.one(), lab.two());
    let key = preshared_key();
    for (host, other) in [(one, two), (two, one)] {
        let peers = vec![other.as_peer(&key, Some(25))];
        host.set(&Change { peers, ..Change::default() }).unwrap();
    }
    let handshake = || one.peer(two).last_handshake;
    wait_until("the first handshake", || handshake().is_some());
    for _ in 0..2 {
        // What is told of one handshake differs by less than this.
        let next = handshake().unwrap() + Duration::from_secs(1);
        wait_until("the next handshake", || handshake().unwrap() > next);
    }
}

/// Its directory is removed with it, and made again later.
fn removed_socket() {
    let lab = Lab::up(USUAL);
    let host = lab.one();
    let (socket, process) = (host.socket(), host.process());
    std::fs::remove_file(&socket).unwrap();
    wait_until("the socket is back", || host.state().is_ok());
    let directory = socket.parent().unwrap();
    std::fs::remove_dir_all(directory).unwrap();
    assert!(host.state().is_err());
    std::fs::create_dir(directory).unwrap();
    wait_until("the socket is back with its directory", || host.state().is_ok());
    assert_eq!(host.with_client(async |client| client.process()).unwrap(), process);
    assert_eq!(std::fs::metadata(&socket).unwrap().mode() & 0o777, 0o600);
    assert!(host.peer(lab.two()).endpoint.is_some());
}

/// Handshakes happen each second, so that some fall between the two changes.
fn key_change(between: Duration) {
    let lab = Lab::up(Duration::from_secs(1));
    for (first, second) in [(lab.one(), lab.two()), (lab.two(), lab.one())] {
        let stream = Stream::begin(lab.one(), lab.two(), 9001, PERIOD);
        thread::sleep(Duration::from_secs(3));
        let key = preshared_key();
        first.change_preshared_key(second, &key);
        thread::sleep(between);
        second.change_preshared_key(first, &key);
        let changed = SystemTime::now();
        let begin = Instant::now();
        wait_until("a handshake with the new key", || {
            first.peer(second).last_handshake.is_some_and(|moment| moment > changed)
        });
        let waited = begin.elapsed();
        thread::sleep(Duration::from_secs(2));
        let outcome = stream.end();
        println!(
            "    {between:?} between the changes, host {} first: {} sent, {} lost; the next \
             handshake after {waited:.1?}",
            first.number,
            outcome.sent.len(),
            outcome.lost()
        );
        assert_eq!(outcome.which(), [0; 0]);
    }
}

fn killed() {
    for keepalive in [0, 1] {
        let mut lab = Lab::up(USUAL);
        let key = preshared_key();
        lab.configure(&key);
        for (from, to) in [(0, 1), (1, 0)] {
            let stream = Stream::begin(&lab.hosts[from], &lab.hosts[to], 9001, PERIOD);
            thread::sleep(Duration::from_secs(1));
            let death = Instant::now();
            lab.hosts[1].end(Signal::SIGKILL);
            stays(&lab.hosts[1]);
            let start = lab.hosts[1].start();
            stays(&lab.hosts[1]);
            let change = Change {
                private_key: Some(lab.two().private_key.clone()),
                peers: vec![lab.one().as_peer(&key, Some(keepalive))],
                ..Change::default()
            };
            lab.two().set(&change).unwrap();
            let configured = Instant::now();
            thread::sleep(Duration::from_secs(20));
            let outcome = stream.end();
            let flows = outcome.first_after(configured - Duration::from_millis(20));
            let flows = flows.expect("traffic flows again");
            println!(
                "    host 2 killed, keepalive {keepalive} s, ping from host {}: served {start:.0?} \
                 after its start, configured {:.0?} after its end, traffic {:.0?} after that; {} \
                 of {} lost",
                lab.hosts[from].number,
                configured - death,
                flows.saturating_duration_since(configured),
                outcome.lost(),
                outcome.sent.len()
            );
        }
    }
}

/// Checks that the device has its address and its route.
fn stays(host: &Host) {
    let mut route = Route::open(&host.tunnel).unwrap();
    let link = route.link(DEVICE).unwrap().expect("the device stays");
    assert!(link.up && link.mtu == 1440, "{link:?}");
    let addresses = route.addresses().unwrap();
    assert!(addresses.iter().any(|address| address.net.addr() == host.inside()), "{addresses:?}");
    assert_eq!(route.output_device("fd00:5117::99".parse().unwrap()).unwrap(), Some(link.index));
}

fn removed() {
    let lab = Lab::up(USUAL);
    assert!(answers(lab.one(), lab.two(), 9001, Duration::from_secs(1)));
    let listener = lab.two().udp(9003);
    listener.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let sender = lab.one().udp(9003);
    let to = listener.local_addr().unwrap();
    sender.send_to(b"before", to).unwrap();
    let mut buffer = [0; 16];
    assert_eq!(listener.recv(&mut buffer).unwrap(), 6);
    let change =
        Change { peers: vec![(lab.one().public_key(), PeerChange::Remove)], ..Change::default() };
    lab.two().set(&change).unwrap();
    assert!(lab.two().state().unwrap().peers.is_empty());
    for _ in 0..100 {
        sender.send_to(b"after", to).unwrap();
    }
    assert!(listener.recv(&mut buffer).is_err(), "a packet of a removed peer was accepted");
    // It comes back when it is a peer again.
    lab.configure(&preshared_key());
    assert!(answers(lab.two(), lab.one(), 9001, Duration::from_secs(8)));
}

fn vxlan() {
    let lab = Lab::up(USUAL);
    let segments = [Namespace::anonymous().unwrap(), Namespace::anonymous().unwrap()];
    let address = |number: u8| format!("10.77.0.{number}");
    for (host, segment) in lab.hosts.iter().zip(&segments) {
        let other = lab.hosts.iter().find(|other| other.number != host.number).unwrap();
        let vxlan = NewVxlan {
            name: "vx",
            group: 0,
            vni: 4711,
            local: host.inside(),
            port: lab::PORT,
            ttl: 64,
            addresses_max: 100,
        };
        Route::open(&host.tunnel).unwrap().create_vxlan(&vxlan, segment).unwrap();
        let mut route = Route::open(segment).unwrap();
        let link = route.link("vx").unwrap().unwrap();
        let Kind::Vxlan(settings) = &link.kind else { panic!("{link:?}") };
        assert_eq!(settings.local, Some(host.inside()));
        route.add_flood(link.index, other.inside()).unwrap();
        let net = format!("{}/24", address(host.number)).parse().unwrap();
        route.add_address(link.index, net).unwrap();
        let change = LinkChange { up: Some(true), mtu: Some(1370), ..LinkChange::default() };
        route.change_link(link.index, &change).unwrap();
    }
    // ARP, then unicast; frames of the largest size.
    let sockets = [1, 2].map(|number: u8| {
        let bind = || std::net::UdpSocket::bind((address(number), 9004));
        let socket = segments[usize::from(number - 1)].run(bind).unwrap().unwrap();
        socket.set_read_timeout(Some(lab::PATIENCE)).unwrap();
        socket
    });
    let [one, two] = &sockets;
    let frame = [0x5a; 1342];
    let mut buffer = [0; 2048];
    for _ in 0..100 {
        one.send_to(&frame, (address(2), 9004)).unwrap();
        assert_eq!(two.recv(&mut buffer).unwrap(), frame.len());
        two.send_to(&frame, (address(1), 9004)).unwrap();
        assert_eq!(one.recv(&mut buffer).unwrap(), frame.len());
    }
    // The hosts' own namespaces have no VXLAN socket: theirs are in the tunnels' namespaces.
    for host in &lab.hosts {
        let bound = host.outside.run(|| std::net::UdpSocket::bind(("0.0.0.0", 4711))).unwrap();
        assert!(bound.is_ok());
        let counted = host.peer(lab.hosts.iter().find(|o| o.number != host.number).unwrap());
        assert!(counted.received_octets > 100 * 1342, "{counted:?}");
    }
}

/// The public key of a peer that nobody is.
fn strange_key(number: u16) -> PublicKey {
    let mut octets = [9; 32];
    octets[..2].copy_from_slice(&number.to_be_bytes());
    PublicKey(octets)
}

/// A peer that nobody is.
fn stranger(number: u16) -> (PublicKey, PeerChange) {
    let key = strange_key(number);
    let update = PeerUpdate {
        preshared_key: Some(PresharedKey::new(&key.0)),
        endpoint: Some("192.0.2.1:7789".parse().unwrap()),
        allowed_ips: [format!("fd00:9::{number:x}/128").parse().unwrap()].into(),
        ..PeerUpdate::default()
    };
    (key, PeerChange::Set(update))
}

fn many_peers() {
    const COUNT: u16 = 4000;
    let lab = Lab::up(USUAL);
    let host = lab.one();
    let stream = Stream::begin(lab.one(), lab.two(), 9001, PERIOD);
    let change = Change { peers: (0..COUNT).map(stranger).collect(), ..<_>::default() };
    let begin = Instant::now();
    host.set(&change).unwrap();
    let added = begin.elapsed();
    let begin = Instant::now();
    let state = host.state().unwrap();
    let told = begin.elapsed();
    assert_eq!(state.peers.len(), usize::from(COUNT) + 1);
    let peers = (0..COUNT).map(|number| {
        let preshared_key = Some(Some(preshared_key()));
        let update = PeerUpdate { preshared_key, ..PeerUpdate::default() };
        (strange_key(number), PeerChange::Update(update))
    });
    let change = Change { peers: peers.collect(), ..Change::default() };
    let begin = Instant::now();
    host.set(&change).unwrap();
    let changed = begin.elapsed();
    thread::sleep(Duration::from_secs(1));
    let outcome = stream.end();
    println!(
        "    {COUNT} peers: added in {added:.0?}, told in {told:.0?}, preshared keys changed in \
         {changed:.0?}; meanwhile {} of {} lost; memory {:?} KiB",
        outcome.lost(),
        outcome.sent.len(),
        host.memory()
    );
    // One allowed IP moves to another peer, and stays there when its first peer changes.
    let allowed_ips = ["fd00:9::7/128".parse().unwrap()].into();
    let thief = PeerUpdate { allowed_ips, ..PeerUpdate::default() };
    let victim = PeerUpdate { keepalive: Some(NonZeroU16::new(30)), ..PeerUpdate::default() };
    let peers = [(8, thief), (7, victim)];
    let peers = peers.map(|(number, update)| (strange_key(number), PeerChange::Update(update)));
    host.set(&Change { peers: peers.into(), ..Change::default() }).unwrap();
    let peers = host.state().unwrap().peers;
    assert!(peers[&strange_key(7)].allowed_ips.is_empty());
    assert_eq!(peers[&strange_key(8)].allowed_ips.len(), 2);
    // The limit holds, and what is refused changes nothing.
    let peers = (COUNT..COUNT + 200).map(stranger).collect();
    let refused = host.set(&Change { peers, ..Change::default() });
    assert!(matches!(refused, Err(ClientError::Refused(Errno::ENOSPC))), "{refused:?}");
    assert_eq!(host.state().unwrap().peers.len(), usize::from(COUNT) + 1);
    assert_eq!(outcome.which(), [0; 0]);
}

fn hostile() {
    let mut lab = Lab::up(USUAL);
    let host = lab.one();
    let mut answers = Vec::new();
    let long = vec![b'a'; 1 << 20];
    for request in
        [b"\n\n".as_slice(), b"get=2\n\n", b"set=1\nprivate_key=1\n\n", b"\xff\xfe\n\n", &long]
    {
        let mut stream = UnixStream::connect(host.socket()).unwrap();
        stream.set_read_timeout(Some(lab::PATIENCE)).unwrap();
        // It may have closed the connection.
        let _ = stream.write_all(request);
        let mut answer = [0; 64];
        let length = stream.read(&mut answer).unwrap_or_default();
        answers.push(String::from_utf8_lossy(&answer[..length]).into_owned());
    }
    println!("    {answers:?}");
    assert!(answers[..4].iter().all(|answer| answer == "errno=22\n\n"), "{answers:?}");
    // Connections that say nothing only delay others.
    let silent: Vec<_> = (0..40).map(|_| UnixStream::connect(host.socket())).collect();
    wait_until("a request is served", || host.state().is_ok());
    drop(silent);
    // A process without a key has no peers.
    lab.hosts[0].end(Signal::SIGKILL);
    lab.hosts[0].start();
    let host = lab.one();
    for change in [
        Change { peers: vec![stranger(1)], ..Change::default() },
        Change { listen_port: Some(7790), ..Change::default() },
    ] {
        let refused = host.set(&change);
        assert!(matches!(refused, Err(ClientError::Refused(Errno::ENOKEY))), "{refused:?}");
    }
    // Another port, a port that is taken, another key, the peer that it is itself.
    let taken = host.outside.run(|| std::net::UdpSocket::bind("0.0.0.0:7791")).unwrap().unwrap();
    let key = || Some(PrivateKey::new(&secret()));
    host.set(&Change { private_key: key(), listen_port: Some(7790), ..<_>::default() }).unwrap();
    assert_eq!(host.state().unwrap().listen_port, 7790);
    let refused = host.set(&Change { listen_port: Some(7791), ..Change::default() });
    assert!(matches!(refused, Err(ClientError::Refused(Errno::EADDRINUSE))), "{refused:?}");
    assert_eq!(host.state().unwrap().listen_port, 7790);
    drop(taken);
    let own = host.state().unwrap().public_key.unwrap();
    let own = (own, PeerChange::Set(PeerUpdate::default()));
    host.set(&Change { peers: vec![own], ..Change::default() }).unwrap();
    assert!(host.state().unwrap().peers.is_empty());
    host.set(&Change { listen_port: Some(lab::PORT), ..Change::default() }).unwrap();
    lab.configure(&preshared_key());
    assert!(self::answers(lab.one(), lab.two(), 9001, Duration::from_secs(8)));
}

fn ends() {
    let mut lab = Lab::up(USUAL);
    assert!(lab.hosts[0].end(Signal::SIGTERM), "it ends without an error");
    assert!(!lab.one().socket().exists());
    stays(lab.one());
    lab.hosts[0].start();
    let mut route = Route::open(&lab.one().tunnel).unwrap();
    let link = route.link(DEVICE).unwrap().unwrap().index;
    route.delete_link(link).unwrap();
    assert!(!lab.hosts[0].await_end(), "it ends with an error");
}
