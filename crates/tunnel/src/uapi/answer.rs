//! Answers: writing them as a server, reading them as a client.

use std::num::NonZeroU16;
use std::time::{Duration, UNIX_EPOCH};

use nix::errno::Errno;
use shoutd_netlink::wireguard::{
    ALLOWED_IPS_MAX, Device, PEERS_MAX, Peer, PresharedKey, PrivateKey, PublicKey,
};
use zeroize::Zeroizing;

use super::request::{NO_KEY, key, line, public_key};
use super::{Refusal, hex, number, pairs};

/// A device of which nothing is known: the protocol has neither its name nor its index.
pub(crate) fn blank() -> Device {
    Device {
        index: 0,
        name: String::new(),
        private_key: None,
        public_key: None,
        listen_port: 0,
        fwmark: 0,
        peers: std::collections::BTreeMap::new(),
    }
}

/// Writes the answer to `get=1`.
pub(crate) fn write_get(device: &Device) -> Zeroizing<String> {
    // A text that grows would leave copies of secrets behind.
    let allowed_ips: usize = device.peers.values().map(|peer| peer.allowed_ips.len()).sum();
    let capacity = 256 + device.peers.len() * 512 + allowed_ips * 64;
    let mut text = Zeroizing::new(String::with_capacity(capacity));
    if let Some(private_key) = &device.private_key {
        key(&mut text, "private_key=", private_key.octets());
    }
    line(&mut text, format_args!("listen_port={}", device.listen_port));
    for (public_key, peer) in &device.peers {
        write_peer(&mut text, public_key, peer);
    }
    text.push_str("errno=0\n\n");
    text
}

fn write_peer(text: &mut String, public_key: &PublicKey, peer: &Peer) {
    key(text, "public_key=", &public_key.0);
    let preshared_key = peer.preshared_key.as_ref().map_or(&NO_KEY, PresharedKey::octets);
    key(text, "preshared_key=", preshared_key);
    text.push_str("protocol_version=1\n");
    if let Some(endpoint) = peer.endpoint {
        line(text, format_args!("endpoint={endpoint}"));
    }
    let since = peer.last_handshake.and_then(|moment| moment.duration_since(UNIX_EPOCH).ok());
    let since = since.unwrap_or_default();
    line(text, format_args!("last_handshake_time_sec={}", since.as_secs()));
    line(text, format_args!("last_handshake_time_nsec={}", since.subsec_nanos()));
    line(text, format_args!("tx_bytes={}", peer.sent_octets));
    line(text, format_args!("rx_bytes={}", peer.received_octets));
    let keepalive = peer.keepalive.map_or(0, NonZeroU16::get);
    line(text, format_args!("persistent_keepalive_interval={keepalive}"));
    for net in &peer.allowed_ips {
        line(text, format_args!("allowed_ip={net}"));
    }
}

/// Writes the answer to `set=1`, or to a request that cannot be served.
pub(crate) fn write_errno(errno: i32) -> String {
    format!("errno={errno}\n\n")
}

/// Parses an answer to any request. The inner error is that of the server.
pub(crate) fn parse(octets: &[u8]) -> Result<Result<Device, Errno>, Refusal> {
    let text = std::str::from_utf8(octets).map_err(|_| Refusal::new("answer", "it is not text"))?;
    let mut device = blank();
    let mut last: Option<(PublicKey, Peer)> = None;
    let mut errno = None;
    let mut allowed_ips = 0;
    for pair in pairs(text) {
        let (key, value) = pair?;
        match (key, &mut last) {
            ("errno", _) => {
                // Implementations write the number negated, too.
                let digits = value.strip_prefix('-').unwrap_or(value);
                errno = Some(number::<u16>("errno", digits)?);
            }
            ("public_key", _) => {
                device.peers.extend(last.replace((public_key(value)?, Peer::default())));
                if device.peers.len() >= PEERS_MAX {
                    return Err(Refusal::new("public_key", "too many peers"));
                }
            }
            (_, None) => get_of_device(&mut device, key, value)?,
            (_, Some((_, peer))) => {
                allowed_ips += usize::from(key == "allowed_ip");
                if allowed_ips > ALLOWED_IPS_MAX {
                    return Err(Refusal::new("allowed_ip", "too many"));
                }
                get_of_peer(peer, key, value)?;
            }
        }
    }
    device.peers.extend(last);
    match errno {
        Some(0) => Ok(Ok(device)),
        Some(number) => Ok(Err(Errno::from_raw(number.into()))),
        None => Err(Refusal::new("errno", "it is missing")),
    }
}

/// Keys of the future are skipped.
fn get_of_device(device: &mut Device, key: &str, value: &str) -> Result<(), Refusal> {
    match key {
        "private_key" => {
            let octets = hex::parse(value).ok_or(Refusal::new("private_key", "not a key"))?;
            // All zeros stand for none.
            device.private_key = PresharedKey::new(&octets).map(|_| PrivateKey::new(&octets));
            device.public_key = device.private_key.as_ref().map(crate::key::public_key);
        }
        "listen_port" => device.listen_port = number("listen_port", value)?,
        "fwmark" => device.fwmark = number("fwmark", value)?,
        _ => {}
    }
    Ok(())
}

/// Keys of the future are skipped.
fn get_of_peer(peer: &mut Peer, key: &str, value: &str) -> Result<(), Refusal> {
    match key {
        "preshared_key" => {
            let octets = hex::parse(value).ok_or(Refusal::new("preshared_key", "not a key"))?;
            peer.preshared_key = PresharedKey::new(&octets);
        }
        "endpoint" => {
            let refusal = Refusal::new("endpoint", "not an address and a port");
            peer.endpoint = Some(value.parse().map_err(|_| refusal)?);
        }
        "last_handshake_time_sec" => {
            let seconds = number("last_handshake_time_sec", value)?;
            peer.last_handshake = match seconds {
                0 => None,
                _ => UNIX_EPOCH.checked_add(Duration::from_secs(seconds)),
            };
        }
        "last_handshake_time_nsec" => {
            let nanoseconds = Duration::from_nanos(number("last_handshake_time_nsec", value)?);
            peer.last_handshake =
                peer.last_handshake.and_then(|moment| moment.checked_add(nanoseconds));
        }
        "tx_bytes" => peer.sent_octets = number("tx_bytes", value)?,
        "rx_bytes" => peer.received_octets = number("rx_bytes", value)?,
        "persistent_keepalive_interval" => {
            peer.keepalive = NonZeroU16::new(number("persistent_keepalive_interval", value)?);
        }
        "allowed_ip" => {
            let refusal = Refusal::new("allowed_ip", "not a prefix");
            let net: ipnet::IpNet = value.parse().map_err(|_| refusal)?;
            peer.allowed_ips.insert(net.trunc());
        }
        _ => {}
    }
    Ok(())
}
