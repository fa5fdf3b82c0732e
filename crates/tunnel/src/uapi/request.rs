//! Requests: reading them as a server, writing them as a client.

use std::fmt::Write;
use std::num::NonZeroU16;

use nix::errno::Errno;
use shoutd_netlink::wireguard::{
    Change, KEY_OCTETS, PeerChange, PeerUpdate, PresharedKey, PrivateKey, PublicKey,
};
use zeroize::Zeroizing;

use super::{REQUEST_MAX, Refusal, hex, number, pairs};

/// A request.
#[derive(Debug, Clone)]
pub(crate) enum Request {
    /// Read the device.
    Get,
    /// Change the device.
    Set(Change),
}

/// Stands for no preshared key.
pub(super) const NO_KEY: [u8; KEY_OCTETS] = [0; KEY_OCTETS];

/// The request to read a device.
pub(crate) const GET: &str = "get=1\n\n";

impl Request {
    /// Parses a request, whose empty line may be missing.
    pub(crate) fn parse(octets: &[u8]) -> Result<Self, Refusal> {
        let text =
            std::str::from_utf8(octets).map_err(|_| Refusal::new("request", "it is not text"))?;
        let mut pairs = pairs(text);
        match pairs.next() {
            Some(Ok(("get", "1"))) => match pairs.next() {
                None => Ok(Self::Get),
                Some(_) => Err(Refusal::new("get", "nothing may follow it")),
            },
            Some(Ok(("set", "1"))) => parse_set(pairs).map(Self::Set),
            _ => Err(Refusal::new("request", "it is neither get=1 nor set=1")),
        }
    }
}

/// What is said of a peer.
struct Peer {
    public_key: PublicKey,
    is_removed: bool,
    is_only_updated: bool,
    update: PeerUpdate,
}

impl Peer {
    fn finish(self) -> (PublicKey, PeerChange) {
        let change = match (self.is_removed, self.is_only_updated) {
            (true, _) => PeerChange::Remove,
            (false, true) => PeerChange::Update(self.update),
            (false, false) => PeerChange::Set(self.update),
        };
        (self.public_key, change)
    }
}

fn parse_set<'a>(
    pairs: impl Iterator<Item = Result<(&'a str, &'a str), Refusal>>,
) -> Result<Change, Refusal> {
    let (mut change, mut last) = (Change::default(), None);
    for pair in pairs {
        match (pair?, &mut last) {
            (("public_key", value), _) => {
                let public_key = public_key(value)?;
                let update = PeerUpdate::default();
                let peer = Peer { public_key, is_removed: false, is_only_updated: false, update };
                change.peers.extend(last.replace(peer).map(Peer::finish));
            }
            ((key, value), Some(peer)) => set_of_peer(peer, key, value)?,
            ((key, value), None) => set_of_device(&mut change, key, value)?,
        }
    }
    change.peers.extend(last.map(Peer::finish));
    Ok(change)
}

fn set_of_device(change: &mut Change, key: &str, value: &str) -> Result<(), Refusal> {
    match key {
        "private_key" => {
            let octets = hex::parse(value).ok_or(Refusal::new("private_key", "not a key"))?;
            if octets.iter().fold(0, |all, octet| all | octet) == 0 {
                return Err(Refusal::of(Errno::EOPNOTSUPP, "private_key", "it cannot be removed"));
            }
            change.private_key = Some(PrivateKey::new(&octets));
        }
        "listen_port" => change.listen_port = Some(number("listen_port", value)?),
        "replace_peers" => change.replaces_peers = flag("replace_peers", value)?,
        "fwmark" if value.is_empty() => change.fwmark = Some(0),
        "fwmark" => change.fwmark = Some(number("fwmark", value)?),
        _ => return Err(Refusal::new("set", "an unknown key")),
    }
    Ok(())
}

fn set_of_peer(peer: &mut Peer, key: &str, value: &str) -> Result<(), Refusal> {
    let update = &mut peer.update;
    match key {
        "remove" => peer.is_removed = flag("remove", value)?,
        "update_only" => peer.is_only_updated = flag("update_only", value)?,
        "preshared_key" => {
            let octets = hex::parse(value).ok_or(Refusal::new("preshared_key", "not a key"))?;
            update.preshared_key = Some(PresharedKey::new(&octets));
        }
        "endpoint" => {
            let refusal = Refusal::new("endpoint", "not an address and a port");
            update.endpoint = Some(value.parse().map_err(|_| refusal)?);
        }
        "persistent_keepalive_interval" => {
            let seconds = number("persistent_keepalive_interval", value)?;
            update.keepalive = Some(NonZeroU16::new(seconds));
        }
        "replace_allowed_ips" => update.replaces_allowed_ips = flag("replace_allowed_ips", value)?,
        "allowed_ip" => {
            let refusal = Refusal::new("allowed_ip", "not a prefix");
            let net: ipnet::IpNet = value.parse().map_err(|_| refusal)?;
            update.allowed_ips.insert(net.trunc());
        }
        "protocol_version" if value == "1" => {}
        "protocol_version" => return Err(Refusal::new("protocol_version", "only 1 is known")),
        _ => return Err(Refusal::new("public_key", "an unknown key of a peer")),
    }
    Ok(())
}

fn flag(key: &'static str, value: &str) -> Result<bool, Refusal> {
    if value == "true" { Ok(true) } else { Err(Refusal::new(key, "it can only be true")) }
}

pub(super) fn public_key(value: &str) -> Result<PublicKey, Refusal> {
    let octets = hex::parse(value).ok_or(Refusal::new("public_key", "not a key"))?;
    Ok(PublicKey(*octets))
}

/// Writes a change as requests of at most [`REQUEST_MAX`] octets each, which must be sent in this
/// order. Fails if one peer alone has too many allowed IPs for a request.
pub(crate) fn write_set(change: &Change) -> Result<Vec<Zeroizing<String>>, Refusal> {
    let mut requests = Vec::new();
    let mut request = begin();
    if let Some(private_key) = &change.private_key {
        key(&mut request, "private_key=", private_key.octets());
    }
    if let Some(port) = change.listen_port {
        line(&mut request, format_args!("listen_port={port}"));
    }
    if let Some(fwmark) = change.fwmark {
        line(&mut request, format_args!("fwmark={fwmark}"));
    }
    if change.replaces_peers {
        request.push_str("replace_peers=true\n");
    }
    for (public_key, peer) in &change.peers {
        let text = write_peer(public_key, peer);
        if request.len() + text.len() >= REQUEST_MAX {
            request.push('\n');
            requests.push(std::mem::replace(&mut request, begin()));
        }
        if request.len() + text.len() >= REQUEST_MAX {
            return Err(Refusal::of(Errno::E2BIG, "allowed_ip", "one peer has too many"));
        }
        request.push_str(&text);
    }
    request.push('\n');
    requests.push(request);
    Ok(requests)
}

/// The beginning of a request, with space for the rest: a text that grows would leave copies of
/// secrets behind.
fn begin() -> Zeroizing<String> {
    let mut request = Zeroizing::new(String::with_capacity(REQUEST_MAX));
    request.push_str("set=1\n");
    request
}

fn write_peer(public_key: &PublicKey, change: &PeerChange) -> Zeroizing<String> {
    let (update, flag) = match change {
        PeerChange::Remove => (None, "remove=true\n"),
        PeerChange::Update(update) => (Some(update), "update_only=true\n"),
        PeerChange::Set(update) => (Some(update), ""),
    };
    let allowed_ips = update.map_or(0, |update| update.allowed_ips.len());
    let mut text = Zeroizing::new(String::with_capacity(512 + allowed_ips * 64));
    key(&mut text, "public_key=", &public_key.0);
    text.push_str(flag);
    let Some(update) = update else { return text };
    if let Some(preshared_key) = &update.preshared_key {
        let octets = preshared_key.as_ref().map_or(&NO_KEY, PresharedKey::octets);
        key(&mut text, "preshared_key=", octets);
    }
    if let Some(endpoint) = update.endpoint {
        line(&mut text, format_args!("endpoint={endpoint}"));
    }
    if let Some(keepalive) = update.keepalive {
        let seconds = keepalive.map_or(0, NonZeroU16::get);
        line(&mut text, format_args!("persistent_keepalive_interval={seconds}"));
    }
    if update.replaces_allowed_ips {
        text.push_str("replace_allowed_ips=true\n");
    }
    for net in &update.allowed_ips {
        line(&mut text, format_args!("allowed_ip={net}"));
    }
    text
}

/// Appends a line with a key.
pub(super) fn key(text: &mut String, name: &str, octets: &[u8; KEY_OCTETS]) {
    text.push_str(name);
    hex::write(octets, text);
    text.push('\n');
}

/// Appends a line. Writing to a text never fails.
pub(super) fn line(text: &mut String, content: std::fmt::Arguments<'_>) {
    let _ = writeln!(text, "{content}");
}
