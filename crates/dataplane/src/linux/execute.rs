//! Changing what there is. Of everything that is made the mark comes last, so that what has one is
//! whole.

use std::net::Ipv6Addr;
use std::path::Path;

use ipnet::{IpNet, Ipv6Net};
use shoutd_core::limits::{GROUPS_PER_PORT_MAX, LEARNED_MAX, TUNNEL_ADDRESSES_MAX};
use shoutd_core::plane::{
    Action, BRIDGE, CONTAINER_PREFIX, DeviceName, GROUPS_MAX, IGMP_VERSION, MEMBERSHIP_INTERVAL,
    MEMBERSHIP_INTERVAL_OF_KERNEL, MLD_VERSION, MULTICAST_ROUTER_ALWAYS, OwnerTag, Place, Port,
    TUNNEL, Vtep, namespace_name,
};
use shoutd_core::{NetworkId, Vni};
use shoutd_netlink::{
    BridgeSettings, GroupFilter, Kind, Link, LinkChange, Mac, Namespace, NewVeth, NewVxlan, Route,
    VethEnd,
};

use super::handle::{SandboxHandle, SegmentHandle};
use super::observe::{is_link_local, multicast_routes};
use super::{GROUP, LEARNED_READ_MAX, LinuxKernel, is_everywhere, is_ours, write_setting};
use crate::kernel::KernelError;

/// Time to live of VXLAN packets: as far as any underlay is wide, as hosts' own packets.
const TTL: u8 = 64;

/// Every bridge has these. How long memberships last is changed if that is what the kernel chose.
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
        // It has no address; queries come from 0.0.0.0, and so never win over a real multicast
        // router's (RFC 4541, section 2.1.1).
        query_use_ifaddr: false,
        multicast_router: MULTICAST_ROUTER_ALWAYS,
        igmp_version: IGMP_VERSION,
        mld_version: MLD_VERSION,
        groups_max: GROUPS_MAX,
        membership_interval: Some(kept.unwrap_or(MEMBERSHIP_INTERVAL)),
        // No loop can be made of veths and one tunnel; ports forward at once.
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
            Action::CreateSegment { vni } => self.create_segment(*vni),
            Action::DeleteSegment { vni } => self.delete_segment(*vni),
            Action::CreateBridge { vni, network } => {
                self.segment(*vni)?.create_bridge(*vni, network)
            }
            Action::TuneBridge { vni, mtu } => {
                let ipv6 = self.ipv6;
                if self.segment(*vni)?.tune_bridge(*vni, *mtu, ipv6)? {
                    self.registry.note_begun_anew(*vni);
                }
                Ok(())
            }
            Action::InstallIgmpMldFilter { vni, max_rate } => {
                Ok(self.segment(*vni)?.igmp_mld_filter.install(TUNNEL, *max_rate)?)
            }
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
                // No event says that it is gone.
                segment.reading = None;
                Ok(segment.route.forget_learnt(LEARNED_READ_MAX).map(drop)?)
            }
            Action::DeletePort { vni, name } => self.segment(*vni)?.delete(*vni, name.as_str()),
        }
    }

    /// The open segment. It is opened by its name, if it is not open yet.
    fn segment(&mut self, vni: Vni) -> Result<&mut SegmentHandle, KernelError> {
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
                // Devices made later have these from the start: no address by themselves, nothing
                // believed from a container's router advertisements. (1 is
                // `IN6_ADDR_GEN_MODE_NONE`.)
                write_setting("ipv6/conf/default/addr_gen_mode", "1")?;
                write_setting("ipv6/conf/default/accept_ra", "0")?;
                write_setting("ipv6/conf/default/autoconf", "0")?;
            }
            // Where Docker has loaded br_netfilter, frames would take a turn through this
            // namespace's empty iptables. Before kernel 5.3 these settings are the host's alone,
            // and not to be seen here.
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
            // Deleting the namespace would do it too, but at some later time; until then the VNI
            // could not be used again.
            segment.route.delete_link(link.index)?;
        }
        segment.igmp_mld_filter.remove()?;
        GroupFilter::open(&segment.namespace)?.remove()?;
        if foreign.is_empty() {
            self.segments.remove(&vni);
            self.registry.retain(|other| other != vni);
            self.named.delete(&namespace_name(vni))?;
        }
        Ok(())
    }

    fn create_tunnel(
        &mut self,
        vni: Vni,
        network: &NetworkId,
        vtep: Vtep,
    ) -> Result<(), KernelError> {
        let segment = self.segment(vni)?;
        segment.refuse_foreign(vni, TUNNEL)?;
        let into = segment.namespace.clone();
        let new = NewVxlan {
            name: TUNNEL,
            group: GROUP,
            vni: vni.get(),
            local: vtep.address,
            port: vtep.port,
            ttl: TTL,
            addresses_max: limit(TUNNEL_ADDRESSES_MAX),
        };
        self.host_route.create_vxlan(&new, &into)?;
        self.segment(vni)?.set_mark(vni, TUNNEL, &OwnerTag::Network(network.clone()), None)
    }

    fn create_port(
        &mut self,
        vni: Vni,
        port: &Port,
        (mtu, learning): (u16, bool),
        place: &Place,
    ) -> Result<(), KernelError> {
        let mark = OwnerTag::Endpoint(port.endpoint.clone());
        let far_name = match place {
            Place::Host => port.container_name.as_str().to_owned(),
            Place::Sandbox(path) => {
                let route = &mut self.sandbox(path)?.route;
                delete_remains(route, &mark)?;
                free_name(route)?
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
            // The far end is the container's: it can be told by its other end, so it needs no
            // group.
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
            &LinkChange { alias: Some(&mark.to_string()), ..LinkChange::default() },
        )?;
        if matches!(place, Place::Sandbox(_)) {
            far_route
                .change_link(far.index, &LinkChange { up: Some(true), ..LinkChange::default() })?;
            complete_end(far_route, &far_name, port, mtu, &place_name)?;
        }
        let segment = self.segment(vni)?;
        let near = segment.own(vni, near_name.as_str())?.index;
        segment.route.set_port(near, learning, Some(limit(GROUPS_PER_PORT_MAX)))?;
        segment.set_mark(vni, near_name.as_str(), &mark, Some(true))
    }
}

impl SegmentHandle {
    /// A device of shoutd's in this namespace.
    fn own(&mut self, vni: Vni, name: &str) -> Result<Link, KernelError> {
        let namespace = namespace_name(vni);
        let link = find(&mut self.route, name, &namespace)?;
        if is_ours(&link) { Ok(link) } else { Err(foreign(&link, namespace)) }
    }

    /// Fails if somebody else's device has this name: "file exists" would not say whose.
    fn refuse_foreign(&mut self, vni: Vni, name: &str) -> Result<(), KernelError> {
        match self.route.link(name)? {
            Some(link) if !is_ours(&link) => Err(foreign(&link, namespace_name(vni))),
            _ => Ok(()),
        }
    }

    /// Marks a device that was just made, and perhaps brings it up.
    fn set_mark(
        &mut self,
        vni: Vni,
        name: &str,
        mark: &OwnerTag,
        up: Option<bool>,
    ) -> Result<(), KernelError> {
        let index = self.own(vni, name)?.index;
        Ok(self.route.change_link(
            index,
            &LinkChange { alias: Some(&mark.to_string()), up, ..LinkChange::default() },
        )?)
    }

    fn create_bridge(&mut self, vni: Vni, network: &NetworkId) -> Result<(), KernelError> {
        if self.route.link(BRIDGE)?.is_none() {
            self.route.create_bridge(BRIDGE, GROUP, &bridge_settings(None))?;
        }
        let bridge = self.own(vni, BRIDGE)?;
        // Its own address set once more is one that was set by somebody, and no longer follows that
        // of its ports.
        let mark = OwnerTag::Network(network.clone()).to_string();
        Ok(self.route.change_link(
            bridge.index,
            &LinkChange { mac: bridge.mac, alias: Some(&mark), ..LinkChange::default() },
        )?)
    }

    /// Returns whether it had stopped to snoop.
    fn tune_bridge(&mut self, vni: Vni, mtu: u16, ipv6: bool) -> Result<bool, KernelError> {
        let bridge = self.own(vni, BRIDGE)?;
        let settings = bridge_settings(Some(&bridge.kind));
        let had_stopped = matches!(bridge.kind, Kind::Bridge(found) if !found.snooping);
        if had_stopped {
            // A querier that begins has everything sent to all ports until all have answered it.
            // One that goes on would not, and what was joined in the meantime, unseen, would get
            // nothing.
            let quiet = BridgeSettings { snooping: false, querier: false, ..settings };
            self.route.change_bridge(bridge.index, &quiet)?;
        }
        self.route.change_bridge(bridge.index, &settings)?;
        let change =
            LinkChange { mtu: Some(u32::from(mtu)), up: Some(true), ..LinkChange::default() };
        self.route.change_link(bridge.index, &change)?;
        if let Some(mac) = bridge.mac.filter(|_| ipv6) {
            self.route.add_address(bridge.index, link_local(mac))?;
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

    /// Deletes a device of shoutd's. One that is not there is no error.
    fn delete(&mut self, vni: Vni, name: &str) -> Result<(), KernelError> {
        match self.route.link(name)? {
            Some(link) if !is_ours(&link) => Err(foreign(&link, namespace_name(vni))),
            Some(link) => Ok(self.route.delete_link(link.index)?),
            None => Ok(()),
        }
    }
}

/// A limit as the kernel takes it.
fn limit(most: usize) -> u32 {
    u32::try_from(most).unwrap_or(u32::MAX)
}

/// Has a container's interface look for no duplicates of addresses that it gets, and gives it the
/// link-local address that it has once more. Were that only changed, the search would go on.
fn end_duplicate_detection(
    sandbox: &mut SandboxHandle,
    name: &str,
    place: &str,
) -> Result<(), KernelError> {
    let link = find(&mut sandbox.route, name, place)?;
    // `accept_dad`, which no message of netlink can change. Where it cannot be changed, there is
    // still an address to be put in place.
    let set = match link.detects_duplicates {
        true => {
            sandbox.namespace.run(|| write_setting(&format!("ipv6/conf/{name}/accept_dad"), "0"))?
        }
        false => Ok(()),
    };
    let route = &mut sandbox.route;
    let own = route.addresses()?.into_iter().filter(|address| address.link == link.index);
    for address in own.filter(|address| address.tentative && is_link_local(address.net)) {
        route.remove_address(link.index, address.net)?;
        route.add_address(link.index, address.net)?;
    }
    set.map_err(KernelError::Setting)
}

/// Gives a container's interface, which is up, what it lacks. What it has more stays.
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
    for &address in &port.addresses {
        route.add_address(link.index, address)?;
    }
    if !port.multicast_routes.is_empty() {
        let there = multicast_routes(&route.routes_of(link.index)?, link.index);
        for &destination in port.multicast_routes.difference(&there) {
            route.add_connected_route(link.index, destination.into())?;
        }
    }
    Ok(())
}

/// Deletes what is left in a container of an endpoint's earlier interface: the kernel takes a
/// deleted namespace apart in its own time, and meanwhile the far end of a veth keeps the name that
/// the new interface must have.
fn delete_remains(route: &mut Route, mark: &OwnerTag) -> Result<(), KernelError> {
    let mark = mark.to_string();
    for link in route.links()?.into_iter().filter(|link| link.alias.as_deref() == Some(&mark)) {
        // If it goes by itself at this very moment, there is nothing to delete any more.
        if let Err(error) = route.delete_link(link.index)
            && route.link_at(link.index)?.is_some()
        {
            return Err(error.into());
        }
    }
    Ok(())
}

/// The first name that Docker would give the interface and that nothing in the container has.
fn free_name(route: &mut Route) -> Result<String, KernelError> {
    let taken: Vec<String> = route.links()?.into_iter().map(|link| link.name).collect();
    let names = (0..=taken.len()).map(|number| format!("{CONTAINER_PREFIX}{number}"));
    Ok(names
        .into_iter()
        .find(|name| !taken.contains(name))
        .unwrap_or_else(|| CONTAINER_PREFIX.to_owned()))
}

fn find(route: &mut Route, name: &str, namespace: &str) -> Result<Link, KernelError> {
    let missing =
        || KernelError::NoDevice { device: name.to_owned(), namespace: namespace.to_owned() };
    route.link(name)?.ok_or_else(missing)
}

fn foreign(link: &Link, namespace: String) -> KernelError {
    KernelError::Foreign { device: link.name.clone(), namespace }
}

fn place_name(place: &Place) -> String {
    match place {
        Place::Host => "of the host".to_owned(),
        Place::Sandbox(path) => path.display().to_string(),
    }
}

/// The link-local address that the kernel would have made of this MAC address (RFC 4291, appendix
/// A).
fn link_local([a, b, c, d, e, f]: Mac) -> IpNet {
    let address = Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
    Ipv6Net::new_assert(address, 64).into()
}
