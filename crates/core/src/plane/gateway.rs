//! The gateways of a segment, and its way out.
//!
//! A network's gateway addresses are on the segment's bridge of every host, with one MAC address
//! (an anycast gateway). From there packets are routed to the *uplink*, a veth pair from the
//! segment's namespace to the *way-out bridge*: the bridge of a Docker network that shoutd has the
//! engine make on each host. Docker's own rules for its bridges apply there. Connections leave the
//! segment with the uplink's address, which is of the way-out bridge's subnet.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{Action, Desired, Observed, ObservedBridge, ObservedSegment, OwnerTag, Segment};
use crate::cluster::Network;
use crate::{MacAddress, Vni};

/// The MAC address of every segment's bridge. The addresses of endpoints are made of their IPv4
/// addresses in the same way, and none has 0.0.0.1.
pub const GATEWAY_MAC: MacAddress = MacAddress([0x02, 0x73, 0, 0, 0, 1]);
/// The IPv6 link-local address of every segment's bridge. MLD queries come from it, and of two
/// queriers the one with the lower address remains (RFC 3810, section 7.6.2). So it is the highest:
/// a multicast router in a container must remain.
pub const GATEWAY_LINK_LOCAL: Ipv6Net =
    Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0xffff, 0xffff, 0xffff, 0xfffe), 64);
/// Name of every segment's end of its uplink.
pub const UPLINK: &str = "shoutup0";
/// Name of the way-out bridge, and of its Docker network.
pub const WAY_OUT_BRIDGE: &str = "shoutd_gwbridge";

/// The way-out bridge as the kernel of this host has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObservedWayOut {
    /// Its IPv4 address, with the prefix length of its subnet. It is the uplinks' gateway.
    pub address: Ipv4Net,
    /// Its MTU in octets.
    pub mtu: u16,
}

/// An uplink as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedUplink {
    /// The owner tag in its alias; `None` if it is incomplete.
    pub mark: Option<OwnerTag>,
    /// Its MTU in octets.
    pub mtu: u16,
    /// Whether it is up.
    pub up: bool,
    /// Whether the kernel routes packets that come in by it.
    pub forwards: bool,
    /// Its IPv4 addresses.
    pub addresses: BTreeSet<Ipv4Net>,
    /// The gateway of the segment's default route by this device.
    pub router: Option<Ipv4Addr>,
    /// The other end; `None` if it is not in the host's namespace.
    pub far: Option<UplinkFar>,
}

/// The end of an uplink in the host's namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UplinkFar {
    /// Its MTU in octets.
    pub mtu: u16,
    /// Whether it is up.
    pub up: bool,
    /// Whether it is a port of the way-out bridge, isolated from the other uplinks.
    pub attached: bool,
}

/// The gateway addresses of a network, with the prefix lengths of their subnets. Empty if it has no
/// way out (`--internal`).
pub(super) fn gateways(network: &Network) -> BTreeSet<IpNet> {
    let pools = network.settings.pools.iter().filter(|_| !network.settings.internal);
    pools.filter_map(|pool| IpNet::new(pool.gateway?, pool.subnet.prefix_len()).ok()).collect()
}

/// The address of each uplink. One that has an address of the way-out bridge's subnet keeps it, so
/// that its connections stay. Others get the highest free ones: Docker gives out the lowest.
pub(super) fn uplink_addresses(desired: &Desired, observed: &Observed) -> BTreeMap<Vni, Ipv4Net> {
    let Some(way_out) = &observed.way_out else { return BTreeMap::new() };
    let wanted = desired.segments.iter().filter(|(_, segment)| segment.has_way_out());
    let wanted: Vec<Vni> = wanted.map(|(&vni, _)| vni).collect();
    let mut taken = BTreeSet::from([way_out.address.addr()]);
    let mut addresses = BTreeMap::new();
    for &vni in &wanted {
        let uplink = observed.segments.get(&vni).and_then(|segment| segment.uplink.as_ref());
        let mut there = uplink.iter().flat_map(|uplink| &uplink.addresses);
        let kept = there.find(|address| {
            address.trunc() == way_out.address.trunc() && !taken.contains(&address.addr())
        });
        if let Some(kept) = kept {
            taken.insert(kept.addr());
            addresses.insert(vni, *kept);
        }
    }
    let mut free = free_from_the_top(way_out.address, taken);
    for vni in wanted {
        if !addresses.contains_key(&vni)
            && let Some(address) = free.next()
        {
            addresses.insert(vni, address);
        }
    }
    addresses
}

/// The addresses of a subnet from the highest down, except the network's own, the broadcast
/// address, and those taken.
fn free_from_the_top(subnet: Ipv4Net, taken: BTreeSet<Ipv4Addr>) -> impl Iterator<Item = Ipv4Net> {
    let (low, high) = (u32::from(subnet.network()), u32::from(subnet.broadcast()));
    let hosts = (low.saturating_add(1)..high).rev().map(Ipv4Addr::from);
    hosts
        .filter(move |address| !taken.contains(address))
        .filter_map(move |address| Ipv4Net::new(address, subnet.prefix_len()).ok())
}

/// Plans what a segment's gateways and way out lack. Without a way-out bridge the uplink stays as
/// it is: the bridge comes back with the same subnet.
pub(super) fn plan_gateways(
    vni: Vni,
    desired: &Segment,
    current: &ObservedSegment,
    (way_out, address): (Option<&ObservedWayOut>, Option<Ipv4Net>),
    plan: &mut Vec<Action>,
) {
    // Without gateways too: then nothing at all is routed.
    if !current.way_out_filter {
        plan.push(Action::InstallWayOutFilter { vni });
    }
    let has_gateways = current
        .bridge
        .as_ref()
        .map_or(desired.gateways.is_empty(), |bridge| has_gateways(bridge, desired));
    if !has_gateways {
        plan.push(Action::TuneGateways { vni, addresses: desired.gateways.clone() });
    }
    if !desired.has_way_out() {
        if current.uplink.is_some() {
            plan.push(Action::DeleteUplink { vni });
        }
        return;
    }
    let (Some(way_out), Some(address)) = (way_out, address) else { return };
    let kept = current.uplink.as_ref().filter(|uplink| is_same_uplink(uplink, desired));
    if current.uplink.is_some() && kept.is_none() {
        plan.push(Action::DeleteUplink { vni });
    }
    if kept.is_none() {
        plan.push(Action::CreateUplink { vni, network: desired.network.clone() });
    }
    let router = way_out.address.addr();
    if !kept.is_some_and(|uplink| uplink.leads_out(address, way_out)) {
        plan.push(Action::TuneUplink { vni, address, router, mtu: way_out.mtu });
    }
}

/// Whether the bridge has the segment's gateway addresses, and routes what comes in if it has any.
fn has_gateways(bridge: &ObservedBridge, desired: &Segment) -> bool {
    bridge.forwards != desired.gateways.is_empty() && bridge.addresses == desired.gateways
}

fn is_same_uplink(uplink: &ObservedUplink, desired: &Segment) -> bool {
    uplink.mark == Some(OwnerTag::Network(desired.network.clone())) && uplink.far.is_some()
}

impl ObservedUplink {
    /// Whether it is as it should be.
    fn leads_out(&self, address: Ipv4Net, way_out: &ObservedWayOut) -> bool {
        let far = UplinkFar { mtu: way_out.mtu, up: true, attached: true };
        self.addresses == BTreeSet::from([address])
            && self.router == Some(way_out.address.addr())
            && self.mtu == way_out.mtu
            && self.up
            && self.forwards
            && self.far == Some(far)
    }
}

impl Observed {
    /// Whether containers reach the world by the way out of this segment.
    pub fn leads_out(&self, vni: Vni) -> bool {
        let (Some(way_out), Some(segment)) = (&self.way_out, self.segments.get(&vni)) else {
            return false;
        };
        let is_routed = segment.bridge.as_ref().is_some_and(|bridge| bridge.forwards);
        let leads_out = segment.uplink.as_ref().is_some_and(|uplink| {
            uplink.addresses.first().is_some_and(|address| {
                address.trunc() == way_out.address.trunc() && uplink.leads_out(*address, way_out)
            })
        });
        is_routed && segment.way_out_filter && leads_out
    }
}

/// Why containers of this host's networks have no way out by their gateways, if that is so.
pub fn way_out_problem(desired: &Desired, observed: &Observed) -> Option<String> {
    let wanted = desired.segments.values().filter(|segment| segment.has_way_out()).count();
    let Some(way_out) = observed.way_out.filter(|_| wanted > 0) else {
        return (wanted > 0).then(|| {
            format!(
                "Docker network {WAY_OUT_BRIDGE} has no bridge on this host, so new containers \
                 get docker_gwbridge as a second interface; see the log for why Docker does not \
                 create it"
            )
        });
    };
    let without = wanted.saturating_sub(uplink_addresses(desired, observed).len());
    (without > 0).then(|| {
        format!(
            "subnet {} of Docker network {WAY_OUT_BRIDGE} has no address for {without} of the \
             networks in use here, so their new containers get docker_gwbridge as a second \
             interface; create that network again with a larger subnet",
            way_out.address.trunc()
        )
    })
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::NetworkId;
    use crate::plane::Vtep;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    fn segment(number: u8) -> Segment {
        let network: NetworkId = format!("{number:064x}").parse().unwrap();
        let vtep = Vtep { address: IpAddr::from([192, 0, 2, 1]), port: 7789, encrypted: false };
        let gateways = BTreeSet::from([IpNet::from(net("10.9.0.1/24"))]);
        Segment { gateways, ..Segment::empty(network, 1450, vtep) }
    }

    fn vni(number: u32) -> Vni {
        Vni::new(number).unwrap()
    }

    fn uplink(number: u8, address: &str, router: Option<Ipv4Addr>) -> ObservedUplink {
        ObservedUplink {
            mark: Some(OwnerTag::Network(segment(number).network)),
            mtu: 1500,
            up: true,
            forwards: true,
            addresses: BTreeSet::from([net(address)]),
            router,
            far: Some(UplinkFar { mtu: 1500, up: true, attached: true }),
        }
    }

    fn desired(numbers: impl IntoIterator<Item = u8>) -> Desired {
        let segments = numbers.into_iter().map(|number| (vni(number.into()), segment(number)));
        Desired { segments: segments.collect(), ..Desired::default() }
    }

    fn observed(way_out: &str, uplinks: &[(u8, &str)]) -> Observed {
        let segments = uplinks.iter().map(|(number, address)| {
            let uplink = Some(uplink(*number, address, Some(net(way_out).addr())));
            let segment = ObservedSegment { uplink, way_out_filter: true, ..Default::default() };
            (vni(u32::from(*number)), segment)
        });
        let way_out = Some(ObservedWayOut { address: net(way_out), mtu: 1500 });
        Observed { way_out, segments: segments.collect(), ..Observed::default() }
    }

    #[test]
    fn uplinks_get_the_highest_addresses_and_keep_them() {
        let found = uplink_addresses(&desired([1, 2, 3]), &observed("172.19.0.1/16", &[]));
        let all: Vec<_> = found.values().map(ToString::to_string).collect();
        assert_eq!(all, ["172.19.255.254/16", "172.19.255.253/16", "172.19.255.252/16"]);

        let there = observed("172.19.0.1/16", &[(2, "172.19.255.254/16"), (3, "172.19.3.3/16")]);
        let found = uplink_addresses(&desired([1, 2, 3]), &there);
        let all: Vec<_> = found.values().map(ToString::to_string).collect();
        assert_eq!(all, ["172.19.255.253/16", "172.19.255.254/16", "172.19.3.3/16"]);
    }

    #[test]
    fn an_address_of_another_subnet_or_of_two_uplinks_is_replaced() {
        let there = observed("172.19.0.1/24", &[(1, "172.18.0.9/24"), (2, "172.19.0.9/24")]);
        let found = uplink_addresses(&desired([1, 2]), &there);
        assert_eq!(found[&vni(1)], net("172.19.0.254/24"));
        assert_eq!(found[&vni(2)], net("172.19.0.9/24"));

        let there = observed("172.19.0.1/24", &[(1, "172.19.0.9/24"), (2, "172.19.0.9/24")]);
        let found = uplink_addresses(&desired([1, 2]), &there);
        assert_eq!(found[&vni(1)], net("172.19.0.9/24"));
        assert_eq!(found[&vni(2)], net("172.19.0.254/24"));
    }

    #[test]
    fn a_small_subnet_serves_as_many_as_it_has_addresses() {
        let found = uplink_addresses(&desired(1..=9), &observed("172.19.0.1/29", &[]));
        let all: BTreeSet<Ipv4Addr> = found.values().map(Ipv4Net::addr).collect();
        assert_eq!((found.len(), all.len()), (5, 5));
        assert!(!all.contains(&Ipv4Addr::new(172, 19, 0, 1)));
    }

    #[test]
    fn a_missing_bridge_and_a_full_subnet_are_problems() {
        let problem =
            |networks, observed: Observed| way_out_problem(&desired(1..=networks), &observed);
        assert_eq!(problem(0, Observed::default()), None);
        assert!(problem(1, Observed::default()).unwrap().contains("has no bridge"));
        assert_eq!(problem(5, observed("172.19.0.1/29", &[])), None);
        let full = problem(9, observed("172.19.0.1/29", &[])).unwrap();
        assert!(full.contains("172.19.0.0/29") && full.contains("for 4 of"), "{full}");
    }

    #[test]
    fn without_a_way_out_bridge_an_uplink_stays() {
        let mut plan = Vec::new();
        let there = observed("172.19.0.1/24", &[(1, "172.19.0.9/24")]);
        plan_gateways(vni(1), &segment(1), &there.segments[&vni(1)], (None, None), &mut plan);
        let addresses = segment(1).gateways;
        assert_eq!(plan, [Action::TuneGateways { vni: vni(1), addresses }]);
    }
}
