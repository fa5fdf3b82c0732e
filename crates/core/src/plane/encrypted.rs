//! The encrypted underlay: one WireGuard device a host, under the VXLAN of encrypted networks.
//!
//! The device is in a network namespace of its own, [`ENCRYPTED_NAMESPACE`]; its UDP socket is in
//! the host's namespace. It has one IPv6 address, which follows from the cluster and the host
//! ([`encrypted_address`]), and each peer's allowed address is that of its host only. The VXLAN
//! devices of encrypted networks have their sockets in that namespace too. So whoever is not a
//! member, a process or a container on a member's host included, reaches no socket into which it
//! could inject frames.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::SystemTime;

use super::Underlay;
use crate::cluster::{Cluster, TunnelKey};
use crate::limits::{HOSTS_MAX, MTU_MIN};
use crate::tunnel_keys::PresharedKey;
use crate::{ClusterId, HostId};

/// The name, in [`NAMESPACES`](super::NAMESPACES), of the namespace of the WireGuard device.
pub const ENCRYPTED_NAMESPACE: &str = "shout-wg";

/// The WireGuard device.
pub const ENCRYPTED_DEVICE: &str = "shoutwg0";

/// Octets that WireGuard adds to a packet over an IPv4 underlay: IPv4 20, UDP 8, WireGuard's
/// header 16 and its authenticator 16.
const OVERHEAD_IPV4: u16 = 60;

/// The same over an IPv6 underlay.
const OVERHEAD_IPV6: u16 = 80;

/// The last components of options that request encryption, of Docker's overlay driver and of
/// shoutd.
const REQUESTS: [&str; 3] = ["encrypted", "encrypt", "encryption"];

/// Whether these `-o` options request encryption. Docker's overlay driver takes the mere presence
/// of `encrypted` as a request. Any value but `false` is one: a network that only looks encrypted
/// is worse than none.
pub fn requests_encryption(options: &BTreeMap<String, String>) -> bool {
    options.iter().any(|(name, value)| is_request(name) && !is_false(value))
}

/// The option that says that the network is not to be encrypted, if there is one.
pub fn refuses_encryption(options: &BTreeMap<String, String>) -> Option<&str> {
    let mut refusals = options.iter().filter(|(name, value)| is_request(name) && is_false(value));
    refusals.next().map(|(name, _)| name.as_str())
}

fn is_request(name: &str) -> bool {
    let last = name.trim().rsplit('.').next().unwrap_or_default();
    REQUESTS.iter().any(|word| last.eq_ignore_ascii_case(word))
}

fn is_false(value: &str) -> bool {
    value.trim().eq_ignore_ascii_case("false")
}

/// Whether this host should have the encrypted underlay.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum EncryptionWanted {
    /// It should not.
    #[default]
    Absent,
    /// What is there stays: this host has not published its end, or its agreed state was rolled
    /// back.
    Unchanged,
    /// It should.
    Present(EncryptedUnderlay),
}

/// The encrypted underlay of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncryptedUnderlay {
    /// This host's address in it.
    pub address: Ipv6Addr,
    /// The UDP port of the WireGuard device, in the host's namespace.
    pub port: u16,
    /// The MTU of the device, in octets.
    pub mtu: u16,
    /// The public key that the device must have.
    pub key: TunnelKey,
    /// The other hosts.
    pub peers: BTreeMap<TunnelKey, EncryptedPeer>,
}

/// Another host in the encrypted underlay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncryptedPeer {
    /// Its address there, the only one that its packets may have as source.
    pub address: Ipv6Addr,
    /// Where its WireGuard device receives.
    pub endpoint: SocketAddr,
    /// The preshared key. While the two hosts have none in common, the device does not get the
    /// peer: no session is without one. A peer that the device has keeps its key.
    pub preshared_key: Option<PresharedKey>,
}

/// The preshared keys of the other hosts.
pub type PresharedKeys = BTreeMap<HostId, PresharedKey>;

/// What the kernel has of the encrypted underlay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedEncryption {
    /// What runs the device: `kernel` or `userspace`; `None` if it cannot be read.
    pub tier: Option<&'static str>,
    /// The public key of the device; `None` if it has none.
    pub key: Option<TunnelKey>,
    /// The UDP port.
    pub port: u16,
    /// The MTU, in octets.
    pub mtu: u16,
    /// Its only address, if it is up.
    pub address: Option<IpAddr>,
    /// The peers, by key.
    pub peers: BTreeMap<TunnelKey, ObservedPeer>,
}

/// A peer as the device has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedPeer {
    /// The only address that it may send from; `None` if there are others or several.
    pub address: Option<Ipv6Addr>,
    /// Where it is.
    pub endpoint: Option<SocketAddr>,
    /// The preshared key.
    pub preshared_key: Option<PresharedKey>,
    /// When the last handshake was completed, by this host's clock.
    pub last_handshake: Option<SystemTime>,
}

impl EncryptedPeer {
    /// Whether the device has the peer as wanted.
    fn is_in_place(&self, observed: Option<&ObservedPeer>) -> bool {
        match observed {
            Some(there) => {
                there.address == Some(self.address)
                    && there.endpoint == Some(self.endpoint)
                    && (self.preshared_key.is_none() || there.preshared_key == self.preshared_key)
            }
            None => self.preshared_key.is_none(),
        }
    }
}

impl EncryptedUnderlay {
    /// Whether the kernel has it as wanted.
    pub fn is_in_place(&self, observed: &ObservedEncryption) -> bool {
        observed.key == Some(self.key)
            && (observed.port, observed.mtu) == (self.port, self.mtu)
            && observed.address == Some(IpAddr::V6(self.address))
            && observed.peers.keys().all(|key| self.peers.contains_key(key))
            && self.peers.iter().all(|(key, peer)| peer.is_in_place(observed.peers.get(key)))
    }
}

impl EncryptionWanted {
    /// Adds the preshared keys.
    pub fn set_preshared_keys(&mut self, cluster: &Cluster, keys: &PresharedKeys) {
        let Self::Present(underlay) = self else { return };
        for (host, key) in keys {
            let end = cluster.encryption.ends.get(host);
            if let Some(peer) = end.and_then(|end| underlay.peers.get_mut(&end.key)) {
                peer.preshared_key = Some(key.clone());
            }
        }
    }
}

impl From<&EncryptedUnderlay> for ObservedEncryption {
    /// What the kernel has once a device that was not there is as wanted.
    fn from(wanted: &EncryptedUnderlay) -> Self {
        let keyed = wanted.peers.iter().filter(|(_, peer)| peer.preshared_key.is_some());
        let peers = keyed.map(|(key, peer)| {
            let peer = ObservedPeer {
                address: Some(peer.address),
                endpoint: Some(peer.endpoint),
                preshared_key: peer.preshared_key.clone(),
                last_handshake: None,
            };
            (*key, peer)
        });
        Self {
            tier: None,
            key: Some(wanted.key),
            port: wanted.port,
            mtu: wanted.mtu,
            address: Some(IpAddr::V6(wanted.address)),
            peers: peers.collect(),
        }
    }
}

/// The address of a host in the encrypted underlay: a unique local address (RFC 4193) with 40
/// random bits of the cluster's id, and the host's id as interface identifier.
pub fn encrypted_address(cluster: ClusterId, host: HostId) -> Ipv6Addr {
    let global = cluster.get() >> 88;
    let prefix = (0xfd_u128 << 120) | (global << 80);
    Ipv6Addr::from_bits(prefix | u128::from(host.get()))
}

/// The VTEP of a host on networks that are encrypted, or on those that are not.
pub fn vtep_of(cluster: &Cluster, encrypted: bool, host: HostId) -> Option<IpAddr> {
    if encrypted {
        return Some(IpAddr::V6(encrypted_address(cluster.id?, host)));
    }
    Some(cluster.hosts.get(&host)?.address.ip())
}

/// The encrypted underlay that this host should have.
pub(super) fn encryption_wanted(
    cluster: &Cluster,
    me: HostId,
    underlay: Underlay,
) -> EncryptionWanted {
    if cluster.encryption.is_unused() {
        return EncryptionWanted::Absent;
    }
    let Some((id, own)) = cluster.id.zip(cluster.encryption.ends.get(&me)) else {
        return EncryptionWanted::Unchanged;
    };
    let peers = cluster.encryption.ends.iter().filter(|(host, _)| **host != me);
    let peers = peers.filter_map(|(host, end)| {
        let address = cluster.hosts.get(host)?.address.ip();
        let endpoint = SocketAddr::new(address, end.port);
        let address = encrypted_address(id, *host);
        Some((end.key, EncryptedPeer { address, endpoint, preshared_key: None }))
    });
    EncryptionWanted::Present(EncryptedUnderlay {
        address: encrypted_address(id, me),
        port: own.port,
        mtu: underlay.encrypted().mtu,
        key: own.key,
        peers: peers.take(HOSTS_MAX).collect(),
    })
}

impl Underlay {
    /// What WireGuard leaves of it. The caller replaces the address, which is unspecified. Below
    /// the minimum MTU of IPv6, the kernel would remove IPv6 from the device.
    pub(super) fn encrypted(self) -> Self {
        let overhead = if self.address.is_ipv4() { OVERHEAD_IPV4 } else { OVERHEAD_IPV6 };
        let mtu = self.mtu.saturating_sub(overhead).max(MTU_MIN);
        Self { address: IpAddr::V6(Ipv6Addr::UNSPECIFIED), mtu }
    }
}

/// What carries the VXLAN of a network between the hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// The underlay itself.
    Plain(Underlay),
    /// The encrypted underlay.
    Encrypted {
        /// The cluster, from which hosts' addresses follow.
        cluster: ClusterId,
        /// This host there.
        underlay: Underlay,
    },
}

impl Carrier {
    /// The carrier of a network; `None` if the network is encrypted and this host has no end yet.
    pub fn of(cluster: &Cluster, encrypted: bool, me: HostId, plain: Underlay) -> Option<Self> {
        if !encrypted {
            return Some(Self::Plain(plain));
        }
        let (id, _) = cluster.id.zip(cluster.encryption.ends.get(&me))?;
        let address = IpAddr::V6(encrypted_address(id, me));
        Some(Self::Encrypted { cluster: id, underlay: Underlay { address, ..plain.encrypted() } })
    }

    /// This host's address and the MTU of the interface with it.
    pub fn underlay(&self) -> Underlay {
        match self {
            Self::Plain(underlay) | Self::Encrypted { underlay, .. } => *underlay,
        }
    }

    /// Another host's address; `None` if it cannot be reached. It cannot if it has another address
    /// family, or if its agreed address is now this host's, or if it has no end.
    pub fn address_of(&self, cluster: &Cluster, host: HostId) -> Option<IpAddr> {
        match self {
            Self::Plain(own) => {
                let address = cluster.hosts.get(&host)?.address.ip();
                let can_reach =
                    address.is_ipv4() == own.address.is_ipv4() && address != own.address;
                can_reach.then_some(address)
            }
            Self::Encrypted { cluster: id, .. } => {
                cluster.encryption.ends.get(&host)?;
                Some(IpAddr::V6(encrypted_address(*id, host)))
            }
        }
    }
}
