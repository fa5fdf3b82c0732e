//! Whether this machine can do what shoutd needs: found out by doing it, in a namespace that nobody sees and that is gone afterwards.

use std::net::Ipv4Addr;
use std::path::Path;

use nix::errno::Errno;
use shoutd_netlink::{BridgeSettings, Error, Guard, Namespace, NewVeth, NewVxlan, Route, VethEnd};

/// What this kernel can do beyond what shoutd must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// IPv6, at all.
    pub ipv6: bool,
}

/// What is missing, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Incapable {
    /// The process may not do what only root may.
    #[error("shoutd must run as root: it makes network namespaces and devices (CAP_SYS_ADMIN and CAP_NET_ADMIN)")]
    NotRoot,
    /// There are no network namespaces.
    #[error("this kernel has no network namespaces ({0}): use one with CONFIG_NET_NS")]
    NoNamespaces(Error),
    /// There are no bridges.
    #[error(
        "this kernel has no bridges with IGMP snooping ({0}): `modprobe bridge`, or use one with CONFIG_BRIDGE_IGMP_SNOOPING"
    )]
    NoBridge(Error),
    /// There is no veth.
    #[error("this kernel has no veth devices ({0}): `modprobe veth`, or use one with CONFIG_VETH")]
    NoVeth(Error),
    /// There is no VXLAN.
    #[error("this kernel has no VXLAN ({0}): `modprobe vxlan`, or use one with CONFIG_VXLAN")]
    NoVxlan(Error),
    /// There is no nf_tables for bridges.
    #[error(
        "this kernel has no nf_tables for bridges ({0}): `modprobe -a nf_tables nft_meta_bridge`, or use one with CONFIG_NF_TABLES_BRIDGE"
    )]
    NoFilter(Error),
}

/// Tries everything once. Kernel modules that are needed are loaded by that, where they are installed.
pub fn probe() -> Result<Capabilities, Incapable> {
    let namespace = Namespace::anonymous().map_err(refusal(Incapable::NoNamespaces))?;
    let mut route = Route::open(&namespace).map_err(refusal(Incapable::NoNamespaces))?;

    let settings = BridgeSettings {
        snooping: true,
        querier: true,
        igmp_version: 3,
        mld_version: 2,
        groups_max: 4096,
        ..Default::default()
    };
    route.create_bridge("bridge", 0, &settings).map_err(refusal(Incapable::NoBridge))?;

    let near = VethEnd { name: "near", group: 0, mtu: 1500, mac: None };
    let new = NewVeth { near, master: None, far: VethEnd { name: "far", ..near }, far_namespace: &namespace };
    route.create_veth(&new).map_err(refusal(Incapable::NoVeth))?;

    let new = NewVxlan { name: "tunnel", group: 0, vni: 1, local: Ipv4Addr::LOCALHOST.into(), port: 7789, ttl: 64 };
    route.create_vxlan(&new, &namespace).map_err(refusal(Incapable::NoVxlan))?;

    let mut guard = Guard::open(&namespace).map_err(refusal(Incapable::NoFilter))?;
    guard.install("tunnel").map_err(refusal(Incapable::NoFilter))?;
    Ok(Capabilities { ipv6: Path::new("/proc/sys/net/ipv6").exists() })
}

/// Lack of privilege is that, whatever it was met at.
fn refusal(otherwise: fn(Error) -> Incapable) -> impl Fn(Error) -> Incapable {
    move |error| if error.errno() == Some(Errno::EPERM) { Incapable::NotRoot } else { otherwise(error) }
}
