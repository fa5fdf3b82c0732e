//! Requests and answers against the specification's examples, and their limits.

use std::num::NonZeroU16;
use std::time::{Duration, UNIX_EPOCH};

use nix::errno::Errno;
use shoutd_netlink::wireguard::{
    Change, Device, Peer, PeerChange, PeerUpdate, PresharedKey, PrivateKey, PublicKey,
};

use super::answer;
use super::request::{Request, write_set};
use super::{REQUEST_MAX, hex};
use crate::key::public_key;

/// The example of <https://www.wireguard.com/xplatform/>.
const EXAMPLE: &str = include_str!("../../fuzz/request/example");

fn parse(text: &str) -> Result<Change, Errno> {
    match Request::parse(text.as_bytes()) {
        Ok(Request::Set(change)) => Ok(change),
        Ok(Request::Get) => panic!("it is a get"),
        Err(refusal) => Err(refusal.errno),
    }
}

#[test]
fn the_example_of_the_specification_is_understood() {
    let change = parse(EXAMPLE).unwrap();
    assert_eq!((change.listen_port, change.fwmark), (Some(12912), Some(0)));
    assert!(change.replaces_peers && change.private_key.is_some());
    let [(_, PeerChange::Set(first)), (_, PeerChange::Set(second)), (_, third)] = &change.peers[..]
    else {
        panic!("{change:?}")
    };
    assert_eq!(first.endpoint, Some("[abcd:23::33%2]:51820".parse().unwrap()));
    assert!(first.replaces_allowed_ips && matches!(first.preshared_key, Some(Some(_))));
    assert_eq!(first.allowed_ips, ["192.168.4.4/32".parse().unwrap()].into());
    assert_eq!(second.keepalive, Some(NonZeroU16::new(111)));
    assert_eq!(second.allowed_ips.len(), 2);
    assert_eq!(third, &PeerChange::Remove);
}

#[test]
fn what_is_wrong_is_refused() {
    let key = "0f".repeat(32);
    for (text, errno) in [
        ("", Errno::EINVAL),
        ("set=2\n", Errno::EINVAL),
        ("get=1\nfwmark=1\n", Errno::EINVAL),
        ("set=1\nprivate_key=12\n", Errno::EINVAL),
        ("set=1\nlisten_port=65536\n", Errno::EINVAL),
        ("set=1\nlisten_port=+1\n", Errno::EINVAL),
        ("set=1\nreplace_peers=false\n", Errno::EINVAL),
        ("set=1\nendpoint=192.0.2.1:1\n", Errno::EINVAL),
        ("set=1\nno pair\n", Errno::EINVAL),
    ] {
        assert_eq!(parse(text).err(), Some(errno), "{text:?}");
    }
    let zeros = "0".repeat(64);
    assert_eq!(parse(&format!("set=1\nprivate_key={zeros}\n")).err(), Some(Errno::EOPNOTSUPP));
    for line in ["endpoint=192.0.2.1", "allowed_ip=10.0.0.0/33", "listen_port=1", "remove=1"] {
        let text = format!("set=1\npublic_key={key}\n{line}\n");
        assert_eq!(parse(&text).err(), Some(Errno::EINVAL), "{line}");
    }
    assert!(parse(&format!("set=1\nfwmark=\npublic_key={key}\n")).is_ok());
}

#[test]
fn a_refusal_never_has_the_value() {
    let text = format!("set=1\nprivate_key={}\n", "5e".repeat(31));
    let refusal = Request::parse(text.as_bytes()).unwrap_err();
    assert!(!format!("{refusal} {refusal:?}").contains("5e5e"));
}

/// The key number `number`.
fn key(number: u16) -> [u8; 32] {
    let mut octets = [1; 32];
    octets[..2].copy_from_slice(&number.to_be_bytes());
    octets
}

fn preshared_key(number: u16) -> PresharedKey {
    PresharedKey::new(&key(number)).unwrap()
}

#[test]
fn a_change_of_thousands_of_peers_is_split_between_peers() {
    let peers = (0..4000).map(|number| {
        let update = PeerUpdate {
            preshared_key: Some(Some(preshared_key(number))),
            endpoint: Some("192.0.2.1:51820".parse().unwrap()),
            keepalive: Some(None),
            replaces_allowed_ips: true,
            allowed_ips: ["2001:db8::1/128".parse().unwrap()].into(),
        };
        let change = match number % 3 {
            0 => PeerChange::Set(update),
            1 => PeerChange::Update(update),
            _ => PeerChange::Remove,
        };
        (PublicKey(key(number)), change)
    });
    let change = Change {
        private_key: Some(PrivateKey::new(&key(1))),
        listen_port: Some(7789),
        fwmark: Some(0),
        replaces_peers: true,
        peers: peers.collect(),
    };
    let requests = write_set(&change).unwrap();
    assert!(requests.len() > 1, "{}", requests.len());
    let mut whole = Change::default();
    for (number, request) in requests.iter().enumerate() {
        assert!(request.len() <= REQUEST_MAX && request.capacity() == REQUEST_MAX);
        let part = parse(request).unwrap();
        if number == 0 {
            whole = part;
        } else {
            assert_eq!(Change { peers: Vec::new(), ..part.clone() }, Change::default());
            whole.peers.extend(part.peers);
        }
    }
    assert_eq!(whole, change);
}

#[test]
fn a_peer_that_fits_no_request_is_refused() {
    let nets = (0..20_000_u32).map(|number| std::net::Ipv4Addr::from(number).into());
    let update = PeerUpdate {
        allowed_ips: nets.map(|address: std::net::IpAddr| address.into()).collect(),
        ..PeerUpdate::default()
    };
    let peers = vec![(PublicKey(key(1)), PeerChange::Set(update))];
    let change = Change { peers, ..Change::default() };
    assert_eq!(write_set(&change).unwrap_err().errno, Errno::E2BIG);
}

#[test]
fn an_answer_reads_back() {
    let private_key = PrivateKey::new(&key(9));
    let peer = Peer {
        preshared_key: Some(preshared_key(4)),
        endpoint: Some("[2001:db8::7]:7789".parse().unwrap()),
        keepalive: NonZeroU16::new(25),
        last_handshake: UNIX_EPOCH.checked_add(Duration::new(1_700_000_000, 5)),
        received_octets: u64::MAX,
        sent_octets: 17,
        allowed_ips: ["fd00::7/128".parse().unwrap(), "10.0.0.0/8".parse().unwrap()].into(),
    };
    let device = Device {
        public_key: Some(public_key(&private_key)),
        private_key: Some(private_key.clone()),
        listen_port: 7789,
        peers: [(PublicKey(key(2)), peer), (PublicKey(key(3)), Peer::default())].into(),
        ..answer::blank()
    };
    let text = answer::write_get(&device);
    assert_eq!(answer::parse(text.as_bytes()), Ok(Ok(device)));
    let mut secret = String::new();
    hex::write(private_key.octets(), &mut secret);
    assert!(text.contains(&secret));
}

#[test]
fn the_error_of_an_answer_is_told() {
    let answer = answer::parse(b"errno=22\n\n").unwrap();
    assert_eq!(answer, Err(Errno::EINVAL));
    assert_eq!(answer::parse(b"errno=-22\n\n").unwrap(), Err(Errno::EINVAL));
    assert!(answer::parse(b"listen_port=1\n\n").is_err());
}
