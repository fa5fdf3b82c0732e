//! What tests of announcements share.
#![allow(dead_code, clippy::unwrap_used, reason = "no test needs all of it, and one that fails does so by panicking")]

use std::net::{IpAddr, Ipv4Addr};

use shoutd_core::announce::Message;
use shoutd_core::multicast::{Memberships, SourceFilter};
use shoutd_core::{HostId, NetworkId};

/// A host.
pub fn host(value: u64) -> HostId {
    HostId::new(value).unwrap()
}

/// A network.
pub fn network_id(index: u8) -> NetworkId {
    format!("{index:016x}").parse().unwrap()
}

/// So many groups, from every source.
pub fn groups(count: u32) -> Memberships {
    let group = |index: u32| (IpAddr::V4(Ipv4Addr::from(0xef00_0000 + index)), SourceFilter::all());
    Memberships { groups: (0..count).map(group).collect(), router: false }
}

/// As it goes over the wire.
pub fn sent(message: &Message) -> Message {
    serde_json::from_slice(&serde_json::to_vec(message).unwrap()).unwrap()
}
