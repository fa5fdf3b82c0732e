//! Reads the sessions of this host's WireGuard device. Nothing is changed.

use std::path::Path;
use std::time::SystemTime;

use shoutd_core::cluster::TunnelKey;
use shoutd_core::plane::ENCRYPTED_NAMESPACE;
use shoutd_core::sessions::{Session, WireguardReading};
use shoutd_netlink::Namespace;
use shoutd_netlink::wireguard::{Device, Wireguard};

use super::{EncryptedNamespace, WireguardTier, tier_of, userspace};
use crate::kernel_error::KernelError;

/// What this host's WireGuard device tells; `None` if there is no such device. `directory` is that
/// of the segments' namespaces, and `socket` that of WireGuard in user space. It takes at most some
/// seconds, if that process hangs.
///
/// # Errors
/// The device cannot be read.
pub async fn read_wireguard(
    directory: &Path,
    socket: &Path,
) -> Result<Option<WireguardReading>, KernelError> {
    let file = directory.join(ENCRYPTED_NAMESPACE);
    if !file.exists() {
        return Ok(None);
    }
    let mut inside = EncryptedNamespace::open(Namespace::open(&file)?)?;
    let Some(link) = inside.link()? else { return Ok(None) };
    let tier = tier_of(&link);
    let device = match tier {
        WireguardTier::Kernel => {
            let wireguard = Wireguard::open(&inside.namespace)?;
            wireguard.map(|mut wireguard| wireguard.device(link.index)).transpose()?.flatten()
        }
        WireguardTier::Userspace => Some(userspace::device(socket).await?),
    };
    Ok(device.map(|device| reading(tier, &device, SystemTime::now())))
}

fn reading(tier: WireguardTier, device: &Device, now: SystemTime) -> WireguardReading {
    let peers = device.peers.iter().map(|(key, peer)| {
        // A clock that was set back makes a handshake seem to be in the future.
        let ago = peer.last_handshake.map(|at| now.duration_since(at).unwrap_or_default());
        (TunnelKey::new(key.0), Session { handshake_ago: ago })
    });
    WireguardReading { tier: tier.name(), peers: peers.collect() }
}
