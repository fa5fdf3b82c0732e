//! Reading the answer to `WG_CMD_GET_DEVICE`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::num::NonZeroU16;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ipnet::IpNet;
use nix::libc;

use super::key::KEY_OCTETS;
use super::parts::{
    ALLOWED_ADDRESS, ALLOWED_FAMILY, ALLOWED_PREFIX, DEVICE_FWMARK, DEVICE_INDEX,
    DEVICE_LISTEN_PORT, DEVICE_NAME, DEVICE_PEERS, DEVICE_PRIVATE_KEY, DEVICE_PUBLIC_KEY,
    ENDPOINT_V4, ENDPOINT_V6, GET_DEVICE, PEER_ALLOWED_IPS, PEER_ENDPOINT, PEER_KEEPALIVE,
    PEER_LAST_HANDSHAKE, PEER_PRESHARED_KEY, PEER_PUBLIC_KEY, PEER_RECEIVED, PEER_SENT,
};
use super::{
    ALLOWED_IPS_MAX, Device, PEERS_MAX, Peer, PresharedKey, PrivateKey, PublicKey, VERSION,
    canonical,
};
use crate::error::Fault;
use crate::generic;
use crate::wire::{Attribute, Attributes, Frame, Message, read_array};

/// Octets of `struct __kernel_timespec`.
const TIME_OCTETS: usize = 16;

/// Asks for the device with this index.
pub(super) fn request(family: u16, index: u32) -> Message {
    let mut message = Message::new(family, 0, &generic::header(GET_DEVICE, VERSION));
    message.u32(DEVICE_INDEX, index);
    message
}

/// What was read of a dump. The peers of a device may be in several messages, and so may the
/// allowed IPs of a peer.
#[derive(Debug, Default)]
pub(crate) struct Dump {
    device: Option<Device>,
    allowed_ips: usize,
    /// Why the rest of the dump is not read.
    fault: Option<Fault>,
}

impl Dump {
    /// Adds a message. The first one of a dump has the device's settings (`wg_get_device_dump`): a
    /// repeated dump starts again.
    pub(crate) fn add(&mut self, frame: &Frame<'_>) {
        if frame.octet(0) != GET_DEVICE {
            return;
        }
        let attributes = frame.attributes(generic::HEADER);
        if attributes.find(DEVICE_INDEX).is_some() {
            *self = Self::default();
        }
        if self.fault.is_none() {
            self.fault = self.try_add(attributes).err();
        }
    }

    /// The device.
    pub(crate) fn finish(self) -> Result<Device, Fault> {
        match self.fault {
            Some(fault) => Err(fault),
            None => self.device.ok_or(Fault::Malformed("no WireGuard device")),
        }
    }

    fn try_add(&mut self, attributes: Attributes<'_>) -> Result<(), Fault> {
        let device = match &mut self.device {
            Some(device) => device,
            none => none.insert(parse_device(attributes)?),
        };
        for peer in elements(attributes, DEVICE_PEERS)? {
            add_peer(&mut device.peers, peer.nested(), &mut self.allowed_ips)?;
        }
        Ok(())
    }
}

fn parse_device(attributes: Attributes<'_>) -> Result<Device, Fault> {
    let private_key = optional(attributes, DEVICE_PRIVATE_KEY, key, "a private key")?;
    let public_key = optional(attributes, DEVICE_PUBLIC_KEY, key, "a public key")?;
    Ok(Device {
        index: required(attributes, DEVICE_INDEX, Attribute::u32, "the index of a device")?,
        name: required(attributes, DEVICE_NAME, |name| Some(name.text()), "the name of a device")?,
        private_key: private_key.map(PrivateKey::new),
        public_key: public_key.map(|key| PublicKey(*key)),
        listen_port: required(attributes, DEVICE_LISTEN_PORT, Attribute::u16, "a port")?,
        fwmark: required(attributes, DEVICE_FWMARK, Attribute::u32, "a firewall mark")?,
        peers: BTreeMap::new(),
    })
}

/// Adds a peer, or the rest of its allowed IPs if it is there. Such a rest has its public key and
/// nothing else.
fn add_peer(
    peers: &mut BTreeMap<PublicKey, Peer>,
    attributes: Attributes<'_>,
    total: &mut usize,
) -> Result<(), Fault> {
    let public_key = required(attributes, PEER_PUBLIC_KEY, key, "the public key of a peer")?;
    let public_key = PublicKey(*public_key);
    if !peers.contains_key(&public_key) {
        if peers.len() >= PEERS_MAX {
            return Err(Fault::TooMany { what: "WireGuard peers", most: PEERS_MAX });
        }
        peers.insert(public_key, parse_peer(attributes)?);
    }
    for element in elements(attributes, PEER_ALLOWED_IPS)? {
        *total += 1;
        if *total > ALLOWED_IPS_MAX {
            return Err(Fault::TooMany { what: "allowed IPs", most: ALLOWED_IPS_MAX });
        }
        let net = allowed(element.nested()).ok_or(Fault::Malformed("an allowed IP"))?;
        if let Some(peer) = peers.get_mut(&public_key) {
            peer.allowed_ips.insert(net);
        }
    }
    Ok(())
}

fn parse_peer(attributes: Attributes<'_>) -> Result<Peer, Fault> {
    let number = |kind, what| optional(attributes, kind, Attribute::u64, what);
    let keepalive = optional(attributes, PEER_KEEPALIVE, Attribute::u16, "a keepalive interval")?;
    let handshake = optional(attributes, PEER_LAST_HANDSHAKE, time, "the time of a handshake")?;
    let preshared_key = optional(attributes, PEER_PRESHARED_KEY, key, "a preshared key")?;
    Ok(Peer {
        preshared_key: preshared_key.and_then(PresharedKey::new),
        endpoint: optional(attributes, PEER_ENDPOINT, endpoint, "an endpoint")?,
        keepalive: keepalive.and_then(NonZeroU16::new),
        last_handshake: handshake.flatten(),
        received_octets: number(PEER_RECEIVED, "a counter")?.unwrap_or_default(),
        sent_octets: number(PEER_SENT, "a counter")?.unwrap_or_default(),
        allowed_ips: [].into(),
    })
}

/// The elements of a list, which need not be there. A part that is missing at the end must not pass
/// for a shorter list.
fn elements(attributes: Attributes<'_>, kind: u16) -> Result<Attributes<'_>, Fault> {
    let list = attributes.find(kind).map_or(Attributes(&[]), Attribute::nested);
    if attributes.are_whole() && list.are_whole() {
        Ok(list)
    } else {
        Err(Fault::Malformed("a truncated list"))
    }
}

/// The value of an attribute that need not be there.
fn optional<'a, T>(
    attributes: Attributes<'a>,
    kind: u16,
    parse: impl Fn(Attribute<'a>) -> Option<T>,
    what: &'static str,
) -> Result<Option<T>, Fault> {
    let found = attributes.find(kind);
    found.map(|attribute| parse(attribute).ok_or(Fault::Malformed(what))).transpose()
}

/// The value of an attribute that must be there.
fn required<'a, T>(
    attributes: Attributes<'a>,
    kind: u16,
    parse: impl Fn(Attribute<'a>) -> Option<T>,
    what: &'static str,
) -> Result<T, Fault> {
    optional(attributes, kind, parse, what)?.ok_or(Fault::Malformed(what))
}

/// The key in an attribute, where it is: a copy would have to be overwritten.
fn key(attribute: Attribute<'_>) -> Option<&[u8; KEY_OCTETS]> {
    attribute.value.try_into().ok()
}

/// The time in a `struct __kernel_timespec`; `Some(None)` if it is zero.
fn time(attribute: Attribute<'_>) -> Option<Option<SystemTime>> {
    let value: [u8; TIME_OCTETS] = attribute.array()?;
    let seconds = u64::try_from(i64::from_ne_bytes(read_array(&value, 0)?)).ok()?;
    let nanoseconds = u32::try_from(i64::from_ne_bytes(read_array(&value, 8)?)).ok()?;
    if nanoseconds >= 1_000_000_000 {
        return None;
    }
    let since = Duration::new(seconds, nanoseconds);
    if since.is_zero() { Some(None) } else { UNIX_EPOCH.checked_add(since).map(Some) }
}

/// The address in a `struct sockaddr_in` or `struct sockaddr_in6`.
fn endpoint(attribute: Attribute<'_>) -> Option<SocketAddr> {
    let value = attribute.value;
    let family = i32::from(u16::from_ne_bytes(read_array(value, 0)?));
    let port = u16::from_be_bytes(read_array(value, 2)?);
    match (family, value.len()) {
        (libc::AF_INET, ENDPOINT_V4) => {
            Some((Ipv4Addr::from(read_array::<4>(value, 4)?), port).into())
        }
        (libc::AF_INET6, ENDPOINT_V6) => {
            let address = Ipv6Addr::from(read_array::<16>(value, 8)?);
            let scope = u32::from_ne_bytes(read_array(value, 24)?);
            Some(canonical(SocketAddrV6::new(address, port, 0, scope).into()))
        }
        _ => None,
    }
}

fn allowed(attributes: Attributes<'_>) -> Option<IpNet> {
    let family = i32::from(attributes.find(ALLOWED_FAMILY)?.u16()?);
    let address = attributes.find(ALLOWED_ADDRESS)?.ip()?;
    match (family, address) {
        (libc::AF_INET, IpAddr::V4(_)) | (libc::AF_INET6, IpAddr::V6(_)) => {}
        _ => return None,
    }
    IpNet::new(address, attributes.find(ALLOWED_PREFIX)?.u8()?).ok().map(|net| net.trunc())
}
