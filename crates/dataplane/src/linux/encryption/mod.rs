//! The encrypted underlay: a WireGuard device in a network namespace of its own.

mod userspace;

use std::io::ErrorKind;
use std::net::{Ipv4Addr, UdpSocket};
use std::num::NonZeroU16;
use std::path::PathBuf;

use ipnet::{IpNet, Ipv6Net};
use shoutd_core::cluster::TunnelKey;
use shoutd_core::encryption::WireguardChoice;
use shoutd_core::plane::{
    ENCRYPTED_DEVICE, ENCRYPTED_NAMESPACE, EncryptedUnderlay, ObservedEncryption, ObservedPeer,
    OwnerTag,
};
use shoutd_core::tunnel_keys::PresharedKey;
use shoutd_netlink::wireguard::{
    self, Change, Device, NewWireguard, PeerSettings, PrivateKey, PublicKey, Settings, Wireguard,
};
use shoutd_netlink::{Kind, Link, LinkChange, Namespace, Route};
use tracing::warn;

use self::userspace::Userspace;
use super::execute::{find, foreign};
use super::{GROUP, LinuxKernel, is_everywhere, is_ours, write_setting};
use crate::kernel_error::KernelError;

/// The interval of keepalives, in seconds. They keep sessions warm, so that no first packet waits
/// for a handshake, and NAT and stateful firewalls open.
const KEEPALIVE: NonZeroU16 = NonZeroU16::new(25).unwrap();

/// The prefix length of a cluster's addresses: all peers are directly connected.
const PREFIX: u8 = 48;

/// Which WireGuard a host uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WireguardTier {
    /// The kernel's.
    Kernel,
    /// A process of its own.
    Userspace,
}

/// What this host needs for encryption.
#[derive(Debug)]
pub struct EncryptionSetup {
    /// The private key of its end.
    pub private_key: PrivateKey,
    /// Which WireGuard to use; `None` for the kernel's if it has one.
    pub tier: Option<WireguardTier>,
    /// The program that runs WireGuard in user space.
    pub program: PathBuf,
    /// The control socket of that process.
    pub socket: PathBuf,
}

/// Whether this host's kernel has WireGuard.
///
/// # Errors
/// It cannot be asked.
pub fn kernel_has_wireguard() -> Result<bool, KernelError> {
    Ok(Wireguard::open(&Namespace::current()?)?.is_some())
}

/// The end of the encrypted underlay on this host.
#[derive(Debug)]
pub(super) struct Encryption {
    setup: EncryptionSetup,
    userspace: Userspace,
}

/// The namespace of the WireGuard device, opened for one observation or action.
struct EncryptedNamespace {
    namespace: Namespace,
    route: Route,
}

impl EncryptedNamespace {
    fn open(namespace: Namespace) -> Result<Self, KernelError> {
        Ok(Self { route: Route::open(&namespace)?, namespace })
    }

    /// The WireGuard device, if it is there and ours.
    fn link(&mut self) -> Result<Option<Link>, KernelError> {
        match self.route.link(ENCRYPTED_DEVICE)? {
            Some(link) if !is_ours(&link) => Err(foreign(&link, ENCRYPTED_NAMESPACE.to_owned())),
            link => Ok(link),
        }
    }
}

impl WireguardTier {
    /// The chosen one; `None` for the kernel's if it has one.
    pub fn chosen(choice: WireguardChoice) -> Option<Self> {
        match choice {
            WireguardChoice::Auto => None,
            WireguardChoice::Kernel => Some(Self::Kernel),
            WireguardChoice::Userspace => Some(Self::Userspace),
        }
    }
}

fn tier_of(link: &Link) -> WireguardTier {
    if link.kind == Kind::Wireguard { WireguardTier::Kernel } else { WireguardTier::Userspace }
}

impl WireguardTier {
    /// Its name, as users see it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Userspace => "userspace",
        }
    }
}

impl Encryption {
    pub(super) fn new(setup: EncryptionSetup) -> Self {
        let userspace = Userspace::new(&setup);
        Self { setup, userspace }
    }

    /// The tier to use on this kernel.
    fn tier(&self, namespace: &Namespace) -> Result<WireguardTier, KernelError> {
        if let Some(tier) = self.setup.tier {
            return Ok(tier);
        }
        let kernel = Wireguard::open(namespace)?.is_some();
        Ok(if kernel { WireguardTier::Kernel } else { WireguardTier::Userspace })
    }

    fn device(
        &mut self,
        namespace: &Namespace,
        link: &Link,
    ) -> Result<Option<Device>, KernelError> {
        match tier_of(link) {
            WireguardTier::Kernel => match Wireguard::open(namespace)? {
                Some(mut wireguard) => Ok(wireguard.device(link.index)?),
                None => Ok(None),
            },
            WireguardTier::Userspace => Ok(self.userspace.device()),
        }
    }

    fn change(
        &mut self,
        namespace: &Namespace,
        link: &Link,
        change: &Change,
    ) -> Result<(), KernelError> {
        match tier_of(link) {
            WireguardTier::Kernel => {
                let wireguard = Wireguard::open(namespace)?;
                let mut wireguard = wireguard.ok_or(KernelError::NoWireguard)?;
                Ok(wireguard.change(link.index, change)?)
            }
            WireguardTier::Userspace => self.userspace.change(change),
        }
    }
}

impl LinuxKernel {
    /// What is there; `None` if the namespace is not. What cannot be read is taken as unset: plain
    /// networks go on, and setting it again fails with the reason.
    pub(super) fn observe_encryption(&mut self) -> Option<ObservedEncryption> {
        self.read_encryption().unwrap_or_else(|error| {
            warn!("cannot read the encrypted underlay: {error}");
            Some(nothing())
        })
    }

    fn read_encryption(&mut self) -> Result<Option<ObservedEncryption>, KernelError> {
        let Some(namespace) = self.named.open(ENCRYPTED_NAMESPACE)? else { return Ok(None) };
        let mut inside = EncryptedNamespace::open(namespace)?;
        let Some(link) = inside.link()? else {
            // A namespace in which only others have devices is not ours to delete.
            let is_foreign = inside.route.links()?.iter().any(|link| !is_everywhere(link));
            return Ok((!is_foreign).then(nothing));
        };
        let addresses = inside.route.addresses()?.into_iter();
        let own = addresses.filter(|address| address.link == link.index).map(|a| a.net.addr());
        let own: Vec<_> = own.collect();
        let address = match own.as_slice() {
            [address] if link.up => Some(*address),
            _ => None,
        };
        let device = match &mut self.encryption {
            // A start with another choice replaces it.
            Some(Encryption { setup: EncryptionSetup { tier: Some(tier), .. }, .. })
                if *tier != tier_of(&link) =>
            {
                None
            }
            Some(encryption) => encryption.device(&inside.namespace, &link)?,
            None => None,
        };
        let Some(device) = device else { return Ok(Some(nothing())) };
        let peers = device.peers.iter().map(|(key, peer)| {
            let nets: Vec<_> = peer.allowed_ips.iter().collect();
            let address = match nets.as_slice() {
                [IpNet::V6(net)] if net.prefix_len() == 128 => Some(net.addr()),
                _ => None,
            };
            let preshared_key = peer.preshared_key.as_ref().map(wireguard::PresharedKey::octets);
            let peer = ObservedPeer {
                address,
                endpoint: peer.endpoint,
                preshared_key: preshared_key.and_then(PresharedKey::new),
                last_handshake: peer.last_handshake,
            };
            (TunnelKey::new(key.0), peer)
        });
        Ok(Some(ObservedEncryption {
            tier: Some(tier_of(&link).name()),
            key: device.public_key.map(|key| TunnelKey::new(key.0)),
            port: device.listen_port,
            mtu: u16::try_from(link.mtu).unwrap_or(u16::MAX),
            address,
            peers: peers.collect(),
        }))
    }

    /// Makes what is missing, and sets keys, port and peers.
    pub(super) fn set_encrypted_underlay(
        &mut self,
        wanted: &EncryptedUnderlay,
    ) -> Result<(), KernelError> {
        let port = wanted.port;
        self.try_set_encrypted_underlay(wanted).map_err(|error| {
            // WireGuard in user space does not say so.
            let has_port = self.observe_encryption().is_some_and(|observed| observed.port == port);
            if !has_port && is_occupied(port) { KernelError::OccupiedPort { port } } else { error }
        })
    }

    fn try_set_encrypted_underlay(
        &mut self,
        wanted: &EncryptedUnderlay,
    ) -> Result<(), KernelError> {
        let encryption = self.encryption.as_mut().ok_or(KernelError::NoWireguard)?;
        let namespace = self.named.create(ENCRYPTED_NAMESPACE, || {
            // Nothing but the peers' packets, which only come from their own addresses.
            for (name, value) in [("addr_gen_mode", "1"), ("accept_ra", "0"), ("autoconf", "0")] {
                write_setting(&format!("ipv6/conf/default/{name}"), value)?;
            }
            Ok(())
        })?;
        let mut inside = EncryptedNamespace::open(namespace)?;
        let tier = encryption.tier(&inside.namespace)?;
        if let Some(link) = inside.link()?
            && tier_of(&link) != tier
        {
            encryption.userspace.end();
            inside.route.delete_link(link.index)?;
        }
        match tier {
            WireguardTier::Kernel if inside.link()?.is_none() => {
                let mtu = u32::from(wanted.mtu);
                let new = NewWireguard { name: ENCRYPTED_DEVICE, group: GROUP, mtu };
                self.host_route.create_wireguard(&new, &inside.namespace)?;
            }
            WireguardTier::Kernel => {}
            WireguardTier::Userspace => {
                let file = self.named.path(ENCRYPTED_NAMESPACE);
                encryption.userspace.end_at_other_port(wanted.port);
                encryption.userspace.ensure_runs(&file, wanted.port)?;
            }
        }
        let link = find(&mut inside.route, ENCRYPTED_DEVICE, ENCRYPTED_NAMESPACE)?;
        let tag = OwnerTag::Encryption.to_string();
        let change = LinkChange {
            mtu: Some(u32::from(wanted.mtu)),
            alias: Some(&tag),
            up: Some(true),
            ..LinkChange::default()
        };
        let present = encryption.device(&inside.namespace, &link)?;
        let present = present.unwrap_or_else(|| blank(&link));
        let settings = settings(wanted, encryption.setup.private_key.clone(), &present);
        encryption.change(&inside.namespace, &link, &settings.difference(&present))?;
        inside.route.change_link(link.index, &change)?;
        set_address(&mut inside.route, link.index, wanted)
    }

    /// Deletes the device, the process and the namespace.
    pub(super) fn delete_encrypted_underlay(&mut self) -> Result<(), KernelError> {
        if let Some(encryption) = &mut self.encryption {
            encryption.userspace.end();
        }
        if let Some(namespace) = self.named.open(ENCRYPTED_NAMESPACE)? {
            let mut inside = EncryptedNamespace::open(namespace)?;
            if let Some(link) = inside.link()? {
                inside.route.delete_link(link.index)?;
            }
            // Somebody else uses it, too.
            if inside.route.links()?.iter().any(|link| !is_everywhere(link)) {
                return Ok(());
            }
        }
        Ok(self.named.delete(ENCRYPTED_NAMESPACE)?)
    }

    /// A socket in the namespace of the WireGuard device, in which VXLAN devices of encrypted
    /// networks are created.
    pub(super) fn encrypted_route(&self) -> Result<Route, KernelError> {
        let namespace = self.named.open(ENCRYPTED_NAMESPACE)?;
        let missing = || KernelError::NoNamespace { namespace: ENCRYPTED_NAMESPACE.to_owned() };
        Ok(Route::open(&namespace.ok_or_else(missing)?)?)
    }
}

fn is_occupied(port: u16) -> bool {
    let bound = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port));
    bound.is_err_and(|error| error.kind() == ErrorKind::AddrInUse)
}

/// What is observed without a device that can be read.
fn nothing() -> ObservedEncryption {
    let (tier, key, address) = (None, None, None);
    ObservedEncryption { tier, key, port: 0, mtu: 0, address, peers: [].into() }
}

/// A device without settings.
fn blank(link: &Link) -> Device {
    Device {
        index: link.index,
        name: link.name.clone(),
        private_key: None,
        public_key: None,
        listen_port: 0,
        fwmark: 0,
        peers: [].into(),
    }
}

fn settings(wanted: &EncryptedUnderlay, private_key: PrivateKey, present: &Device) -> Settings {
    let peers = wanted.peers.iter().filter_map(|(key, peer)| {
        let key = PublicKey(key.octets());
        let preshared_key = match &peer.preshared_key {
            Some(wanted) => wireguard::PresharedKey::new(wanted.octets()),
            // Its session may go on with a key that this host has lost.
            None => present.peers.get(&key)?.preshared_key.clone(),
        };
        let settings = PeerSettings {
            preshared_key,
            endpoint: Some(peer.endpoint),
            keepalive: Some(KEEPALIVE),
            allowed_ips: [IpNet::V6(Ipv6Net::from(peer.address))].into(),
        };
        Some((key, settings))
    });
    Settings {
        private_key,
        listen_port: NonZeroU16::new(wanted.port).unwrap_or(NonZeroU16::MAX),
        fwmark: 0,
        peers: peers.collect(),
    }
}

/// Makes this the only address of the device.
fn set_address(
    route: &mut Route,
    index: u32,
    wanted: &EncryptedUnderlay,
) -> Result<(), KernelError> {
    let net = IpNet::V6(Ipv6Net::new_assert(wanted.address, PREFIX));
    let there = route.addresses()?.into_iter().filter(|address| address.link == index);
    let there: Vec<IpNet> = there.map(|address| address.net).collect();
    for other in there.iter().filter(|other| **other != net) {
        route.remove_address(index, *other)?;
    }
    if !there.contains(&net) {
        route.add_address(index, net)?;
    }
    Ok(())
}
