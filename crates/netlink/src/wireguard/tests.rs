//! Messages octet by octet, and answers that must be refused.

use std::net::{SocketAddr, SocketAddrV6};
use std::num::NonZeroU16;
use std::time::{Duration, UNIX_EPOCH};

use super::model::{INDEX, NUMBER, apply, blank, dump, read};
use super::{
    ALLOWED_IPS_MAX, Change, Dump, PEERS_MAX, Peer, PeerChange, PeerSettings, PeerUpdate,
    PresharedKey, PrivateKey, PublicKey, Settings, canonical, write,
};
use crate::error::Fault;
use crate::wire::Frames;

/// The octets of these numbers in hexadecimal; `*` repeats an octet: `2a*32`.
fn hex(text: &str) -> Vec<u8> {
    let words = text.split_whitespace().flat_map(|word| {
        let (octets, count) = word.split_once('*').unwrap_or((word, "1"));
        let octets: Vec<u8> = (0..octets.len() / 2)
            .map(|at| u8::from_str_radix(&octets[at * 2..at * 2 + 2], 16).unwrap())
            .collect();
        octets.repeat(count.parse().unwrap())
    });
    words.collect()
}

fn written(change: &Change) -> Vec<Vec<u8>> {
    let messages = write::messages(NUMBER, INDEX, change).unwrap();
    messages.map(|mut message| message.inner().finish_in_place(5, 1).to_vec()).collect()
}

/// The result of reading messages with these attributes after a device's head.
fn answer(parts: &str) -> Result<super::Device, Fault> {
    let head =
        "0800 0100 07000000 0c00 0200 73686f7574776700 0600 0600 6d1e 0000 0800 0700 00000000";
    let body = [hex("00 01 0000"), hex(head), hex(parts)].concat();
    message(&body)
}

fn message(body: &[u8]) -> Result<super::Device, Fault> {
    let length = u32::try_from(body.len() + 16).unwrap().to_ne_bytes();
    let datagram = [&length, &hex("2100 0200 01000000 00000000")[..], body].concat();
    let mut dump = Dump::default();
    Frames(&datagram).for_each(|frame| dump.add(&frame));
    dump.finish()
}

#[test]
#[cfg(target_endian = "little")]
fn a_change_has_these_octets() {
    let update = PeerUpdate {
        preshared_key: Some(PresharedKey::new(&[0x33; 32])),
        endpoint: Some("192.0.2.1:7789".parse().unwrap()),
        keepalive: Some(NonZeroU16::new(25)),
        replaces_allowed_ips: true,
        allowed_ips: ["fd00::1/128".parse().unwrap()].into(),
    };
    let other = PeerUpdate {
        preshared_key: Some(None),
        endpoint: Some("[fe80::2%5]:258".parse().unwrap()),
        keepalive: Some(None),
        replaces_allowed_ips: false,
        allowed_ips: ["10.0.0.9/24".parse().unwrap()].into(),
    };
    let change = Change {
        private_key: Some(PrivateKey::new(&[0x40; 32])),
        listen_port: Some(7789),
        fwmark: Some(6),
        replaces_peers: true,
        peers: vec![
            (PublicKey([0x11; 32]), PeerChange::Set(update)),
            (PublicKey([0x22; 32]), PeerChange::Update(other)),
            (PublicKey([0x55; 32]), PeerChange::Remove),
        ],
    };
    let expected = hex("
        c4010000 2100 0500 01000000 00000000  01 01 0000
        0800 0100 07000000
        0800 0500 01000000
        2400 0300 40*32
        0600 0600 6d1e 0000
        0800 0700 06000000
        6c01 0880
          9c00 0080
            2400 0100 11*32
            0800 0300 02000000
            2400 0200 33*32
            1400 0400 0200 1e6d c0000201 00*8
            0600 0500 1900 0000
            2c00 0980 2800 0080
              0600 0100 0a00 0000  1400 0200 fd 00*14 01  0500 0300 80 000000
          9c00 0080
            2400 0100 22*32
            0800 0300 04000000
            2400 0200 00*32
            2000 0400 0a00 0102 00000000 fe80 00*13 02 05000000
            0600 0500 0000 0000
            2000 0980 1c00 0080
              0600 0100 0200 0000  0800 0200 0a000000  0500 0300 18 000000
          3000 0080
            2400 0100 55*32
            0800 0300 01000000
    ");
    let messages = written(&change);
    assert_eq!(messages.len(), 1);
    assert_eq!(messages[0], expected);
}

#[test]
fn a_change_of_the_device_alone_is_one_message_without_peers() {
    let change = Change { listen_port: Some(0), ..Change::default() };
    assert_eq!(written(&change).len(), 1);
    assert_eq!(written(&change)[0].len(), 16 + 4 + 8 + 8);
}

#[test]
#[cfg(target_endian = "little")]
fn an_answer_is_read() {
    let device = answer(
        "
        2400 0300 40*32  2400 0400 77*32
        f400 0880 f000 0080
          2400 0100 11*32
          2400 0200 00*32
          1400 0600 05000000 00000000 07000000 00000000
          0600 0500 1900 0000
          0c00 0800 0201000000000000
          0c00 0700 0300000000000000
          0800 0a00 01000000
          2000 0400 0a00 1e6d 00000000 fd*16 00000000
          4800 0980
            2800 0080 0600 0100 0a00 0000 1400 0200 fd 00*14 01 0500 0300 80 000000
            1c00 0080 0600 0100 0200 0000 0500 0300 18 000000 0800 0200 0a000009
    ",
    )
    .unwrap();
    assert_eq!((device.index, device.name.as_str(), device.listen_port), (7, "shoutwg", 7789));
    assert_eq!(device.private_key, Some(PrivateKey::new(&[0x40; 32])));
    assert_eq!(device.public_key, Some(PublicKey([0x77; 32])));
    let peer = Peer {
        preshared_key: None,
        endpoint: Some("[fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd]:7789".parse().unwrap()),
        keepalive: NonZeroU16::new(25),
        last_handshake: Some(UNIX_EPOCH + Duration::new(5, 7)),
        received_octets: 3,
        sent_octets: 258,
        allowed_ips: ["fd00::1/128", "10.0.0.0/24"].map(|net| net.parse().unwrap()).into(),
    };
    assert_eq!(device.peers, [(PublicKey([0x11; 32]), peer)].into());
}

#[test]
#[cfg(target_endian = "little")]
fn a_malformed_answer_is_refused() {
    assert!(answer("").is_ok());
    let peers = [
        // A private key of the device that is too short.
        "0800 0300 40*4",
        // A peer without a public key; with one that is too long.
        "1000 0880 0c00 0080 0600 0500 1900 0000",
        "3000 0880 2c00 0080 2800 0100 11*36",
        // Allowed IPs: without a family, of another than the address, with too long a prefix.
        "4c00 0880 4800 0080 2400 0100 11*32 2000 0980 1c00 0080 0500 0300 18 000000 0800 0200 \
         0a000009 0000*4",
        "4c00 0880 4800 0080 2400 0100 11*32 2000 0980 1c00 0080 0600 0100 0a00 0000 0500 0300 18 \
         000000 0800 0200 0a000009",
        "4c00 0880 4800 0080 2400 0100 11*32 2000 0980 1c00 0080 0600 0100 0200 0000 0500 0300 21 \
         000000 0800 0200 0a000009",
        // A list of peers, a list of allowed IPs, and an address that end too early.
        "3000 0880 2800 0080 2400 0100 11*32 1000 0080",
        "3000 0880 2c00 0080 2400 0100 11*32 0800 0980",
        "4c00 0880 4800 0080 2400 0100 11*32 2000 0980 1c00 0080 0600 0100 0200 0000 0500 0300 18 \
         000000 0900 0200 0a000009",
        // An endpoint of an unknown family, a handshake before 1970, and a billion nanoseconds.
        "4000 0880 3c00 0080 2400 0100 11*32 1400 0400 0300 1e6d 00*12",
        "4000 0880 3c00 0080 2400 0100 11*32 1400 0600 ff*8 00*8",
        "4000 0880 3c00 0080 2400 0100 11*32 1400 0600 01 00*7 00ca9a3b 00*4",
    ];
    for parts in peers {
        let result = answer(parts);
        assert!(matches!(result, Err(Fault::Malformed(_))), "{parts}: {result:?}");
    }
    assert!(matches!(message(&hex("00 01 0000")), Err(Fault::Malformed(_))));
    assert!(matches!(message(&hex("01 01 0000")), Err(Fault::Malformed(_))));
}

#[test]
fn a_dump_that_begins_anew_replaces_what_was_read() {
    let mut device = blank();
    device.peers.insert(PublicKey([1; 32]), Peer::default());
    device.peers.insert(PublicKey([2; 32]), Peer::default());
    let first = dump(&device, 1);
    device.peers.remove(&PublicKey([1; 32]));
    assert_eq!(read(&[&first[..1], &dump(&device, 1)].concat()), device);
}

#[test]
fn too_many_peers_are_neither_read_nor_written() {
    let keys = (0..=PEERS_MAX).map(|number| {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&number.to_be_bytes());
        PublicKey(key)
    });
    let mut device = blank();
    device.peers = keys.clone().map(|key| (key, Peer::default())).collect();
    let mut reading = Dump::default();
    for message in dump(&device, 100) {
        Frames(&message).for_each(|frame| reading.add(&frame));
    }
    let fault = reading.finish().unwrap_err();
    assert!(matches!(fault, Fault::TooMany { most: PEERS_MAX, .. }), "{fault}");

    let peers = keys.map(|key| (key, PeerChange::Remove)).collect();
    let change = Change { peers, ..Change::default() };
    let fault = write::messages(NUMBER, INDEX, &change).err().unwrap();
    assert_eq!(fault.to_string(), "more than 4096 WireGuard peers");

    let nets = (0..=u32::try_from(ALLOWED_IPS_MAX).unwrap())
        .map(|number| ipnet::Ipv4Net::new_assert(number.into(), 32).into());
    let update = PeerUpdate { allowed_ips: nets.collect(), ..PeerUpdate::default() };
    let peers = vec![(PublicKey([1; 32]), PeerChange::Set(update))];
    let change = Change { peers, ..Change::default() };
    assert!(write::messages(NUMBER, INDEX, &change).is_err());
}

#[test]
fn only_what_differs_is_changed() {
    let key = PublicKey([1; 32]);
    let mut wanted = Settings {
        private_key: PrivateKey::new(&[8; 32]),
        listen_port: NonZeroU16::new(7789).unwrap(),
        fwmark: 0,
        peers: [(key, PeerSettings::default())].into(),
    };
    let mut device = blank();
    let change = wanted.difference(&device);
    apply(&mut device, &change);
    assert!(wanted.difference(&device).is_empty());
    // The kernel has heard from the peer, and no endpoint is wanted.
    device.peers.get_mut(&key).unwrap().endpoint = Some("192.0.2.9:1".parse().unwrap());
    assert!(wanted.difference(&device).is_empty());

    let update = |wanted: &mut Settings, device: &mut super::Device| {
        let change = wanted.difference(device);
        apply(device, &change);
        match <[_; 1]>::try_from(change.peers).unwrap() {
            [(_, PeerChange::Update(update))] => update,
            [(_, other)] => unreachable!("{other:?}"),
        }
    };
    let peer = |wanted: &mut Settings, nets: &[&str]| {
        let nets = nets.iter().map(|net| net.parse().unwrap()).collect();
        wanted.peers.get_mut(&key).unwrap().allowed_ips = nets;
    };
    peer(&mut wanted, &["fd00::1/128", "fd00::2/128"]);
    let first = update(&mut wanted, &mut device);
    assert_eq!((first.replaces_allowed_ips, first.allowed_ips.len()), (false, 2));
    // Host bits do not count.
    peer(&mut wanted, &["fd00::1/128", "fd00::2/128", "fd00:7::7/64"]);
    let more = update(&mut wanted, &mut device);
    assert_eq!((more.replaces_allowed_ips, more.allowed_ips.len()), (false, 1));
    assert!(wanted.difference(&device).is_empty());
    peer(&mut wanted, &["fd00::2/128"]);
    let fewer = update(&mut wanted, &mut device);
    assert_eq!((fewer.replaces_allowed_ips, fewer.allowed_ips.len()), (true, 1));

    wanted.peers.get_mut(&key).unwrap().preshared_key = PresharedKey::new(&[3; 32]);
    let keyed = update(&mut wanted, &mut device);
    let preshared_key = Some(PresharedKey::new(&[3; 32]));
    assert_eq!(keyed, PeerUpdate { preshared_key, ..PeerUpdate::default() });
    wanted.peers.clear();
    assert_eq!(wanted.difference(&device).peers, [(key, PeerChange::Remove)]);
}

#[test]
fn an_endpoint_is_compared_without_what_the_kernel_leaves_out() {
    let of = |address: &str, flow, scope| -> SocketAddr {
        SocketAddrV6::new(address.parse().unwrap(), 7789, flow, scope).into()
    };
    assert_eq!(canonical(of("fd00::1", 7, 3)), of("fd00::1", 0, 0));
    assert_eq!(canonical(of("fe80::1", 7, 3)), of("fe80::1", 0, 3));
    assert_eq!(canonical(of("::ffff:10.0.0.1", 0, 0)), "10.0.0.1:7789".parse().unwrap());
}
