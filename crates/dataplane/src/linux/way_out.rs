//! The gateways of a segment, and its way out by an uplink to the way-out bridge.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use ipnet::{IpNet, Ipv4Net};
use shoutd_core::plane::{
    BRIDGE, DeviceName, GATEWAY_LINK_LOCAL, GATEWAY_MAC, ObservedUplink, ObservedWayOut, OwnerTag,
    UPLINK, UplinkFar, WAY_OUT_BRIDGE,
};
use shoutd_core::{NetworkId, Vni};
use shoutd_netlink::{
    Address, Gateways, Kind, Link, LinkChange, NewVeth, Route, SegmentRules, VethEnd, WayOut,
};

use super::execute::{find, foreign};
use super::handle::SegmentHandle;
use super::observe::{is_link_local, octets};
use super::{GROUP, LinuxKernel, is_ours, owner_tag, write_setting};
use crate::kernel_error::KernelError;

/// The devices between which a segment's way out leads.
pub(super) const WAY_OUT: WayOut<'static> = WayOut { inside: BRIDGE, outside: UPLINK };

/// The MTU of a new uplink in octets, until it is tuned.
const MTU_AT_FIRST: u32 = 1500;

/// Settings of a device that routes, about IPv4.
///
/// * It does not tell containers of better ways (RFC 792, redirects): they may have none.
/// * Only packets from the bridge's own subnets are routed (RFC 3704, strict reverse path).
/// * It answers ARP requests for its own addresses only, not for those of the uplink.
const SETTINGS: [(&str, &str); 3] =
    [("send_redirects", "0"), ("rp_filter", "1"), ("arp_ignore", "1")];

/// The rules of the filter of a segment with these gateways. Their link-local address is protected
/// too: routers are known by it (RFC 4861).
pub(super) fn segment_rules(max_rate: Option<u32>, gateways: &BTreeSet<IpAddr>) -> SegmentRules {
    let gateways = (!gateways.is_empty()).then(|| Gateways {
        mac: GATEWAY_MAC.0,
        addresses: gateways
            .iter()
            .copied()
            .chain([IpAddr::V6(GATEWAY_LINK_LOCAL.addr())])
            .collect(),
    });
    SegmentRules { max_rate, gateways }
}

/// The gateways of a filter, as in [`segment_rules`].
pub(super) fn gateways_of(rules: &SegmentRules) -> BTreeSet<IpAddr> {
    let addresses = rules.gateways.iter().flat_map(|gateways| &gateways.addresses).copied();
    addresses.filter(|address| *address != IpAddr::V6(GATEWAY_LINK_LOCAL.addr())).collect()
}

impl SegmentHandle {
    pub(super) fn tune_gateways(
        &mut self,
        vni: Vni,
        addresses: &BTreeSet<IpNet>,
    ) -> Result<(), KernelError> {
        let bridge = self.own(vni, BRIDGE)?.index;
        for &address in addresses {
            self.route.add_address(bridge, address)?;
        }
        let there = self.route.addresses()?.into_iter().filter(|address| address.link == bridge);
        for Address { net, .. } in there {
            if !addresses.contains(&net) && !is_link_local(net) {
                self.route.remove_address(bridge, net)?;
            }
        }
        self.set(BRIDGE, !addresses.is_empty())
    }

    /// Writes the settings of a device that routes.
    fn set(&mut self, device: &'static str, forwards: bool) -> Result<(), KernelError> {
        // Docker loads br_netfilter after shoutd has made a segment. The settings of this namespace
        // then exist, and let bridged frames pass the hooks of routed packets.
        let settings = move || {
            for table in ["arptables", "ip6tables", "iptables"] {
                let name = format!("bridge/bridge-nf-call-{table}");
                if Path::new("/proc/sys/net").join(&name).exists() {
                    write_setting(&name, "0")?;
                }
            }
            let forwarding = ("forwarding", if forwards { "1" } else { "0" });
            SETTINGS.iter().chain([&forwarding]).try_for_each(|(name, value)| {
                write_setting(&format!("ipv4/conf/{device}/{name}"), value)
            })
        };
        self.namespace.run(settings)?.map_err(KernelError::Setting)
    }
}

impl LinuxKernel {
    pub(super) fn create_uplink(
        &mut self,
        vni: Vni,
        network: &NetworkId,
    ) -> Result<(), KernelError> {
        let host = self.host.clone();
        let far = DeviceName::uplink(vni);
        if let Some(link) = self.host_route.link(far.as_str())? {
            // The kernel dismantles a deleted namespace asynchronously.
            if !is_ours(&link) {
                return Err(foreign(&link, "of the host".to_owned()));
            }
            self.host_route.delete_link(link.index)?;
        }
        let segment = self.segment(vni)?;
        segment.refuse_foreign(vni, UPLINK)?;
        segment.route.create_veth(&NewVeth {
            near: VethEnd { name: UPLINK, group: GROUP, mtu: MTU_AT_FIRST, mac: None },
            master: None,
            far: VethEnd { name: far.as_str(), group: GROUP, mtu: MTU_AT_FIRST, mac: None },
            far_namespace: &host,
        })?;
        let tag = OwnerTag::Network(network.clone());
        let index = find(&mut self.host_route, far.as_str(), "of the host")?.index;
        let alias = tag.to_string();
        let change = LinkChange { alias: Some(&alias), ..LinkChange::default() };
        self.host_route.change_link(index, &change)?;
        self.segment(vni)?.set_owner_tag(vni, UPLINK, &tag, None)
    }

    pub(super) fn tune_uplink(
        &mut self,
        vni: Vni,
        address: Ipv4Net,
        router: Ipv4Addr,
        mtu: u16,
    ) -> Result<(), KernelError> {
        let mtu = Some(u32::from(mtu));
        let bridge = find(&mut self.host_route, WAY_OUT_BRIDGE, "of the host")?.index;
        let far = find(&mut self.host_route, DeviceName::uplink(vni).as_str(), "of the host")?;
        let change = LinkChange { master: Some(bridge), mtu, ..LinkChange::default() };
        self.host_route.change_link(far.index, &change)?;
        self.host_route.isolate_port(far.index)?;
        let up = LinkChange { up: Some(true), ..LinkChange::default() };
        self.host_route.change_link(far.index, &up)?;

        let segment = self.segment(vni)?;
        let near = segment.own(vni, UPLINK)?.index;
        segment.set(UPLINK, true)?;
        let change = LinkChange { mtu, up: Some(true), ..LinkChange::default() };
        segment.route.change_link(near, &change)?;
        segment.route.add_address(near, address.into())?;
        let there = segment.route.addresses()?.into_iter().filter(|other| other.link == near);
        for Address { net, .. } in there.filter(|other| other.net != IpNet::from(address)) {
            segment.route.remove_address(near, net)?;
        }
        segment.route.set_default_route(near, router)?;
        // A bridge that came back has another MAC address.
        Ok(segment.route.forget_neighbour(near, router)?)
    }
}

/// Reads the way-out bridge. One without an IPv4 address is not ready.
pub(super) fn observe_way_out(
    host_route: &mut Route,
) -> Result<Option<(u32, ObservedWayOut)>, KernelError> {
    let Some(bridge) = host_route.link(WAY_OUT_BRIDGE)? else { return Ok(None) };
    if !matches!(bridge.kind, Kind::Bridge(_)) || !bridge.up {
        return Ok(None);
    }
    let addresses = host_route.addresses()?;
    let address = addresses.iter().find_map(|address| match address.net {
        IpNet::V4(net) if address.link == bridge.index && !address.secondary => Some(net),
        _ => None,
    });
    Ok(address.map(|address| (bridge.index, ObservedWayOut { address, mtu: octets(&bridge) })))
}

/// Reads the end of the uplink in the segment. The other end is read in the host's namespace.
pub(super) fn observe_uplink(
    route: &mut Route,
    link: &Link,
    addresses: &[Address],
) -> Result<ObservedUplink, KernelError> {
    let own = addresses.iter().filter(|address| address.link == link.index);
    let addresses = own
        .filter_map(|address| match address.net {
            IpNet::V4(net) => Some(net),
            IpNet::V6(_) => None,
        })
        .collect();
    let routes = route.routes_of(link.index)?;
    let default = routes.iter().find(|route| route.destination.prefix_len() == 0);
    Ok(ObservedUplink {
        mark: owner_tag(link),
        mtu: octets(link),
        up: link.up,
        forwards: link.forwards,
        addresses,
        router: default.and_then(|route| match route.gateway {
            Some(IpAddr::V4(gateway)) => Some(gateway),
            _ => None,
        }),
        far: None,
    })
}

/// The other end of an uplink, by its device in the host's namespace.
pub(super) fn observe_far(link: &Link, way_out: Option<u32>) -> UplinkFar {
    let is_isolated = link.port.is_some_and(|port| port.isolated);
    UplinkFar {
        mtu: octets(link),
        up: link.up,
        attached: link.master.is_some() && link.master == way_out && is_isolated,
    }
}
