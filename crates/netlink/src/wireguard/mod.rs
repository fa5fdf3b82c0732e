//! The kernel's WireGuard (`include/uapi/linux/wireguard.h`, `drivers/net/wireguard/netlink.c`).
//!
//! * [`Route::create_wireguard`](crate::Route::create_wireguard) creates a device. Its address,
//!   its MTU and its state are those of any other device.
//! * [`Wireguard`] reads and changes keys, port and peers of the devices of one namespace.
//! * [`Settings::difference`] is what must change for a device to be as wanted. It is pure.
//!
//! Secret keys are overwritten with zeros when they are dropped, and so are the messages that have
//! held them. No text shows them.

mod difference;
mod key;
mod link;
#[cfg(test)]
mod model;
mod parts;
mod read;
#[cfg(test)]
mod tests;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::time::SystemTime;

use ipnet::IpNet;
use nix::errno::Errno;

pub use self::key::{KEY_OCTETS, PresharedKey, PrivateKey, PublicKey};
pub use self::link::NewWireguard;
pub(crate) use self::read::Dump;
use crate::error::{Error, Fault};
use crate::generic;
use crate::namespace::Namespace;
use crate::socket::{Protocol, Socket};

/// Peers of one device that we read or write at most: some times as many as a cluster has hosts.
/// The kernel takes a million (`MAX_PEERS_PER_DEVICE`).
pub const PEERS_MAX: usize = 4096;
/// Allowed IPs of all peers of one device together that we read or write at most. The kernel has no
/// limit.
pub const ALLOWED_IPS_MAX: usize = 65_536;

const FAMILY: &str = "wireguard";
/// `WG_GENL_VERSION`.
const VERSION: u8 = 1;

/// The settings that a device should have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The device's private key.
    pub private_key: PrivateKey,
    /// The UDP port.
    pub listen_port: NonZeroU16,
    /// The firewall mark of the packets that it sends; 0 for none.
    pub fwmark: u32,
    /// The peers, at most [`PEERS_MAX`]. The device's own public key must not be among them: the
    /// kernel ignores such a peer.
    pub peers: BTreeMap<PublicKey, PeerSettings>,
}

/// The settings that a peer should have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerSettings {
    /// The preshared key, if there is one.
    pub preshared_key: Option<PresharedKey>,
    /// Where the peer is reached; `None` for wherever it was last heard from. The kernel replaces
    /// the endpoint if the peer is heard from elsewhere ("roaming").
    pub endpoint: Option<SocketAddr>,
    /// How often a packet is sent at least, in seconds; `None` for never.
    pub keepalive: Option<NonZeroU16>,
    /// From where the peer may send, and what is sent to it. No two peers of a device may have the
    /// same network: the kernel gives it to the one that got it last.
    pub allowed_ips: BTreeSet<IpNet>,
}

/// The state of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// The index, unique in its namespace.
    pub index: u32,
    /// The name.
    pub name: String,
    /// The private key, if it has one.
    pub private_key: Option<PrivateKey>,
    /// The public key that the kernel derived from the private key.
    pub public_key: Option<PublicKey>,
    /// The UDP port; 0 before the kernel has chosen one.
    pub listen_port: u16,
    /// The firewall mark of the packets that it sends; 0 for none.
    pub fwmark: u32,
    /// The peers.
    pub peers: BTreeMap<PublicKey, Peer>,
}

/// The state of a peer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peer {
    /// The preshared key, if there is one.
    pub preshared_key: Option<PresharedKey>,
    /// Where it is reached, if that is known.
    pub endpoint: Option<SocketAddr>,
    /// How often a packet is sent at least, in seconds; `None` for never.
    pub keepalive: Option<NonZeroU16>,
    /// When the last handshake was completed, by this host's clock; `None` before the first.
    pub last_handshake: Option<SystemTime>,
    /// Octets that were received and found authentic, those of handshakes included.
    pub received_octets: u64,
    /// Octets that were sent, those of handshakes included.
    pub sent_octets: u64,
    /// From where it may send, and what is sent to it.
    pub allowed_ips: BTreeSet<IpNet>,
}

/// Changes to a device; `None` leaves a setting unchanged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// The private key. If it differs from the present one, all sessions end, and the kernel
    /// removes a peer that has its public key.
    pub private_key: Option<PrivateKey>,
    /// The UDP port; 0 lets the kernel choose one.
    pub listen_port: Option<u16>,
    /// The firewall mark of the packets that it sends; 0 for none.
    pub fwmark: Option<u32>,
    /// Whether all present peers are removed first (`WGDEVICE_F_REPLACE_PEERS`).
    pub replaces_peers: bool,
    /// Changes to peers, in this order.
    pub peers: Vec<(PublicKey, PeerChange)>,
}

/// A change to a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerChange {
    /// Adds it, or changes it if it exists.
    Set(PeerUpdate),
    /// Changes it if it exists (`WGPEER_F_UPDATE_ONLY`).
    Update(PeerUpdate),
    /// Removes it, with its session (`WGPEER_F_REMOVE_ME`). A missing one is not an error.
    Remove,
}

/// New settings of a peer; `None` leaves a setting unchanged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerUpdate {
    /// The preshared key; `Some(None)` for none. A session that exists goes on without it: only the
    /// next handshake needs it, and then both ends must have the same.
    pub preshared_key: Option<Option<PresharedKey>>,
    /// Where the peer is reached. A known endpoint can be replaced, not removed.
    pub endpoint: Option<SocketAddr>,
    /// How often a packet is sent at least, in seconds; `Some(None)` for never.
    pub keepalive: Option<Option<NonZeroU16>>,
    /// Whether its present allowed IPs are removed first (`WGPEER_F_REPLACE_ALLOWEDIPS`). For some
    /// microseconds it then has none, and its packets are dropped.
    pub replaces_allowed_ips: bool,
    /// The allowed IPs to add. A peer of the same device that has one of them loses it.
    pub allowed_ips: BTreeSet<IpNet>,
}

/// The WireGuard devices of one namespace: the one in which they are, not the one in which they
/// were created.
#[derive(Debug)]
pub struct Wireguard {
    socket: Socket,
    family: u16,
}

impl Wireguard {
    /// Opens a socket in this namespace; `None` if the kernel has no WireGuard and cannot load it.
    ///
    /// # Errors
    ///
    /// Fails if there can be no socket, and if the kernel does not answer.
    pub fn open(namespace: &Namespace) -> Result<Option<Self>, Error> {
        let open = || {
            let mut socket = Socket::open(Protocol::Generic, namespace)?;
            let family = generic::family(&mut socket, FAMILY)?;
            Ok(family.map(|family| Self { socket, family }))
        };
        open().map_err(|fault: Fault| fault.during("find out whether the kernel has WireGuard"))
    }

    /// Closes its socket until the next request.
    pub fn rest(&mut self) {
        self.socket.rest();
    }

    /// The state of the device with this index; `None` if there is none (`WG_CMD_GET_DEVICE`).
    ///
    /// # Errors
    ///
    /// Fails if the device is of another kind (`EOPNOTSUPP`), without `CAP_NET_ADMIN` in the
    /// namespace (`EPERM`), if it has more than [`PEERS_MAX`] peers or [`ALLOWED_IPS_MAX`] allowed
    /// IPs, and if the answer is malformed.
    pub fn device(&mut self, index: u32) -> Result<Option<Device>, Error> {
        let request = read::request(self.family, index);
        let mut dump = Dump::default();
        let family = self.family;
        let result = self.socket.dump(&request, |frame| {
            if frame.kind == family {
                dump.add(frame);
            }
            None::<()>
        });
        self.socket.wipe();
        match result {
            Err(fault) if fault.errno() == Some(Errno::ENODEV) => Ok(None),
            Err(fault) => Err(fault),
            Ok(_) => dump.finish().map(Some),
        }
        .map_err(|fault| fault.during(format_args!("read WireGuard device {index}")))
    }

    /// Changes the device with this index (`WG_CMD_SET_DEVICE`). What does not fit into one message
    /// is sent in several. If one of them is refused, those before it stay done.
    ///
    /// # Errors
    ///
    /// Fails if there is no such device (`ENODEV`), if it is of another kind (`EOPNOTSUPP`),
    /// without `CAP_NET_ADMIN` in the namespace (`EPERM`), if the device is up and the port is
    /// taken (`EADDRINUSE`), and if there are more than [`PEERS_MAX`] peers or [`ALLOWED_IPS_MAX`]
    /// allowed IPs. Port and firewall mark also need `CAP_NET_ADMIN` in the namespace in which the
    /// device was created, and cannot be set once that is gone (`EPERM`).
    pub fn change(&mut self, index: u32, change: &Change) -> Result<(), Error> {
        self.try_change(index, change)
            .map_err(|fault| fault.during(format_args!("change WireGuard device {index}")))
    }

    fn try_change(&mut self, index: u32, change: &Change) -> Result<(), Fault> {
        for mut message in write::messages(self.family, index, change)? {
            self.socket.call_secret(message.inner())?;
        }
        Ok(())
    }
}

/// An endpoint as the kernel reports it, whatever was set: without a flow label, with a scope only
/// where it has a meaning, and IPv4 addresses as such.
fn canonical(endpoint: SocketAddr) -> SocketAddr {
    match (endpoint.ip().to_canonical(), endpoint) {
        (IpAddr::V6(address), SocketAddr::V6(mut endpoint)) => {
            endpoint.set_flowinfo(0);
            if !address.is_unicast_link_local() {
                endpoint.set_scope_id(0);
            }
            endpoint.into()
        }
        (address, _) => SocketAddr::new(address, endpoint.port()),
    }
}
