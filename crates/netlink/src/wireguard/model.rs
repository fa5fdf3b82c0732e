//! The kernel's part, for tests: it applies `WG_CMD_SET_DEVICE` and answers `WG_CMD_GET_DEVICE` as
//! `drivers/net/wireguard/netlink.c` does.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::num::NonZeroU16;

use ipnet::IpNet;
use proptest::prelude::*;

use super::parts::{
    DEVICE_FLAGS, DEVICE_FWMARK, DEVICE_INDEX, DEVICE_LISTEN_PORT, DEVICE_NAME, DEVICE_PEERS,
    DEVICE_PRIVATE_KEY, DEVICE_PUBLIC_KEY, ELEMENT, GET_DEVICE, PEER_ALLOWED_IPS, PEER_FLAGS,
    PEER_KEEPALIVE, PEER_LAST_HANDSHAKE, PEER_PRESHARED_KEY, PEER_PUBLIC_KEY, PEER_RECEIVED,
    PEER_SENT, REMOVE_ME, REPLACE_ALLOWED_IPS, REPLACE_PEERS, UPDATE_ONLY,
};
use super::write::{self, MESSAGE_MAX, write_allowed, write_endpoint};
use super::{
    Change, Device, Dump, Peer, PeerChange, PeerSettings, PeerUpdate, PresharedKey, PrivateKey,
    PublicKey, Settings, VERSION,
};
use crate::generic;
use crate::wire::{Attribute, Attributes, Frames, Message, NESTED};

pub(super) const NUMBER: u16 = 33;
pub(super) const INDEX: u32 = 7;

fn octets(change: &Change) -> Vec<Vec<u8>> {
    let messages = write::messages(NUMBER, INDEX, change).unwrap();
    messages.map(|mut message| message.inner().finish_in_place(5, 1).to_vec()).collect()
}

/// Writes this change, and applies the messages to the device.
pub(super) fn apply(device: &mut Device, change: &Change) -> usize {
    let messages = octets(change);
    for message in &messages {
        assert!(message.len() <= MESSAGE_MAX, "{} octets", message.len());
        let frames: Vec<_> = Frames(message).collect();
        assert_eq!((frames.len(), frames[0].kind, frames[0].octet(0)), (1, NUMBER, 1));
        set_device(device, frames[0].attributes(generic::HEADER));
    }
    messages.len()
}

fn set_device(device: &mut Device, attributes: Attributes<'_>) {
    assert_eq!(attributes.find(DEVICE_INDEX).and_then(Attribute::u32), Some(INDEX));
    if attributes.find(DEVICE_FLAGS).and_then(Attribute::u32) == Some(REPLACE_PEERS) {
        device.peers.clear();
    }
    if let Some(key) = attributes.find(DEVICE_PRIVATE_KEY).and_then(Attribute::array) {
        device.private_key = Some(PrivateKey::new(&key));
        device.public_key = Some(PublicKey(key));
    }
    if let Some(port) = attributes.find(DEVICE_LISTEN_PORT).and_then(Attribute::u16) {
        device.listen_port = port;
    }
    if let Some(mark) = attributes.find(DEVICE_FWMARK).and_then(Attribute::u32) {
        device.fwmark = mark;
    }
    let peers = attributes.find(DEVICE_PEERS).map(Attribute::nested).unwrap_or(Attributes(&[]));
    for peer in peers {
        set_peer(device, peer.nested());
    }
}

fn set_peer(device: &mut Device, attributes: Attributes<'_>) {
    let key = PublicKey(attributes.find(PEER_PUBLIC_KEY).unwrap().array().unwrap());
    let flags = attributes.find(PEER_FLAGS).and_then(Attribute::u32).unwrap_or_default();
    if flags & REMOVE_ME != 0 {
        device.peers.remove(&key);
    } else if flags & UPDATE_ONLY == 0 || device.peers.contains_key(&key) {
        // What a peer has been given is read as the kernel's own answer is.
        let mut given = Message::new(NUMBER, 0, &generic::header(GET_DEVICE, VERSION));
        write_head(&mut given, device);
        given.nest(DEVICE_PEERS, |list| {
            list.nest(ELEMENT, |peer| {
                attributes.for_each(|each| peer.bytes(each.kind, each.value));
            });
        });
        let mut dump = Dump::default();
        Frames(&given.finish(0, 1)).for_each(|frame| dump.add(&frame));
        let given = dump.finish().unwrap().peers.remove(&key).unwrap();
        for peer in device.peers.values_mut() {
            peer.allowed_ips.retain(|net| !given.allowed_ips.contains(net));
        }
        let peer = device.peers.entry(key).or_default();
        if attributes.find(PEER_PRESHARED_KEY).is_some() {
            peer.preshared_key = given.preshared_key;
        }
        if attributes.find(PEER_KEEPALIVE).is_some() {
            peer.keepalive = given.keepalive;
        }
        peer.endpoint = given.endpoint.or(peer.endpoint);
        if flags & REPLACE_ALLOWED_IPS != 0 {
            peer.allowed_ips.clear();
        }
        peer.allowed_ips.extend(given.allowed_ips);
    }
}

fn write_head(message: &mut Message, device: &Device) {
    message.u16(DEVICE_LISTEN_PORT, device.listen_port);
    message.u32(DEVICE_FWMARK, device.fwmark);
    message.u32(DEVICE_INDEX, device.index);
    message.text(DEVICE_NAME, &device.name);
    if let (Some(private), Some(public)) = (&device.private_key, device.public_key) {
        message.bytes(DEVICE_PRIVATE_KEY, private.octets());
        message.bytes(DEVICE_PUBLIC_KEY, &public.0);
    }
}

/// The messages of a dump, with at most `most` peers in each, and at most `most` of the allowed IPs
/// of each.
pub(super) fn dump(device: &Device, most: usize) -> Vec<Vec<u8>> {
    let peers = device.peers.iter().flat_map(|(key, peer)| {
        let nets: Vec<IpNet> = peer.allowed_ips.iter().copied().collect();
        let mut parts: Vec<_> = nets.chunks(most).map(<[IpNet]>::to_vec).collect();
        if parts.is_empty() {
            parts.push(Vec::new());
        }
        parts.into_iter().enumerate().map(move |(at, nets)| (key, (at == 0).then_some(peer), nets))
    });
    let peers: Vec<_> = peers.collect();
    let mut messages = Vec::new();
    let mut lists: Vec<_> = peers.chunks(most).collect();
    if lists.is_empty() {
        lists.push(&[]);
    }
    for (position, list) in lists.into_iter().enumerate() {
        let mut message = Message::new(NUMBER, 0, &generic::header(GET_DEVICE, VERSION));
        if position == 0 {
            write_head(&mut message, device);
        }
        message.nest(DEVICE_PEERS | NESTED, |peers| {
            for (key, peer, nets) in list {
                peers.nest(ELEMENT | NESTED, |message| {
                    write_peer(message, key, *peer, nets);
                });
            }
        });
        messages.push(message.finish(2, 1));
    }
    messages
}

fn write_peer(message: &mut Message, key: &PublicKey, peer: Option<&Peer>, nets: &[IpNet]) {
    message.bytes(PEER_PUBLIC_KEY, &key.0);
    if let Some(peer) = peer {
        let none = [0; 32];
        let preshared = peer.preshared_key.as_ref().map_or(&none, PresharedKey::octets);
        message.bytes(PEER_PRESHARED_KEY, preshared);
        message.bytes(PEER_LAST_HANDSHAKE, &[0; 16]);
        message.u16(PEER_KEEPALIVE, peer.keepalive.map_or(0, u16::from));
        message.bytes(PEER_SENT, &peer.sent_octets.to_ne_bytes());
        message.bytes(PEER_RECEIVED, &peer.received_octets.to_ne_bytes());
        if let Some(endpoint) = peer.endpoint {
            write_endpoint(message, endpoint);
        }
    }
    message.nest(PEER_ALLOWED_IPS | NESTED, |list| {
        nets.iter().for_each(|net| list.nest(ELEMENT | NESTED, |item| write_allowed(item, *net)));
    });
}

/// Reads a device from the messages of a dump.
pub(super) fn read(messages: &[Vec<u8>]) -> Device {
    let mut dump = Dump::default();
    messages.iter().flat_map(|message| Frames(message)).for_each(|frame| dump.add(&frame));
    dump.finish().unwrap()
}

/// A device without settings.
pub(super) fn blank() -> Device {
    Device {
        index: INDEX,
        name: "shoutwg".to_owned(),
        private_key: None,
        public_key: None,
        listen_port: 0,
        fwmark: 0,
        peers: [].into(),
    }
}

fn net(number: u16, is_ipv6: bool) -> IpNet {
    let [high, low] = number.to_be_bytes();
    let text =
        if is_ipv6 { format!("fd00::{number:x}/128") } else { format!("10.0.{high}.{low}/32") };
    text.parse().unwrap()
}

fn peer() -> impl Strategy<Value = PeerSettings> {
    let endpoint = prop_oneof![
        Just(None),
        (1..4_u8, 1..3_u16).prop_map(|(host, port)| Some(([192, 0, 2, host], port).into())),
        (1..4_u16, 1..3_u16)
            .prop_map(|(host, port)| { Some(([0xfd00, 0, 0, 0, 0, 0, 0, host], port).into()) }),
    ];
    (0..3_u8, endpoint, 0..3_u16).prop_map(
        |(preshared, endpoint, keepalive): (u8, Option<SocketAddr>, u16)| PeerSettings {
            preshared_key: PresharedKey::new(&[preshared; 32]),
            endpoint,
            keepalive: NonZeroU16::new(keepalive),
            allowed_ips: BTreeSet::new(),
        },
    )
}

/// Settings with some of ten peers, each of some of 40 allowed IPs.
fn settings() -> impl Strategy<Value = Settings> {
    let peers = proptest::collection::btree_map(0..10_u8, peer(), 0..10);
    let owners = proptest::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 40);
    (0..3_u8, 1..4_u16, 0..2_u32, peers, owners).prop_map(|(private, port, mark, peers, owners)| {
        let mut settings = Settings {
            private_key: PrivateKey::new(&[private; 32]),
            listen_port: NonZeroU16::new(port).unwrap(),
            fwmark: mark,
            peers: peers.into_iter().map(|(key, peer)| (PublicKey([key; 32]), peer)).collect(),
        };
        let keys: Vec<PublicKey> = settings.peers.keys().copied().collect();
        for (number, (owner, is_used)) in (0..).zip(owners) {
            if let Some(key) = keys.get(owner.index(keys.len().max(1))).filter(|_| is_used) {
                let nets = &mut settings.peers.get_mut(key).unwrap().allowed_ips;
                nets.insert(net(number, number % 2 == 0));
            }
        }
        settings
    })
}

fn is_as_wanted(device: &Device, wanted: &Settings) -> bool {
    device.private_key.as_ref() == Some(&wanted.private_key)
        && (device.listen_port, device.fwmark) == (wanted.listen_port.into(), wanted.fwmark)
        && device.peers.keys().eq(wanted.peers.keys())
        && device.peers.values().zip(wanted.peers.values()).all(|(peer, wanted)| {
            peer.preshared_key == wanted.preshared_key
                && (wanted.endpoint.is_none() || peer.endpoint == wanted.endpoint)
                && peer.keepalive == wanted.keepalive
                && peer.allowed_ips == wanted.allowed_ips
        })
}

proptest! {
    #[test]
    fn a_device_becomes_as_wanted_and_then_stays(
        before in settings(),
        wanted in settings(),
        most in 1..20_usize,
    ) {
        let mut device = blank();
        let change = before.difference(&device);
        apply(&mut device, &change);
        prop_assert!(is_as_wanted(&device, &before));
        let present = read(&dump(&device, most));
        prop_assert_eq!(&present, &device);
        let change = wanted.difference(&present);
        apply(&mut device, &change);
        prop_assert!(is_as_wanted(&device, &wanted), "{change:?}");
        prop_assert!(wanted.difference(&device).is_empty());
        let removals = change.peers.iter().map(|(_, change)| *change == PeerChange::Remove);
        prop_assert!(removals.is_sorted(), "additions come before removals");
    }
}

#[test]
fn thousands_of_peers_fit_and_so_do_thousands_of_allowed_ips_of_one() {
    let update = |nets: std::ops::Range<u16>| PeerUpdate {
        preshared_key: Some(PresharedKey::new(&[9; 32])),
        endpoint: Some("[2001:db8::1]:7789".parse().unwrap()),
        keepalive: Some(NonZeroU16::new(25)),
        replaces_allowed_ips: true,
        allowed_ips: nets.map(|number| net(number, true)).collect(),
    };
    let peers = (0..4096_u16).map(|number| {
        let mut key = [0; 32];
        key[..2].copy_from_slice(&number.to_be_bytes());
        let nets = if number == 2000 { 10_000..20_000 } else { number..number + 1 };
        (PublicKey(key), PeerChange::Set(update(nets)))
    });
    let change = Change { replaces_peers: true, peers: peers.collect(), ..Change::default() };
    let mut device = blank();
    device.peers.insert(PublicKey([5; 32]), Peer::default());
    let messages = apply(&mut device, &change);
    assert_eq!(device.peers.len(), 4096);
    let counts: BTreeSet<usize> =
        device.peers.values().map(|peer| peer.allowed_ips.len()).collect();
    assert_eq!(counts, [1, 10_000].into());
    assert!((30..50).contains(&messages), "{messages}");
    assert_eq!(read(&dump(&device, 30)), device);
}
