//! Which WireGuard this machine can use.

use std::io;

use shoutd_core::encryption::WireguardChoice;
use shoutd_netlink::wireguard::Wireguard;
use shoutd_netlink::{Error, Namespace};
use shoutd_tunnel::check_tun;

/// Why this machine cannot use the chosen WireGuard, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum NoWireguard {
    /// The kernel has none.
    #[error(
        "this kernel has no WireGuard, which --wireguard=kernel needs: `modprobe wireguard`, use a \
         kernel with CONFIG_WIREGUARD (Linux 5.6), or leave out --wireguard"
    )]
    Kernel,
    /// There can be none in user space.
    #[error(
        "WireGuard in user space needs /dev/net/tun ({0}): `modprobe tun`, or use a kernel with \
         CONFIG_TUN"
    )]
    Userspace(io::Error),
    /// There is none at all.
    #[error(
        "this host cannot encrypt: its kernel has no WireGuard, and WireGuard in user space needs \
         /dev/net/tun ({0}): `modprobe wireguard` or `modprobe tun`"
    )]
    Neither(io::Error),
    /// The kernel does not answer.
    #[error(transparent)]
    Unknown(#[from] Error),
}

/// Checks that this machine has the chosen WireGuard. This loads the kernel's module, if it is
/// installed.
///
/// # Errors
/// It does not have it.
pub fn check_wireguard(choice: WireguardChoice) -> Result<(), NoWireguard> {
    let is_in_kernel =
        choice != WireguardChoice::Userspace && Wireguard::open(&Namespace::current()?)?.is_some();
    match choice {
        _ if is_in_kernel => Ok(()),
        WireguardChoice::Kernel => Err(NoWireguard::Kernel),
        WireguardChoice::Userspace => check_tun().map_err(NoWireguard::Userspace),
        WireguardChoice::Auto => check_tun().map_err(NoWireguard::Neither),
    }
}
