//! Writing `WG_CMD_SET_DEVICE`.

use std::mem;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::key::KEY_OCTETS;
use super::parts::{
    ALLOWED_ADDRESS, ALLOWED_FAMILY, ALLOWED_PREFIX, DEVICE_FLAGS, DEVICE_FWMARK, DEVICE_INDEX,
    DEVICE_LISTEN_PORT, DEVICE_PEERS, DEVICE_PRIVATE_KEY, ELEMENT, ENDPOINT_V4, ENDPOINT_V6,
    PEER_ALLOWED_IPS, PEER_ENDPOINT, PEER_FLAGS, PEER_KEEPALIVE, PEER_PRESHARED_KEY,
    PEER_PUBLIC_KEY, REMOVE_ME, REPLACE_ALLOWED_IPS, REPLACE_PEERS, SET_DEVICE, UPDATE_ONLY,
};
use super::{
    ALLOWED_IPS_MAX, Change, PEERS_MAX, PeerChange, PeerUpdate, PublicKey, VERSION, canonical,
};
use crate::error::Fault;
use crate::generic;
use crate::wire::{Message, NESTED, family_of};

/// Octets of one message: half of what the length of an attribute can tell.
pub(super) const MESSAGE_MAX: usize = 32 * 1024;
/// Octets of a message that are not peers: headers, index, key, flags, port, mark, and the head of
/// the list.
const DEVICE_OCTETS: usize = 16 + 4 + 8 + 36 + 8 + 8 + 8 + 4;
/// Octets of a peer at most, without its allowed IPs: its head, two keys, flags, endpoint,
/// keepalive, head of the list.
const PEER_OCTETS: usize = 4 + 36 + 36 + 8 + 4 + ENDPOINT_V6 + 8 + 4;
/// Octets of an allowed IP at most: its head, family, address, prefix.
const ALLOWED_OCTETS: usize = 4 + 8 + 20 + 8;

/// A message with secrets, which it overwrites with zeros when it is dropped.
pub(super) struct SecretMessage(Message);

impl SecretMessage {
    pub(super) fn inner(&mut self) -> &mut Message {
        &mut self.0
    }
}

impl Drop for SecretMessage {
    fn drop(&mut self) {
        self.0.wipe();
    }
}

/// As much of a peer's change as one message has.
struct Part<'a> {
    public_key: PublicKey,
    change: &'a PeerChange,
    /// Whether an earlier part has all but the rest of the allowed IPs.
    is_rest: bool,
    allowed_ips: Vec<IpNet>,
}

/// The messages that make this change, each of [`MESSAGE_MAX`] octets at most.
pub(super) fn messages(
    family: u16,
    index: u32,
    change: &Change,
) -> Result<impl Iterator<Item = SecretMessage>, Fault> {
    if change.peers.len() > PEERS_MAX {
        return Err(Fault::TooMany { what: "WireGuard peers", most: PEERS_MAX });
    }
    if change.peers.iter().map(|(_, peer)| allowed_ips(peer).count()).sum::<usize>()
        > ALLOWED_IPS_MAX
    {
        return Err(Fault::TooMany { what: "allowed IPs", most: ALLOWED_IPS_MAX });
    }
    Ok(parts(change).into_iter().enumerate().map(move |(position, parts)| {
        // Flags and settings of the device in the first message only: another one would remove the
        // peers that the first has added.
        message(family, index, (position == 0).then_some(change), &parts)
    }))
}

fn allowed_ips(change: &PeerChange) -> impl Iterator<Item = IpNet> {
    let update = match change {
        PeerChange::Set(update) | PeerChange::Update(update) => Some(update),
        PeerChange::Remove => None,
    };
    update.into_iter().flat_map(|update| update.allowed_ips.iter().copied())
}

/// The peers of each message. There is at least one message, which has the settings of the device.
fn parts(change: &Change) -> Vec<Vec<Part<'_>>> {
    const ROOM: usize = MESSAGE_MAX - DEVICE_OCTETS;

    let (mut messages, mut last, mut used) = (Vec::new(), Vec::new(), 0);
    for (public_key, change) in &change.peers {
        let mut left: Vec<IpNet> = allowed_ips(change).collect();
        let mut is_rest = false;
        while !is_rest || !left.is_empty() {
            let needed = PEER_OCTETS + ALLOWED_OCTETS * left.len().min(1);
            if used + needed > ROOM {
                messages.push(mem::take(&mut last));
                used = 0;
            }
            let fitting = left.len().min((ROOM - used - PEER_OCTETS) / ALLOWED_OCTETS);
            used += PEER_OCTETS + ALLOWED_OCTETS * fitting;
            let rest = left.split_off(fitting);
            last.push(Part { public_key: *public_key, change, is_rest, allowed_ips: left });
            (left, is_rest) = (rest, true);
        }
    }
    messages.push(last);
    messages
}

fn message(
    family: u16,
    index: u32,
    settings: Option<&Change>,
    parts: &[Part<'_>],
) -> SecretMessage {
    let header = generic::header(SET_DEVICE, VERSION);
    let mut message = SecretMessage(Message::with_capacity(family, 0, &header, MESSAGE_MAX));
    let body = message.inner();
    body.u32(DEVICE_INDEX, index);
    if let Some(change) = settings {
        if change.replaces_peers {
            body.u32(DEVICE_FLAGS, REPLACE_PEERS);
        }
        if let Some(key) = &change.private_key {
            body.bytes(DEVICE_PRIVATE_KEY, key.octets());
        }
        if let Some(port) = change.listen_port {
            body.u16(DEVICE_LISTEN_PORT, port);
        }
        if let Some(mark) = change.fwmark {
            body.u32(DEVICE_FWMARK, mark);
        }
    }
    if !parts.is_empty() {
        body.nest(DEVICE_PEERS | NESTED, |list| {
            for part in parts {
                list.nest(ELEMENT | NESTED, |peer| write_peer(peer, part));
            }
        });
    }
    message
}

fn write_peer(peer: &mut Message, part: &Part<'_>) {
    peer.bytes(PEER_PUBLIC_KEY, &part.public_key.0);
    let (mut flags, update) = match part.change {
        PeerChange::Remove => (REMOVE_ME, None),
        PeerChange::Update(update) => (UPDATE_ONLY, Some(update)),
        PeerChange::Set(update) => (0, Some(update)),
    };
    let replaces = update.is_some_and(|update| update.replaces_allowed_ips);
    if replaces && !part.is_rest {
        flags |= REPLACE_ALLOWED_IPS;
    }
    if flags != 0 {
        peer.u32(PEER_FLAGS, flags);
    }
    if let Some(update) = update.filter(|_| !part.is_rest) {
        write_update(peer, update);
    }
    if !part.allowed_ips.is_empty() {
        peer.nest(PEER_ALLOWED_IPS | NESTED, |list| {
            for net in &part.allowed_ips {
                list.nest(ELEMENT | NESTED, |allowed| write_allowed(allowed, net.trunc()));
            }
        });
    }
}

fn write_update(peer: &mut Message, update: &PeerUpdate) {
    match &update.preshared_key {
        Some(Some(key)) => peer.bytes(PEER_PRESHARED_KEY, key.octets()),
        Some(None) => peer.bytes(PEER_PRESHARED_KEY, &[0; KEY_OCTETS]),
        None => {}
    }
    if let Some(endpoint) = update.endpoint {
        write_endpoint(peer, canonical(endpoint));
    }
    if let Some(keepalive) = update.keepalive {
        peer.u16(PEER_KEEPALIVE, keepalive.map_or(0, u16::from));
    }
}

/// A `struct sockaddr_in` or `struct sockaddr_in6`.
pub(super) fn write_endpoint(peer: &mut Message, endpoint: SocketAddr) {
    let family = u16::from(family_of(endpoint.ip())).to_ne_bytes();
    let port = endpoint.port().to_be_bytes();
    match endpoint {
        SocketAddr::V4(endpoint) => {
            let mut address = [0; ENDPOINT_V4];
            address[..2].copy_from_slice(&family);
            address[2..4].copy_from_slice(&port);
            address[4..8].copy_from_slice(&endpoint.ip().octets());
            peer.bytes(PEER_ENDPOINT, &address);
        }
        SocketAddr::V6(endpoint) => {
            let mut address = [0; ENDPOINT_V6];
            address[..2].copy_from_slice(&family);
            address[2..4].copy_from_slice(&port);
            address[8..24].copy_from_slice(&endpoint.ip().octets());
            address[24..28].copy_from_slice(&endpoint.scope_id().to_ne_bytes());
            peer.bytes(PEER_ENDPOINT, &address);
        }
    }
}

pub(super) fn write_allowed(allowed: &mut Message, net: IpNet) {
    let address: IpAddr = net.addr();
    allowed.u16(ALLOWED_FAMILY, u16::from(family_of(address)));
    allowed.ip(ALLOWED_ADDRESS, address);
    allowed.u8(ALLOWED_PREFIX, net.prefix_len());
}
