//! Executing actions. The last step of a creation sets the device's owner tag, so a tagged device
//! is complete. Later actions tune it.

use std::collections::BTreeSet;
use std::path::Path;

use ipnet::IpNet;
use shoutd_core::limits::{GROUPS_PER_PORT_MAX, LEARNED_MAX};
use shoutd_core::plane::{
    Action, BRIDGE, DeviceName, GATEWAY_LINK_LOCAL, GATEWAY_MAC, GROUPS_MAX, IGMP_VERSION,
    MEMBERSHIP_INTERVAL, MEMBERSHIP_INTERVAL_OF_KERNEL, MLD_VERSION, MULTICAST_ROUTER_ALWAYS,
    OwnerTag, Place, Port, TUNNEL, UPLINK, namespace_name,
};
use shoutd_core::{NetworkId, Vni};
use shoutd_netlink::{
    Address, BridgeSettings, GroupFilter, Kind, Link, LinkChange, Namespace, NewVeth, Route,
    VethEnd,
};

use super::handle::{SandboxHandle, SegmentHandle};
use super::observe::{is_link_local, multicast_routes};
use super::way_out::{WAY_OUT, segment_rules};
use super::{GROUP, LEARNED_READ_MAX, LinuxKernel, is_everywhere, is_ours, write_setting};
use crate::kernel_error::KernelError;

/// The settings of every bridge. We replace the membership interval only if it is the kernel's
/// default: a user chose any other value.
fn bridge_settings(before: Option<&Kind>) -> BridgeSettings {
    let kept = match before {
        Some(Kind::Bridge(found)) => {
            found.membership_interval.filter(|interval| *interval != MEMBERSHIP_INTERVAL_OF_KERNEL)
        }
        _ => None,
    };
    BridgeSettings {
        snooping: true,
        querier: true,
        // IGMP queries then have source 0.0.0.0, which never wins an election against a multicast
        // router (RFC 4541, section 2.1.1).
        query_use_ifaddr: false,
        multicast_router: MULTICAST_ROUTER_ALWAYS,
        igmp_version: IGMP_VERSION,
        mld_version: MLD_VERSION,
        groups_max: GROUPS_MAX,
        membership_interval: Some(kept.unwrap_or(MEMBERSHIP_INTERVAL)),
        // Veths and one tunnel cannot form a loop, so ports forward at once.
        forward_delay: 0,
        stp: false,
        learned_max: Some(limit(LEARNED_MAX)),
    }
}

impl LinuxKernel {
    pub(super) fn execute_action(&mut self, action: &Action) -> Result<(), KernelError> {
        match action {
            Action::InstallUnderlayFilter { filter } => Ok(self.underlay_filter.install(filter)?),
            Action::RemoveUnderlayFilter => Ok(self.underlay_filter.remove()?),
            Action::SetEncryptedUnderlay { wanted } => self.set_encrypted_underlay(wanted),
            Action::DeleteEncryptedUnderlay => self.delete_encrypted_underlay(),
            Action::CreateSegment { vni } => self.create_segment(*vni),
            Action::DeleteSegment { vni } => self.delete_segment(*vni),
            Action::CreateBridge { vni, network } => {
                self.segment(*vni)?.create_bridge(*vni, network)
            }
            Action::TuneBridge { vni, mtu } => {
                let ipv6 = self.ipv6;
                if self.segment(*vni)?.tune_bridge(*vni, *mtu, ipv6)? {
                    self.registry.note_snooping_restart(*vni);
                }
                Ok(())
            }
            Action::InstallIgmpMldFilter { vni, max_rate, gateways } => {
                let rules = segment_rules(*max_rate, gateways);
                Ok(self.segment(*vni)?.igmp_mld_filter.install(TUNNEL, &rules)?)
            }
            Action::TuneGateways { vni, addresses } => {
                self.segment(*vni)?.tune_gateways(*vni, addresses)
            }
            Action::InstallWayOutFilter { vni } => {
                Ok(self.segment(*vni)?.way_out_filter.install(&WAY_OUT)?)
            }
            Action::CreateUplink { vni, network } => self.create_uplink(*vni, network),
            Action::TuneUplink { vni, address, router, mtu } => {
                self.tune_uplink(*vni, *address, *router, *mtu)
            }
            Action::DeleteUplink { vni } => self.segment(*vni)?.delete(*vni, UPLINK),
            Action::CreateTunnel { vni, network, vtep } => self.create_tunnel(*vni, network, *vtep),
            Action::DeleteTunnel { vni } => self.segment(*vni)?.delete(*vni, TUNNEL),
            Action::TuneTunnel { vni, mtu, learning } => {
                self.segment(*vni)?.tune_tunnel(*vni, *mtu, *learning)
            }
            Action::AddFlood { vni, remote } => {
                let segment = self.segment(*vni)?;
                let tunnel = segment.own(*vni, TUNNEL)?.index;
                Ok(segment.route.add_flood(tunnel, *remote)?)
            }
            Action::RemoveFlood { vni, remote } => {
                let segment = self.segment(*vni)?;
                let tunnel = segment.own(*vni, TUNNEL)?.index;
                Ok(segment.route.remove_flood(tunnel, *remote)?)
            }
            Action::CreatePort { vni, port, mtu, learning, place } => {
                self.create_port(*vni, port, (*mtu, *learning), place)
            }
            Action::TunePort { vni, name, mtu, learning } => {
                self.segment(*vni)?.tune_port(*vni, name, *mtu, *learning)
            }
            Action::EndDuplicateDetection { sandbox, name, .. } => end_duplicate_detection(
                self.sandbox(sandbox)?,
                name.as_str(),
                &sandbox.display().to_string(),
            ),
            Action::TuneContainerEnd { port, mtu, sandbox, name, .. } => {
                let place = sandbox.display().to_string();
                complete_end(&mut self.sandbox(sandbox)?.route, name.as_str(), port, *mtu, &place)
            }
            Action::ForgetLearned { vni } => {
                let segment = self.segment(*vni)?;
                // No event that we follow reports this removal.
                segment.reading = None;
                Ok(segment.route.remove_learned(LEARNED_READ_MAX).map(drop)?)
            }
            Action::DeletePort { vni, name } => self.segment(*vni)?.delete(*vni, name.as_str()),
        }
    }

    /// The open segment; opens it by its name if necessary.
    pub(super) fn segment(&mut self, vni: Vni) -> Result<&mut SegmentHandle, KernelError> {
        let name = namespace_name(vni);
        if !self.segments.contains_key(&vni)
            && let Some(namespace) = self.named.open(&name)?
        {
            self.keep_segment(vni, namespace)?;
        }
        self.segments.get_mut(&vni).ok_or(KernelError::NoNamespace { namespace: name })
    }

    fn sandbox(&mut self, path: &Path) -> Result<&mut SandboxHandle, KernelError> {
        if !self.sandboxes.contains_key(path) {
            let namespace = Namespace::open(path)?;
            if namespace.id() == self.host.id() {
                return Err(KernelError::NoNamespace { namespace: path.display().to_string() });
            }
            self.sandboxes.insert(path.to_owned(), SandboxHandle::open(namespace)?);
        }
        self.sandboxes
            .get_mut(path)
            .ok_or_else(|| KernelError::NoNamespace { namespace: path.display().to_string() })
    }

    fn create_segment(&mut self, vni: Vni) -> Result<(), KernelError> {
        let ipv6 = self.ipv6;
        let namespace = self.named.create(&namespace_name(vni), move || {
            if ipv6 {
                // Defaults for the devices made later: no automatic address, and router
                // advertisements from containers are ignored. (1 is `IN6_ADDR_GEN_MODE_NONE`.)
                write_setting("ipv6/conf/default/addr_gen_mode", "1")?;
                write_setting("ipv6/conf/default/accept_ra", "0")?;
                write_setting("ipv6/conf/default/autoconf", "0")?;
            }
            // Where Docker has loaded br_netfilter, frames would traverse this namespace's empty
            // iptables. Before kernel 5.3 these settings are the host's alone and do not exist
            // here.
            for table in ["arptables", "ip6tables", "iptables"] {
                let _ = write_setting(&format!("bridge/bridge-nf-call-{table}"), "0");
            }
            Ok(())
        })?;
        self.keep_segment(vni, namespace)
    }

    fn delete_segment(&mut self, vni: Vni) -> Result<(), KernelError> {
        let segment = self.segment(vni)?;
        let (ours, foreign): (Vec<Link>, Vec<Link>) = segment
            .route
            .links()?
            .into_iter()
            .filter(|link| !is_everywhere(link))
            .partition(is_ours);
        for link in &ours {
            // Deleting the namespace deletes the devices too, but later. Until then the VNI cannot
            // be reused.
            segment.route.delete_link(link.index)?;
        }
        segment.igmp_mld_filter.remove()?;
        segment.way_out_filter.remove()?;
        GroupFilter::open(&segment.namespace)?.remove()?;
        if foreign.is_empty() {
            self.segments.remove(&vni);
            self.registry.retain(|other| other != vni);
            self.named.delete(&namespace_name(vni))?;
        }
        Ok(())
    }

    fn create_port(
        &mut self,
        vni: Vni,
        port: &Port,
        (mtu, learning): (u16, bool),
        place: &Place,
    ) -> Result<(), KernelError> {
        let tag = OwnerTag::Endpoint(port.endpoint.clone());
        let far_name = match place {
            Place::Host => port.container_name.as_str().to_owned(),
            Place::Sandbox(path) => {
                let route = &mut self.sandbox(path)?.route;
                delete_remains(route, &tag)?;
                let taken: Vec<String> = route.links()?.into_iter().map(|link| link.name).collect();
                port.name.choose(&taken)
            }
        };
        let far_namespace = match place {
            Place::Host => self.host.clone(),
            Place::Sandbox(path) => self.sandbox(path)?.namespace.clone(),
        };
        let near_name = DeviceName::port(&port.endpoint);
        let mtu_octets = u32::from(mtu);
        let segment = self.segment(vni)?;
        segment.refuse_foreign(vni, near_name.as_str())?;
        let bridge = segment.own(vni, BRIDGE)?.index;
        segment.route.create_veth(&NewVeth {
            near: VethEnd { name: near_name.as_str(), group: GROUP, mtu: mtu_octets, mac: None },
            master: Some(bridge),
            // The far end belongs to the container, so it is not in our device group. After a crash
            // the near end's group suffices: both ends are deleted together.
            far: VethEnd { name: &far_name, group: 0, mtu: mtu_octets, mac: Some(port.mac.0) },
            far_namespace: &far_namespace,
        })?;
        let far_route = match place {
            Place::Host => &mut self.host_route,
            Place::Sandbox(path) => &mut self.sandbox(path)?.route,
        };
        let place_name = place_name(place);
        let far = find(far_route, &far_name, &place_name)?;
        far_route.change_link(
            far.index,
            &LinkChange { alias: Some(&tag.to_string()), ..LinkChange::default() },
        )?;
        if matches!(place, Place::Sandbox(_)) {
            far_route
                .change_link(far.index, &LinkChange { up: Some(true), ..LinkChange::default() })?;
            complete_end(far_route, &far_name, port, mtu, &place_name)?;
        }
        let segment = self.segment(vni)?;
        let near = segment.own(vni, near_name.as_str())?.index;
        segment.route.set_port(near, learning, Some(limit(GROUPS_PER_PORT_MAX)))?;
        segment.set_owner_tag(vni, near_name.as_str(), &tag, Some(true))
    }
}

impl SegmentHandle {
    /// A device of ours in this namespace.
    pub(super) fn own(&mut self, vni: Vni, name: &str) -> Result<Link, KernelError> {
        let namespace = namespace_name(vni);
        let link = find(&mut self.route, name, &namespace)?;
        if is_ours(&link) { Ok(link) } else { Err(foreign(&link, namespace)) }
    }

    /// Fails if a foreign device has this name. The kernel's "file exists" would not name the
    /// owner.
    pub(super) fn refuse_foreign(&mut self, vni: Vni, name: &str) -> Result<(), KernelError> {
        match self.route.link(name)? {
            Some(link) if !is_ours(&link) => Err(foreign(&link, namespace_name(vni))),
            _ => Ok(()),
        }
    }

    /// Sets the owner tag of a new device, and optionally its up flag.
    pub(super) fn set_owner_tag(
        &mut self,
        vni: Vni,
        name: &str,
        tag: &OwnerTag,
        up: Option<bool>,
    ) -> Result<(), KernelError> {
        let index = self.own(vni, name)?.index;
        Ok(self.route.change_link(
            index,
            &LinkChange { alias: Some(&tag.to_string()), up, ..LinkChange::default() },
        )?)
    }

    fn create_bridge(&mut self, vni: Vni, network: &NetworkId) -> Result<(), KernelError> {
        if self.route.link(BRIDGE)?.is_none() {
            self.route.create_bridge(BRIDGE, GROUP, &bridge_settings(None))?;
        }
        let bridge = self.own(vni, BRIDGE)?;
        let tag = OwnerTag::Network(network.clone()).to_string();
        let mac = Some(GATEWAY_MAC.0);
        Ok(self.route.change_link(
            bridge.index,
            &LinkChange { mac, alias: Some(&tag), ..LinkChange::default() },
        )?)
    }

    /// Returns whether the bridge had stopped snooping.
    fn tune_bridge(&mut self, vni: Vni, mtu: u16, ipv6: bool) -> Result<bool, KernelError> {
        let bridge = self.own(vni, BRIDGE)?;
        let settings = bridge_settings(Some(&bridge.kind));
        let had_stopped = matches!(bridge.kind, Kind::Bridge(found) if !found.snooping);
        if had_stopped {
            // A bridge that becomes the querier floods all multicast until its ports have had time
            // to answer. Without this toggle, groups joined unnoticed while snooping was off would
            // receive nothing.
            let quiet = BridgeSettings { snooping: false, querier: false, ..settings };
            self.route.change_bridge(bridge.index, &quiet)?;
        }
        self.route.change_bridge(bridge.index, &settings)?;
        let change = LinkChange {
            mtu: Some(u32::from(mtu)),
            mac: (bridge.mac != Some(GATEWAY_MAC.0)).then_some(GATEWAY_MAC.0),
            up: Some(true),
            ..LinkChange::default()
        };
        if ipv6 {
            // Before it is up. It queries at once then, and without an address not for another 31 s
            // (`br_ip6_multicast_alloc_query`); until then it ignores the queries of routers.
            self.route.add_address(bridge.index, GATEWAY_LINK_LOCAL.into())?;
        }
        self.route.change_link(bridge.index, &change)?;
        if ipv6 {
            let there = self.route.addresses()?.into_iter();
            let there = there.filter(|address| address.link == bridge.index);
            for Address { net, .. } in there.filter(|address| is_link_local(address.net)) {
                if net != GATEWAY_LINK_LOCAL.into() {
                    self.route.remove_address(bridge.index, net)?;
                }
            }
        }
        Ok(had_stopped)
    }

    fn tune_tunnel(&mut self, vni: Vni, mtu: u16, learning: bool) -> Result<(), KernelError> {
        let bridge = self.own(vni, BRIDGE)?.index;
        let tunnel = self.own(vni, TUNNEL)?.index;
        let change =
            LinkChange { mtu: Some(u32::from(mtu)), master: Some(bridge), ..LinkChange::default() };
        self.route.change_link(tunnel, &change)?;
        self.route.set_vxlan_learning(tunnel, learning)?;
        self.route.set_port(tunnel, learning, None)?;
        self.route.set_multicast_router(tunnel, MULTICAST_ROUTER_ALWAYS)?;
        Ok(self
            .route
            .change_link(tunnel, &LinkChange { up: Some(true), ..LinkChange::default() })?)
    }

    fn tune_port(
        &mut self,
        vni: Vni,
        name: &DeviceName,
        mtu: u16,
        learning: bool,
    ) -> Result<(), KernelError> {
        let bridge = self.own(vni, BRIDGE)?.index;
        let port = self.own(vni, name.as_str())?.index;
        let change = LinkChange {
            mtu: Some(u32::from(mtu)),
            master: Some(bridge),
            up: Some(true),
            ..LinkChange::default()
        };
        self.route.change_link(port, &change)?;
        Ok(self.route.set_port(port, learning, Some(limit(GROUPS_PER_PORT_MAX)))?)
    }

    /// Deletes a device of ours. A missing one is not an error.
    fn delete(&mut self, vni: Vni, name: &str) -> Result<(), KernelError> {
        match self.route.link(name)? {
            Some(link) if !is_ours(&link) => Err(foreign(&link, namespace_name(vni))),
            Some(link) => Ok(self.route.delete_link(link.index)?),
            None => Ok(()),
        }
    }
}

/// A limit as the kernel's type.
pub(super) fn limit(most: usize) -> u32 {
    u32::try_from(most).unwrap_or(u32::MAX)
}

/// Switches off duplicate address detection on a container's interface, and replaces its tentative
/// link-local address by a new one. Changing the setting alone does not end a detection in
/// progress.
fn end_duplicate_detection(
    sandbox: &mut SandboxHandle,
    name: &str,
    place: &str,
) -> Result<(), KernelError> {
    let link = find(&mut sandbox.route, name, place)?;
    // `accept_dad` cannot be changed by netlink, so this writes to /proc. If that fails, the
    // address is still replaced, and the error is returned at the end.
    let set = if link.detects_duplicates {
        sandbox.namespace.run(|| write_setting(&format!("ipv6/conf/{name}/accept_dad"), "0"))?
    } else {
        Ok(())
    };
    let route = &mut sandbox.route;
    let own = route.addresses()?.into_iter().filter(|address| address.link == link.index);
    for address in own.filter(|address| address.tentative && is_link_local(address.net)) {
        route.remove_address(link.index, address.net)?;
        route.add_address(link.index, address.net)?;
    }
    set.map_err(KernelError::Setting)
}

/// Adds what a container's interface lacks. The interface must be up, because the kernel refuses
/// routes otherwise. Additional addresses and routes stay.
fn complete_end(
    route: &mut Route,
    name: &str,
    port: &Port,
    mtu: u16,
    place: &str,
) -> Result<(), KernelError> {
    let link = find(route, name, place)?;
    let change = LinkChange {
        mtu: (link.mtu != u32::from(mtu)).then_some(u32::from(mtu)),
        mac: (link.mac != Some(port.mac.0)).then_some(port.mac.0),
        ..LinkChange::default()
    };
    route.change_link(link.index, &change)?;
    let there = route.addresses()?.into_iter().filter(|address| address.link == link.index);
    let there: BTreeSet<IpNet> = there.map(|address| address.net).collect();
    for &address in &port.addresses {
        route.add_address(link.index, address)?;
    }
    // The kernel removes the default route with the last address. A default route that was removed
    // alone stays removed: programs do that to keep traffic from going out unencrypted.
    if let Some(gateway) = port.default_route
        && !there.is_superset(&port.addresses)
    {
        route.add_default_route(link.index, gateway)?;
    }
    if !port.multicast_routes.is_empty() {
        let there = multicast_routes(&route.routes_of(link.index)?, link.index);
        for &destination in port.multicast_routes.difference(&there) {
            route.add_connected_route(link.index, destination.into())?;
        }
    }
    Ok(())
}

/// Deletes remains of an endpoint's earlier interface in a container. The kernel dismantles a
/// deleted namespace asynchronously. Until it has, the far end of the old veth occupies the name of
/// the new interface.
fn delete_remains(route: &mut Route, tag: &OwnerTag) -> Result<(), KernelError> {
    let tag = tag.to_string();
    for link in route.links()?.into_iter().filter(|link| link.alias.as_deref() == Some(&tag)) {
        // If the device vanished in the meantime, there is nothing left to delete.
        if let Err(error) = route.delete_link(link.index)
            && route.link_at(link.index)?.is_some()
        {
            return Err(error.into());
        }
    }
    Ok(())
}

pub(super) fn find(route: &mut Route, name: &str, namespace: &str) -> Result<Link, KernelError> {
    let missing =
        || KernelError::NoDevice { device: name.to_owned(), namespace: namespace.to_owned() };
    route.link(name)?.ok_or_else(missing)
}

pub(super) fn foreign(link: &Link, namespace: String) -> KernelError {
    KernelError::Foreign { device: link.name.clone(), namespace }
}

fn place_name(place: &Place) -> String {
    match place {
        Place::Host => "of the host".to_owned(),
        Place::Sandbox(path) => path.display().to_string(),
    }
}
