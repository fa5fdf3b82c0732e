//! WireGuard devices on the real kernel, in namespaces of their own. These tests need root.
//! `crates/e2e/tests/e2e_kernel.rs` runs them on a kernel that has WireGuard.
#![expect(clippy::unwrap_used, reason = "a test says what it expects by failing")]

use std::collections::BTreeMap;
use std::env;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use nix::errno::Errno;
use shoutd_netlink::wireguard::{
    Change, Device, NewWireguard, PeerChange, PeerSettings, PresharedKey, PrivateKey, PublicKey,
    Settings, Wireguard,
};
use shoutd_netlink::{
    Kind, LinkChange, Namespace, NewVeth, NewVxlan, Route, VethEnd, VxlanSettings,
};

const PATIENCE: Duration = Duration::from_secs(60);
/// Set where the kernel must have WireGuard.
const VARIABLE: &str = "SHOUTD_WIREGUARD";
const DEVICE: &str = "shoutwg";
const MTU: u32 = 1420;
const PORT: u16 = 7790;
const MARK: u32 = 6;

/// The client of a namespace; `None` if the kernel has no WireGuard, which is checked.
fn open(namespace: &Namespace) -> Option<Wireguard> {
    let wireguard = Wireguard::open(namespace).unwrap();
    if wireguard.is_none() {
        assert_eq!(env::var_os(VARIABLE), None, "the kernel has no WireGuard");
        let new = NewWireguard { name: DEVICE, group: 7, mtu: MTU };
        let mut route = Route::open(namespace).unwrap();
        let error = route.create_wireguard(&new, namespace).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::EOPNOTSUPP), "{error}");
    }
    wireguard
}

/// A host: the namespace with its underlay, and the one that holds its WireGuard device.
struct Host {
    number: u8,
    underlay: Namespace,
    tunnel: Namespace,
    route: Route,
    wireguard: Wireguard,
    index: u32,
    public_key: PublicKey,
    settings: Settings,
}

impl Host {
    /// Makes the device in the underlay's namespace, and moves it.
    fn new(number: u8) -> Option<Self> {
        let (underlay, tunnel) = (Namespace::anonymous().unwrap(), Namespace::anonymous().unwrap());
        let mut wireguard = open(&tunnel)?;
        let new = NewWireguard { name: DEVICE, group: 7, mtu: MTU };
        let mut outside = Route::open(&underlay).unwrap();
        outside.create_wireguard(&new, &tunnel).unwrap();
        assert_eq!(outside.link(DEVICE).unwrap(), None);
        let error = outside.create_wireguard(&new, &tunnel).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::EEXIST), "{error}");

        let mut route = Route::open(&tunnel).unwrap();
        let link = route.link(DEVICE).unwrap().unwrap();
        assert_eq!((link.kind, link.group, link.mtu, link.up), (Kind::Wireguard, 7, MTU, false));
        let settings = Settings {
            private_key: PrivateKey::new(&[number; 32]),
            listen_port: NonZeroU16::new(PORT).unwrap(),
            fwmark: MARK,
            peers: BTreeMap::new(),
        };
        let blank = wireguard.device(link.index).unwrap().unwrap();
        assert_eq!((blank.private_key.as_ref(), blank.public_key), (None, None));
        wireguard.change(link.index, &settings.difference(&blank)).unwrap();
        let device = wireguard.device(link.index).unwrap().unwrap();
        assert_eq!(device.private_key.as_ref(), Some(&settings.private_key));
        let public_key = device.public_key.unwrap();
        let net = IpNet::new(inner(number), 64).unwrap();
        route.add_address(link.index, net).unwrap();
        let change = LinkChange { up: Some(true), ..LinkChange::default() };
        route.change_link(link.index, &change).unwrap();
        let index = link.index;
        Some(Self { number, underlay, tunnel, route, wireguard, index, public_key, settings })
    }

    fn state(&mut self) -> Device {
        self.wireguard.device(self.index).unwrap().unwrap()
    }

    /// Makes the device as wanted, and returns the changes to peers that this took.
    fn settle(&mut self) -> Vec<(PublicKey, PeerChange)> {
        let before = self.state();
        let change = self.settings.difference(&before);
        self.wireguard.change(self.index, &change).unwrap();
        let state = self.state();
        let rest = self.settings.difference(&state);
        assert!(rest.is_empty(), "{rest:?} of {change:?}");
        assert_eq!(state.peers.len(), self.settings.peers.len());
        change.peers
    }

    /// Removes a peer with its session, and adds it with this preshared key.
    fn renew(&mut self, key: PublicKey, preshared: u8) {
        let mut peer = self.settings.peers.remove(&key).unwrap();
        assert_eq!(self.settle(), [(key, PeerChange::Remove)]);
        peer.preshared_key = PresharedKey::new(&[preshared; 32]);
        self.settings.peers.insert(key, peer);
        assert!(matches!(self.settle()[..], [(_, PeerChange::Set(_))]));
        assert_eq!(self.state().peers[&key].last_handshake, None);
    }

    /// Changes the preshared key of a peer.
    fn rekey(&mut self, key: PublicKey, preshared: u8) {
        let preshared_key = PresharedKey::new(&[preshared; 32]);
        self.settings.peers.get_mut(&key).unwrap().preshared_key = preshared_key;
        assert!(matches!(self.settle()[..], [(_, PeerChange::Update(_))]));
    }

    fn socket(&self) -> UdpSocket {
        let socket = self.tunnel.run(|| UdpSocket::bind((inner(self.number), 5000))).unwrap();
        socket.unwrap()
    }
}

/// A host's address in the tunnel.
fn inner(number: u8) -> IpAddr {
    Ipv6Addr::new(0xfd00, 7, 0, 0, 0, 0, 0, number.into()).into()
}

/// A host's address in the underlay.
fn outer(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, number)
}

/// Two hosts with an underlay between them, each a peer of the other.
fn hosts() -> Option<[Host; 2]> {
    let (mut one, mut two) = (Host::new(1)?, Host::new(2)?);
    let end = |name| VethEnd { name, group: 0, mtu: 1500, mac: None };
    let new = NewVeth {
        near: end("underlay"),
        master: None,
        far: end("underlay"),
        far_namespace: &two.underlay,
    };
    Route::open(&one.underlay).unwrap().create_veth(&new).unwrap();
    for host in [&one, &two] {
        let mut route = Route::open(&host.underlay).unwrap();
        let index = route.link("underlay").unwrap().unwrap().index;
        let net = IpNet::new(outer(host.number).into(), 24).unwrap();
        route.add_address(index, net).unwrap();
        let change = LinkChange { up: Some(true), ..LinkChange::default() };
        route.change_link(index, &change).unwrap();
    }
    let keys = [one.public_key, two.public_key];
    for (host, key) in [(&mut one, keys[1]), (&mut two, keys[0])] {
        let other = 3 - host.number;
        let peer = PeerSettings {
            endpoint: Some((outer(other), PORT).into()),
            allowed_ips: [IpNet::from(inner(other))].into(),
            ..PeerSettings::default()
        };
        host.settings.peers.insert(key, peer);
        assert!(matches!(host.settle()[..], [(_, PeerChange::Set(_))]));
    }
    Some([one, two])
}

/// Sends a datagram until it arrives.
fn deliver(from: &UdpSocket, to: &UdpSocket) {
    to.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let (begin, destination) = (Instant::now(), to.local_addr().unwrap());
    let mut buffer = [0; 16];
    loop {
        assert!(begin.elapsed() < PATIENCE, "nothing arrived at {destination}");
        // A full queue may refuse it.
        let _ = from.send_to(b"datagram", destination);
        if let Ok((8, source)) = to.recv_from(&mut buffer) {
            assert_eq!(source, from.local_addr().unwrap());
            return;
        }
    }
}

#[test]
fn the_kernel_derives_the_public_key() {
    let namespace = Namespace::anonymous().unwrap();
    let Some(mut wireguard) = open(&namespace) else { return };
    let mut route = Route::open(&namespace).unwrap();
    let new = NewWireguard { name: DEVICE, group: 0, mtu: MTU };
    route.create_wireguard(&new, &namespace).unwrap();
    let index = route.link(DEVICE).unwrap().unwrap().index;
    // RFC 7748, section 6.1: Alice's keys.
    let private = hex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a");
    let public = hex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a");
    let change = Change { private_key: Some(PrivateKey::new(&private)), ..Change::default() };
    wireguard.change(index, &change).unwrap();
    let device = wireguard.device(index).unwrap().unwrap();
    assert_eq!(device.private_key, change.private_key);
    assert_eq!(device.public_key, Some(PublicKey(public)));

    assert_eq!(wireguard.device(index + 1000).unwrap(), None);
    let error = wireguard.change(index + 1000, &change).unwrap_err();
    assert_eq!(error.errno(), Some(Errno::ENODEV), "{error}");
    let loopback = route.link("lo").unwrap().unwrap().index;
    let error = wireguard.device(loopback).unwrap_err();
    assert_eq!(error.errno(), Some(Errno::EOPNOTSUPP), "{error}");
    wireguard.rest();
    assert_eq!(wireguard.device(index).unwrap(), Some(device));
}

fn hex(text: &str) -> [u8; 32] {
    let octets: Vec<u8> =
        (0..32).map(|at| u8::from_str_radix(&text[at * 2..at * 2 + 2], 16).unwrap()).collect();
    octets.try_into().unwrap()
}

#[test]
fn hosts_reach_each_other_while_their_preshared_keys_agree() {
    let Some([mut one, mut two]) = hosts() else { return };
    let sockets = [one.socket(), two.socket()];
    deliver(&sockets[0], &sockets[1]);
    deliver(&sockets[1], &sockets[0]);
    let keys = [one.public_key, two.public_key];
    for (host, other) in [(&mut one, keys[1]), (&mut two, keys[0])] {
        let peer = &host.state().peers[&other];
        let endpoint = SocketAddr::from((outer(3 - host.number), PORT));
        assert!(peer.last_handshake.is_some() && peer.endpoint == Some(endpoint), "{peer:?}");
        assert!(peer.received_octets >= 100 && peer.sent_octets >= 100, "{peer:?}");
    }

    // A session goes on when the preshared key changes.
    one.rekey(two.public_key, 8);
    two.rekey(one.public_key, 8);
    deliver(&sockets[0], &sockets[1]);
    // A new one has the new key.
    one.renew(two.public_key, 8);
    deliver(&sockets[0], &sockets[1]);
    assert!(one.state().peers[&two.public_key].last_handshake.is_some());

    // If the keys differ, the other end answers, and its answer is not authentic.
    let answered = two.state().peers[&one.public_key].sent_octets;
    one.renew(two.public_key, 9);
    let begin = Instant::now();
    while two.state().peers[&one.public_key].sent_octets == answered {
        assert!(begin.elapsed() < PATIENCE, "no answer to the handshake");
        sockets[0].send_to(b"datagram", sockets[1].local_addr().unwrap()).unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }
    let peer = one.state().peers.remove(&two.public_key).unwrap();
    assert_eq!((peer.last_handshake, peer.received_octets), (None, 0));
    two.rekey(one.public_key, 9);
    deliver(&sockets[0], &sockets[1]);
    assert!(one.state().peers[&two.public_key].last_handshake.is_some());

    // Without the peer nothing can be sent: "required key not available".
    one.settings.peers.clear();
    assert_eq!(one.settle(), [(two.public_key, PeerChange::Remove)]);
    let refused = sockets[0].send_to(b"datagram", sockets[1].local_addr().unwrap()).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(Errno::ENOKEY as i32), "{refused}");
}

#[test]
fn a_vxlan_device_in_a_third_namespace_sends_through_the_tunnel() {
    let Some([one, two]) = hosts() else { return };
    let sockets = [&one, &two].map(|host| {
        let segment = Namespace::anonymous().unwrap();
        let new = NewVxlan {
            name: "tunnel",
            group: 7,
            vni: 0x10_0001,
            local: inner(host.number),
            port: 7789,
            ttl: 64,
            addresses_max: 100,
        };
        Route::open(&host.tunnel).unwrap().create_vxlan(&new, &segment).unwrap();
        assert_eq!(Route::open(&host.tunnel).unwrap().link("tunnel").unwrap(), None);
        let mut route = Route::open(&segment).unwrap();
        let link = route.link("tunnel").unwrap().unwrap();
        let settings =
            VxlanSettings { vni: new.vni, local: Some(new.local), port: new.port, learning: true };
        assert_eq!(link.kind, Kind::Vxlan(settings));
        route.add_flood(link.index, inner(3 - host.number)).unwrap();
        let address = Ipv4Addr::new(10, 9, 0, host.number);
        route.add_address(link.index, IpNet::new(address.into(), 24).unwrap()).unwrap();
        let change = LinkChange { up: Some(true), mtu: Some(1350), ..LinkChange::default() };
        route.change_link(link.index, &change).unwrap();
        segment.run(|| UdpSocket::bind((address, 5000)).unwrap()).unwrap()
    });
    deliver(&sockets[0], &sockets[1]);
    deliver(&sockets[1], &sockets[0]);
}

#[test]
fn a_thousand_peers_are_set_read_and_removed() {
    let Some(mut host) = Host::new(1) else { return };
    for number in 0..1000_u16 {
        let mut key = [0x20; 32];
        key[..2].copy_from_slice(&number.to_be_bytes());
        let nets = if number == 500 { 5000..7000 } else { number..number + 1 };
        let nets = nets.map(|net| IpNet::from(IpAddr::from([0xfd00, 9, 0, 0, 0, 0, 0, net])));
        let peer = PeerSettings {
            preshared_key: PresharedKey::new(&[number.to_be_bytes()[1]; 32]),
            endpoint: (number % 2 == 0).then(|| (outer(9), 1 + number).into()),
            keepalive: NonZeroU16::new(number % 3),
            allowed_ips: nets.collect(),
        };
        host.settings.peers.insert(PublicKey(key), peer);
    }
    assert_eq!(host.settle().len(), 1000);
    let state = host.state();
    assert_eq!((state.peers.len(), state.fwmark, state.listen_port), (1000, MARK, PORT));
    let keys: Vec<PublicKey> = host.settings.peers.keys().copied().collect();
    for (key, wanted) in &host.settings.peers {
        let peer = &state.peers[key];
        assert_eq!(
            (&peer.allowed_ips, &peer.preshared_key),
            (&wanted.allowed_ips, &wanted.preshared_key)
        );
        assert_eq!((peer.endpoint, peer.keepalive), (wanted.endpoint, wanted.keepalive));
    }
    // One peer's allowed IPs go to another, and half of the peers go.
    let first = host.settings.peers[&keys[0]].allowed_ips.clone();
    host.settings.peers.get_mut(&keys[0]).unwrap().allowed_ips.clear();
    host.settings.peers.get_mut(&keys[1]).unwrap().allowed_ips.extend(first);
    for key in &keys[500..] {
        host.settings.peers.remove(key);
    }
    assert_eq!(host.settle().len(), 502);
    // All others go in one step.
    let change = Change { replaces_peers: true, ..Change::default() };
    host.wireguard.change(host.index, &change).unwrap();
    assert_eq!(host.state().peers.len(), 0);
    host.route.delete_link(host.index).unwrap();
    assert_eq!(host.wireguard.device(host.index).unwrap(), None);
}
