//! `shoutdctl ping`: all hosts of a network send each other numbered requests through the tunnel at
//! the same time. Each host counts what arrives there, so loss is known for each direction. Pure.

mod exchange;
mod result;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

pub use exchange::{Echo, Exchange};
pub use result::PingAnswer;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::limits::{PING_HOSTS_MAX, PING_REQUESTS_MAX};
use crate::{HostId, NetworkId};

/// Octets of the smallest request, from the IP header on or behind the Ethernet header.
pub const SIZE_MIN: u16 = 256;

/// Requests of a sweep. The sizes are spread evenly over them.
const SWEEP: u16 = 1500;

/// The time between two requests of a host.
const INTERVAL: Duration = Duration::from_millis(20);

/// The same in a sweep.
const SWEEP_INTERVAL: Duration = Duration::from_millis(2);

/// How large the requests are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sizes {
    /// All of this many octets.
    Fixed(u16),
    /// From [`SIZE_MIN`] to the network's MTU.
    Sweep,
}

/// What a user asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskPing {
    /// The network, by name or id; `None` for the only one.
    pub network: Option<String>,
    /// Send to this group, which only hosts with members get, or have a container of each host ping
    /// this address; `None` for all hosts.
    pub to: Option<IpAddr>,
    /// How many requests each host sends.
    pub count: u16,
    /// How large they are.
    pub sizes: Sizes,
}

impl AskPing {
    /// What the hosts are asked to send.
    ///
    /// # Errors
    /// A number is out of range.
    pub fn requests(&self) -> Result<Requests, String> {
        if !(1..=PING_REQUESTS_MAX).contains(&self.count) {
            return Err(format!("a host sends 1 to {PING_REQUESTS_MAX} requests"));
        }
        if let Sizes::Fixed(size) = self.sizes
            && size < SIZE_MIN
        {
            return Err(format!("a request has at least {SIZE_MIN} octets"));
        }
        let count = if self.sizes == Sizes::Sweep { SWEEP } else { self.count };
        Ok(Requests { count, sizes: self.sizes })
    }
}

/// The requests that each host sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requests {
    /// How many.
    pub count: u16,
    /// How large.
    pub sizes: Sizes,
}

impl Requests {
    /// The time between two requests.
    pub fn interval(&self) -> Duration {
        if self.sizes == Sizes::Sweep { SWEEP_INTERVAL } else { INTERVAL }
    }

    /// How long it takes to send all.
    pub fn duration(&self) -> Duration {
        self.interval() * self.count.into()
    }

    /// The octets of one of the requests on a network with this MTU.
    fn size(&self, number: u16, mtu: u16) -> u16 {
        let range = u32::from(mtu.saturating_sub(SIZE_MIN));
        match self.sizes {
            Sizes::Fixed(size) => size,
            Sizes::Sweep => {
                let last = u32::from(self.count.saturating_sub(1)).max(1);
                let more = range * u32::from(number).min(last) / last;
                SIZE_MIN.saturating_add(u16::try_from(more).unwrap_or(u16::MAX))
            }
        }
    }
}

/// Asks a host to take part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskEchoes {
    /// The network.
    pub network: NetworkId,
    /// A group, or the address of a container; `None` for all hosts.
    pub to: Option<IpAddr>,
    /// A random number that tells this exchange from others.
    pub session: u64,
    /// The hosts that take part.
    pub hosts: BTreeSet<HostId>,
    /// What each of them sends.
    pub requests: Requests,
}

impl AskEchoes {
    /// Whether a host takes part in what a peer asks for.
    ///
    /// # Errors
    /// What is out of range.
    pub fn check(&self) -> Result<(), String> {
        if self.requests.count > PING_REQUESTS_MAX.max(SWEEP) {
            return Err(format!("a host sends at most {PING_REQUESTS_MAX} requests"));
        }
        if self.hosts.len() > PING_HOSTS_MAX {
            return Err(format!("at most {PING_HOSTS_MAX} hosts ping each other at a time"));
        }
        Ok(())
    }
}

/// What one host sent and received.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Echoes {
    /// The requests that it sent.
    pub sent: u16,
    /// Octets that the network's MTU allows here.
    pub mtu: u16,
    /// Why it could not send some of them.
    pub unsent: Option<String>,
    /// What came from each other host.
    pub heard: BTreeMap<HostId, Heard>,
}

/// What came from one host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    /// Different requests.
    pub requests: u16,
    /// Requests that came once more.
    pub duplicates: u32,
    /// Octets of the largest request.
    pub largest: u16,
    /// Octets of the largest request that was answered.
    #[serde(default)]
    pub largest_answered: u16,
    /// Round trips to that host and back, in microseconds.
    pub round_trips: Vec<u32>,
}

/// The result, as it is shown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Ping {
    /// The network's name.
    pub network: String,
    /// The group or the address; `null` if all hosts were pinged.
    pub to: Option<IpAddr>,
    /// The hosts that took part, by name.
    pub hosts: Vec<String>,
    /// Each direction between two of them. With a group, only to hosts with members. With an
    /// address, from each host to it.
    pub pairs: Vec<PingPair>,
    /// What is wrong, one line each.
    pub problems: Vec<String>,
}

/// One direction between two hosts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PingPair {
    /// The host that sent.
    pub from: String,
    /// The host that received, or the address.
    pub to: String,
    /// The requests that were sent.
    pub sent: u16,
    /// Those that arrived, or that the address answered.
    pub received: u16,
    /// How many arrived more than once.
    pub duplicates: u32,
    /// Octets of the largest one that arrived; `null` if none did.
    pub largest: Option<u16>,
    /// Octets that the network's MTU allows.
    pub mtu: u16,
    /// The round trip to the other host and back; `null` if no answer came.
    pub round_trip: Option<RoundTrip>,
}

/// Round trips, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RoundTrip {
    /// How many were measured.
    pub samples: usize,
    /// Half of them took no longer.
    pub p50: u32,
    /// 99 of 100 took no longer.
    pub p99: u32,
}
