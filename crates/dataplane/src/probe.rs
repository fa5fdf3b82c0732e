//! Checks whether this machine can do what shoutd needs, by doing it in an anonymous namespace that
//! is gone afterwards.

use std::net::Ipv4Addr;
use std::path::Path;

use nix::errno::Errno;
use shoutd_core::limits::VNI_NOWHERE;
use shoutd_core::plane::Tier;
use shoutd_netlink::{
    BridgeSettings, Error, IgmpMldFilter, Namespace, NewVeth, NewVxlan, Pinned, Route,
    SegmentRules, TunnelGroup, VethEnd,
};

use crate::linux::PROTOCOL;

/// Optional features of this kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Whether it has IPv6.
    pub ipv6: bool,
    /// The best tier of replication.
    pub tier: Tier,
}

/// A missing feature, and how to get it.
#[derive(Debug, thiserror::Error)]
pub enum Incapable {
    /// The process lacks privileges.
    #[error(
        "shoutd must run as root: it makes network namespaces and devices (CAP_SYS_ADMIN and \
         CAP_NET_ADMIN)"
    )]
    NotRoot,
    /// There are no network namespaces.
    #[error("this kernel has no network namespaces ({0}): use one with CONFIG_NET_NS")]
    NoNamespaces(Error),
    /// There are no bridges.
    #[error(
        "this kernel has no bridges with IGMP snooping ({0}): `modprobe bridge`, or use one with \
         CONFIG_BRIDGE_IGMP_SNOOPING"
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
        "this kernel has no nf_tables for bridges ({0}): `modprobe -a nf_tables nft_meta_bridge`, \
         or use one with CONFIG_NF_TABLES_BRIDGE"
    )]
    NoFilter(Error),
}

/// Tries everything once. This loads the required kernel modules, if they are installed.
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
    let new = NewVeth {
        near,
        master: None,
        far: VethEnd { name: "far", ..near },
        far_namespace: &namespace,
    };
    route.create_veth(&new).map_err(refusal(Incapable::NoVeth))?;

    let local = Ipv4Addr::LOCALHOST.into();
    let new = NewVxlan {
        name: "tunnel",
        group: 0,
        vni: 1,
        local,
        port: 7789,
        ttl: 64,
        addresses_max: 64,
    };
    route.create_vxlan(&new, &namespace).map_err(refusal(Incapable::NoVxlan))?;

    let mut igmp_mld_filter =
        IgmpMldFilter::open(&namespace).map_err(refusal(Incapable::NoFilter))?;
    let rules = SegmentRules { max_rate: Some(1000), gateways: None };
    igmp_mld_filter.install("tunnel", &rules).map_err(refusal(Incapable::NoFilter))?;
    let tunnel = route
        .link("tunnel")
        .map_err(refusal(Incapable::NoVxlan))?
        .map(|link| link.index)
        .unwrap_or_default();
    let tier = probe_tier(&mut route, tunnel);
    Ok(Capabilities { ipv6: Path::new("/proc/sys/net/ipv6").exists(), tier })
}

/// The best tier that works on this VXLAN device. The error does not matter: there is always a
/// lesser tier.
fn probe_tier(route: &mut Route, tunnel: u32) -> Tier {
    let (remote, protocol) = (Ipv4Addr::new(192, 0, 2, 1).into(), PROTOCOL);
    // With the features that we use: a source and a VNI.
    let source = Some(Ipv4Addr::new(192, 0, 2, 2).into());
    let group = TunnelGroup {
        source,
        group: Ipv4Addr::new(239, 1, 1, 1).into(),
        remote,
        vni: Some(VNI_NOWHERE),
    };
    let groups = route.change_tunnel_groups(tunnel, protocol, &[(group, true)]);
    if groups.is_ok_and(|refused| refused.is_empty())
        && route.tunnel_groups(tunnel, protocol).is_ok_and(|found| found == [group])
    {
        return Tier::VxlanMdb;
    }
    let pinned = Pinned::Tunnel { mac: [0x01, 0x00, 0x5e, 1, 1, 1], remote };
    let pins = route.change_pinned(tunnel, &[(pinned, true)]);
    if pins.is_ok_and(|refused| refused.is_empty())
        && route.pinned(tunnel, 0).is_ok_and(|found| found == [pinned])
    {
        return Tier::MulticastFdb;
    }
    Tier::Flood
}

/// `EPERM` means missing privileges, whatever failed.
fn refusal(otherwise: fn(Error) -> Incapable) -> impl Fn(Error) -> Incapable {
    move |error| {
        if error.errno() == Some(Errno::EPERM) { Incapable::NotRoot } else { otherwise(error) }
    }
}
