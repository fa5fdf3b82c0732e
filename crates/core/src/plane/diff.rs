//! The steps from the observed to the desired state, in an order that neither leaks nor loses
//! packets.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::Ipv4Net;

use super::gateway::{plan_gateways, uplink_addresses};
use super::{
    Action, ContainerEnd, Desired, DeviceName, EncryptionWanted, GATEWAY_MAC, GROUPS_MAX,
    IGMP_VERSION, MEMBERSHIP_INTERVAL_OF_KERNEL, MLD_VERSION, MULTICAST_ROUTER_ALWAYS, Observed,
    ObservedBridge, ObservedPort, ObservedSegment, ObservedTunnel, ObservedUnderlayFilter,
    OwnerTag, Place, Port, Segment,
};
use crate::Vni;
use crate::limits::{GROUPS_PER_PORT_MAX, LEARNED_MAX, MTU_MIN};

/// The steps that give the kernel what is `desired`; empty if it already has that.
///
/// The underlay filter comes first: no VXLAN device is created before it is installed, and it
/// admits a new member before we send anything to it. Next, segments that are not desired are
/// deleted. Then each desired segment is built from the inside out: namespace, bridge, IGMP/MLD
/// filter, VXLAN device with its flood entries. Only then is the device added to the bridge. So
/// no query or report leaves before the filter is installed, and the first frame that reaches the
/// VXLAN device finds every remote. Ports come last.
///
/// Nothing without shoutd's owner tag is ever deleted.
pub fn diff(desired: &Desired, observed: &Observed) -> Vec<Action> {
    let mut plan: Vec<Action> = plan_underlay_filter(desired, observed).into_iter().collect();
    // Before the VXLAN devices, whose sockets are in its namespace.
    plan.extend(plan_encryption(desired, observed));
    for (&vni, segment) in &observed.segments {
        let is_untold = segment.network().is_some_and(|network| desired.untold.contains(network));
        if !desired.segments.contains_key(&vni) && segment.is_ours() && !is_untold {
            plan.push(Action::DeleteSegment { vni });
        }
    }
    let uplinks = uplink_addresses(desired, observed);
    for (&vni, segment) in &desired.segments {
        if !observed.unreadable_segments.contains_key(&vni) {
            plan_segment(vni, segment, observed, uplinks.get(&vni).copied(), &mut plan);
        }
    }
    if desired.encryption == EncryptionWanted::Absent && observed.encryption.is_some() {
        plan.push(Action::DeleteEncryptedUnderlay);
    }
    plan
}

fn plan_encryption(desired: &Desired, observed: &Observed) -> Option<Action> {
    let EncryptionWanted::Present(wanted) = &desired.encryption else { return None };
    let is_there = observed.encryption.as_ref().is_some_and(|there| wanted.is_in_place(there));
    (!is_there).then(|| Action::SetEncryptedUnderlay { wanted: wanted.clone() })
}

fn plan_underlay_filter(desired: &Desired, observed: &Observed) -> Option<Action> {
    match (&desired.underlay_filter, &observed.underlay_filter) {
        (Some(wanted), found) if found.enforced() == Some(wanted) => None,
        (Some(wanted), _) => Some(Action::InstallUnderlayFilter { filter: wanted.clone() }),
        // A filter that cannot be read is taken as absent.
        (None, ObservedUnderlayFilter::Absent | ObservedUnderlayFilter::Unreadable(_)) => None,
        (None, _) => Some(Action::RemoveUnderlayFilter),
    }
}

fn plan_segment(
    vni: Vni,
    desired: &Segment,
    observed: &Observed,
    uplink: Option<Ipv4Net>,
    plan: &mut Vec<Action>,
) {
    let empty = ObservedSegment::default();
    let found = observed.segments.get(&vni);
    let stale = found.is_some_and(|segment| is_of_another_network(segment, desired));
    if stale {
        plan.push(Action::DeleteSegment { vni });
    }
    if stale || found.is_none() {
        plan.push(Action::CreateSegment { vni });
    }
    let current = found.filter(|_| !stale).unwrap_or(&empty);
    let mut desired = Cow::Borrowed(desired);
    if let Some(mtu) = kept_mtu(&desired, current) {
        desired.to_mut().mtu = mtu;
    }
    let desired = &*desired;

    plan_bridge(vni, desired, current.bridge.as_ref(), plan);
    if !has_filter(current, desired) {
        let (max_rate, gateways) = (desired.max_rate, desired.gateway_addresses());
        plan.push(Action::InstallIgmpMldFilter { vni, max_rate, gateways });
    }
    // Before the ports, so that a container's first packet finds its gateway.
    plan_gateways(vni, desired, current, (observed.way_out.as_ref(), uplink), plan);
    plan_tunnel(vni, desired, current, plan);
    plan_ports(vni, desired, current, &observed.missing_sandboxes, plan);
    // After learning was disabled, so that nothing is learned again.
    if !desired.learning && current.learned.count > 0 {
        plan.push(Action::ForgetLearned { vni });
    }
}

/// Whether the IGMP/MLD filter is intact and has the segment's settings.
fn has_filter(current: &ObservedSegment, desired: &Segment) -> bool {
    current.igmp_mld_filter
        && current.max_rate == desired.max_rate
        && current.gateways == desired.gateway_addresses()
}

/// The current MTU, if it must not be raised yet. After a start of the daemon, a host that has not
/// advertised yet may have an underlay that allows no more than the current MTU.
fn kept_mtu(desired: &Segment, current: &ObservedSegment) -> Option<u16> {
    let bridge = current.bridge.as_ref().filter(|bridge| bridge.mark.is_some())?;
    let is_less = (MTU_MIN..desired.mtu).contains(&bridge.mtu);
    (desired.replication.provisional && is_less).then_some(bridge.mtu)
}

/// Whether the namespace is left over from another network that had this VNI.
fn is_of_another_network(segment: &ObservedSegment, desired: &Segment) -> bool {
    let marks =
        [segment.bridge.as_ref().map(|b| &b.mark), segment.tunnel.as_ref().map(|t| &t.mark)];
    marks
        .into_iter()
        .flatten()
        .flatten()
        .any(|mark| *mark != OwnerTag::Network(desired.network.clone()))
}

fn plan_bridge(
    vni: Vni,
    desired: &Segment,
    current: Option<&ObservedBridge>,
    plan: &mut Vec<Action>,
) {
    // A bridge without an owner tag is incomplete. Creating it again completes it.
    if current.is_none_or(|bridge| bridge.mark.is_none()) {
        plan.push(Action::CreateBridge { vni, network: desired.network.clone() });
    }
    if !current.is_some_and(|bridge| is_tuned_bridge(bridge, desired.mtu)) {
        plan.push(Action::TuneBridge { vni, mtu: desired.mtu });
    }
}

fn is_tuned_bridge(bridge: &ObservedBridge, mtu: u16) -> bool {
    bridge.mtu == mtu
        && bridge.mac == GATEWAY_MAC
        && bridge.up
        && bridge.snooping
        && bridge.querier
        && bridge.igmp_version == IGMP_VERSION
        && bridge.mld_version == MLD_VERSION
        && bridge.groups_max >= GROUPS_MAX
        && bridge.multicast_router == MULTICAST_ROUTER_ALWAYS
        // Any other value was chosen by a user, and stays.
        && bridge.membership_interval != MEMBERSHIP_INTERVAL_OF_KERNEL
        && bridge.learned_max.is_none_or(|max| usize::try_from(max) == Ok(LEARNED_MAX))
        && bridge.link_local
}

fn plan_tunnel(vni: Vni, desired: &Segment, current: &ObservedSegment, plan: &mut Vec<Action>) {
    let kept = current.tunnel.as_ref().filter(|tunnel| is_same_tunnel(tunnel, vni, desired));
    if current.tunnel.is_some() && kept.is_none() {
        plan.push(Action::DeleteTunnel { vni });
    }
    if kept.is_none() {
        plan.push(Action::CreateTunnel {
            vni,
            network: desired.network.clone(),
            vtep: desired.vtep,
        });
    }
    let none = BTreeSet::new();
    let flood: &BTreeSet<IpAddr> = if kept.is_some() { &current.flood } else { &none };
    plan.extend(desired.remotes.difference(flood).map(|&remote| Action::AddFlood { vni, remote }));
    plan.extend(
        flood.difference(&desired.remotes).map(|&remote| Action::RemoveFlood { vni, remote }),
    );
    if !kept.is_some_and(|tunnel| is_tuned_tunnel(tunnel, desired)) {
        plan.push(Action::TuneTunnel { vni, mtu: desired.mtu, learning: desired.learning });
    }
}

/// Whether the attributes match that shoutd sets only when it creates a VXLAN device. The kernel
/// cannot change VNI and port later (`vxlan_nl2conf`).
fn is_same_tunnel(tunnel: &ObservedTunnel, vni: Vni, desired: &Segment) -> bool {
    tunnel.mark.is_some()
        && tunnel.vni == Some(vni)
        && tunnel.local == Some(desired.vtep.address)
        && tunnel.port == desired.vtep.port
}

fn is_tuned_tunnel(tunnel: &ObservedTunnel, desired: &Segment) -> bool {
    tunnel.mtu == desired.mtu
        && tunnel.up
        && tunnel.enslaved
        && tunnel.learning == desired.learning
        && tunnel.port_learning == desired.learning
        && tunnel.multicast_router == MULTICAST_ROUTER_ALWAYS
}

fn plan_ports(
    vni: Vni,
    desired: &Segment,
    current: &ObservedSegment,
    missing_sandboxes: &BTreeSet<PathBuf>,
    plan: &mut Vec<Action>,
) {
    // Deletions precede creations: a new endpoint may have the name or the addresses of an old one.
    for (name, found) in &current.ports {
        if !is_same_endpoint(found, desired.ports.get(name)) {
            plan.push(Action::DeletePort { vni, name: name.clone() });
        }
    }
    for (name, port) in &desired.ports {
        match current.ports.get(name).filter(|found| is_same_endpoint(found, Some(port))) {
            None => plan_missing_port(vni, port, desired, missing_sandboxes, plan),
            Some(found) => plan_kept_port(vni, (name, port), desired, found, plan),
        }
    }
}

/// Whether a port is that of the endpoint that is to have it.
fn is_same_endpoint(found: &ObservedPort, desired: Option<&Port>) -> bool {
    desired.is_some_and(|port| found.mark == Some(OwnerTag::Endpoint(port.endpoint.clone())))
}

fn plan_missing_port(
    vni: Vni,
    port: &Port,
    segment: &Segment,
    missing_sandboxes: &BTreeSet<PathBuf>,
    plan: &mut Vec<Action>,
) {
    let place = match &port.sandbox {
        None => Place::Host,
        // The container is gone and Docker has not called `Leave` yet.
        Some(path) if missing_sandboxes.contains(path) => return,
        Some(path) => Place::Sandbox(path.clone()),
    };
    let (mtu, learning) = (segment.mtu, segment.learning);
    plan.push(Action::CreatePort { vni, port: port.clone(), mtu, learning, place });
}

fn plan_kept_port(
    vni: Vni,
    (name, port): (&DeviceName, &Port),
    segment: &Segment,
    found: &ObservedPort,
    plan: &mut Vec<Action>,
) {
    let (mtu, learning) = (segment.mtu, segment.learning);
    if !is_tuned_port(found, segment) {
        plan.push(Action::TunePort { vni, name: name.clone(), mtu, learning });
    }
    if let Some(end) = &found.container_end
        && let Place::Sandbox(sandbox) = &end.place
        && end.detects_duplicates
    {
        let (sandbox, port) = (sandbox.clone(), name.clone());
        plan.push(Action::EndDuplicateDetection { vni, port, sandbox, name: end.name.clone() });
    }
    // If the container's end is in the host's namespace, or in none that we know, then Docker is
    // about to move it: we leave it alone.
    if let (Some(end), Some(sandbox)) = (&found.container_end, &port.sandbox)
        && end.place == Place::Sandbox(sandbox.clone())
        && !is_complete_end(end, port, mtu)
    {
        let (port, sandbox, name) = (port.clone(), sandbox.clone(), end.name.clone());
        plan.push(Action::TuneContainerEnd { vni, port, mtu, sandbox, name });
    }
}

fn is_tuned_port(found: &ObservedPort, segment: &Segment) -> bool {
    let is_limited =
        found.groups_max.is_none_or(|max| usize::try_from(max) == Ok(GROUPS_PER_PORT_MAX));
    found.mtu == segment.mtu
        && found.up
        && found.enslaved
        && found.learning == segment.learning
        && is_limited
}

/// Whether the container's interface has all that it should have; it may have more. If it is down,
/// Docker has not brought it up yet or it was brought down in the container. We leave it alone, and
/// set what is missing once it is up again.
fn is_complete_end(end: &ContainerEnd, port: &Port, mtu: u16) -> bool {
    let is_set_up = end.mtu == mtu
        && end.mac == port.mac
        && end.addresses.is_superset(&port.addresses)
        && end.multicast_routes.is_superset(&port.multicast_routes);
    !end.up || is_set_up
}
