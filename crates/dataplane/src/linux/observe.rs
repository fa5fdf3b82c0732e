//! Observing the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Instant;

use ipnet::{IpNet, Ipv4Net};
use shoutd_core::limits::LEARNED_MAX;
use shoutd_core::plane::{
    ALL_MULTICAST, BRIDGE, ContainerEnd, DeviceName, GATEWAY_LINK_LOCAL, Learned, Observed,
    ObservedBridge, ObservedPort, ObservedSegment, ObservedTunnel, Place, TUNNEL, UPLINK,
    UplinkFar, namespace_vni,
};
use shoutd_core::{MacAddress, Vni};
use shoutd_netlink::{Address, IpRoute, Kind, Link, Namespace, NamespaceId, Peer, Route};

use super::handle::{Failure, Reading, SandboxHandle, SegmentContent, SegmentHandle};
use super::way_out::{WAY_OUT, gateways_of, observe_far, observe_uplink, observe_way_out};
use super::{LinuxKernel, is_everywhere, is_ours, owner_tag};
use crate::kernel_error::KernelError;

impl LinuxKernel {
    pub(super) fn observe_all(
        &mut self,
        wanted: &BTreeSet<PathBuf>,
    ) -> Result<Observed, KernelError> {
        let mut observed =
            Observed { underlay_filter: self.underlay_filter.observe(), ..Observed::default() };
        observed.encryption = self.observe_encryption();
        let way_out = observe_way_out(&mut self.host_route)?;
        observed.way_out = way_out.map(|(_, way_out)| way_out);
        self.refresh_segments(&mut observed.unreadable_segments)?;
        self.refresh_sandboxes(wanted, &mut observed);
        let mut open: BTreeSet<NamespaceId> =
            self.sandboxes.values().map(|sandbox| sandbox.namespace.id()).collect();
        open.insert(self.host.id());
        let unreadable = observed.unreadable_segments.clone();
        for (&vni, segment) in
            self.segments.iter_mut().filter(|(vni, _)| !unreadable.contains_key(vni))
        {
            segment.forget_all_but(&open);
            let ends = Ends {
                host: (&self.host, &mut self.host_route),
                way_out: way_out.map(|(index, _)| index),
                sandboxes: &mut self.sandboxes,
                unreadable: &mut observed.unreadable_sandboxes,
            };
            match observe_segment(segment, ends, self.ipv6) {
                Ok(found) => _ = observed.segments.insert(vni, found),
                // The other segments are not affected.
                Err(error) => _ = observed.unreadable_segments.insert(vni, error),
            }
        }
        Ok(observed)
    }

    /// Opens the segments that have a name now, and closes others. A name may refer to a new
    /// namespace.
    fn refresh_segments(
        &mut self,
        unreadable: &mut BTreeMap<Vni, String>,
    ) -> Result<(), KernelError> {
        let mut seen = BTreeSet::new();
        for name in self.named.list()? {
            let Some(vni) = namespace_vni(&name) else {
                continue;
            };
            let kept = match self.named.open(&name) {
                Ok(None) => continue,
                Ok(Some(namespace)) => self.keep_segment(vni, namespace),
                Err(error) => Err(error.into()),
            };
            seen.insert(vni);
            if let Err(error) = kept {
                unreadable.insert(vni, error.to_string());
            }
        }
        // Open sockets keep a namespace alive, and with it a VXLAN device that would block its
        // successor.
        self.segments.retain(|vni, _| seen.contains(vni));
        self.registry.retain(|vni| seen.contains(&vni));
        Ok(())
    }

    /// Keeps an open segment if it has this namespace, and opens it otherwise.
    pub(super) fn keep_segment(
        &mut self,
        vni: Vni,
        namespace: Namespace,
    ) -> Result<(), KernelError> {
        if self.segments.get(&vni).is_none_or(|open| open.namespace.id() != namespace.id()) {
            self.segments.insert(vni, SegmentHandle::open(namespace.clone())?);
            self.registry.insert(vni, namespace);
        }
        Ok(())
    }

    /// Opens the wanted sandboxes, closes others, and records the missing and unreadable ones.
    fn refresh_sandboxes(&mut self, wanted: &BTreeSet<PathBuf>, observed: &mut Observed) {
        let missing = &mut observed.missing_sandboxes;
        for path in wanted {
            match Namespace::open(path) {
                // The host's own namespace is not a sandbox.
                Ok(namespace) if namespace.id() != self.host.id() => {
                    if self
                        .sandboxes
                        .get(path)
                        .is_none_or(|open| open.namespace.id() != namespace.id())
                    {
                        self.sandboxes.remove(path);
                        match SandboxHandle::open(namespace) {
                            Ok(sandbox) => _ = self.sandboxes.insert(path.clone(), sandbox),
                            Err(error) => {
                                _ = observed
                                    .unreadable_sandboxes
                                    .insert(path.clone(), error.to_string());
                            }
                        }
                    }
                }
                _ => {
                    missing.insert(path.clone());
                }
            }
        }
        self.sandboxes.retain(|path, _| wanted.contains(path) && !missing.contains(path));
        self.registry
            .set_sandboxes(self.sandboxes.values().map(|sandbox| sandbox.namespace.clone()));
    }
}

/// A segment that could not be read is left alone for this many times the duration of the attempt,
/// so that one segment cannot take all our time.
const REST: u32 = 10;

/// Where the other end of a port can be.
struct Ends<'a> {
    host: (&'a Namespace, &'a mut Route),
    /// The index of the way-out bridge.
    way_out: Option<u32>,
    sandboxes: &'a mut BTreeMap<PathBuf, SandboxHandle>,
    /// Errors from reading sandboxes.
    unreadable: &'a mut BTreeMap<PathBuf, String>,
}

/// The contents of a segment, or why they cannot be read.
fn observe_segment(
    segment: &mut SegmentHandle,
    mut ends: Ends<'_>,
    ipv6: bool,
) -> Result<ObservedSegment, String> {
    if segment.is_stale() {
        segment.reading = None;
        if let Some(failure) =
            segment.failure.as_ref().filter(|failure| Instant::now() < failure.until)
        {
            return Err(failure.error.clone());
        }
        let begin = Instant::now();
        segment.failure = None;
        let read = read_segment(segment, ipv6);
        segment.rest();
        match read {
            Ok(content) => segment.reading = Some(Reading::new(content)),
            Err(error) => {
                let error = error.to_string();
                segment.failure =
                    Some(Failure { error: error.clone(), until: begin + REST * begin.elapsed() });
                return Err(error);
            }
        }
    }
    let Some(content) = segment.reading.as_ref().map(|reading| &reading.content) else {
        return Ok(ObservedSegment::default());
    };
    let (mut observed, peers) = (content.observed.clone(), content.peers.clone());
    for (name, peer) in peers {
        if name.as_str() == UPLINK
            && let Some(uplink) = observed.uplink.as_mut()
        {
            uplink.far = ends.far(segment, peer).map_err(|error| error.to_string())?;
        } else if let Some(port) = observed.ports.get_mut(&name) {
            port.container_end = ends.find(segment, peer).map_err(|error| error.to_string())?;
        }
    }
    Ok(observed)
}

fn read_segment(segment: &mut SegmentHandle, ipv6: bool) -> Result<SegmentContent, KernelError> {
    let links = segment.route.links()?;
    let bridge =
        links.iter().find(|link| link.name == BRIDGE && is_ours(link)).map(|link| link.index);
    // An unreadable filter may be missing, and installing it again does no harm.
    let rules = segment.igmp_mld_filter.is_whole(TUNNEL).unwrap_or(None);
    let way_out_filter = segment.way_out_filter.is_whole(&WAY_OUT);
    let mut observed = ObservedSegment {
        igmp_mld_filter: rules.is_some(),
        max_rate: rules.as_ref().and_then(|rules| rules.max_rate),
        gateways: rules.as_ref().map(gateways_of).unwrap_or_default(),
        way_out_filter: way_out_filter.unwrap_or(false),
        ..ObservedSegment::default()
    };
    let addresses = segment.route.addresses()?;
    let mut peers = Vec::new();
    for link in links.iter().filter(|link| !is_everywhere(link)) {
        let Ok(name) = link.name.parse::<DeviceName>() else {
            continue;
        };
        let enslaved = link.master.is_some() && link.master == bridge;
        match &link.kind {
            _ if !is_ours(link) => {
                observed.foreign.insert(name);
            }
            Kind::Bridge(_) if link.name == BRIDGE => {
                observed.bridge = observe_bridge(link, &addresses, ipv6);
            }
            _ if link.name == UPLINK => {
                peers.extend(link.peer.map(|peer| (name.clone(), peer)));
                observed.uplink = Some(observe_uplink(&mut segment.route, link, &addresses)?);
            }
            _ if link.name == TUNNEL => {
                observed.tunnel = Some(observe_tunnel(link, enslaved));
                (observed.flood, observed.learned) =
                    read_learned(segment, link.index, limits_itself(&links))?;
            }
            _ => {
                peers.extend(link.peer.map(|peer| (name.clone(), peer)));
                observed.ports.insert(name, observe_port(link, enslaved));
            }
        }
    }
    Ok(SegmentContent { observed, peers })
}

/// Whether the kernel limits the bridge's learned addresses.
fn limits_itself(links: &[Link]) -> bool {
    let is_limited =
        |link: &Link| matches!(link.kind, Kind::Bridge(settings) if settings.learned_max.is_some());
    links.iter().any(|link| link.name == BRIDGE && is_limited(link))
}

/// The flood entries of a VXLAN device, and the learned entries. Beyond the limit of learned
/// entries some flood entries may be missing. They are then added again, which has no effect.
fn read_learned(
    segment: &mut SegmentHandle,
    tunnel: u32,
    bridge_limits_itself: bool,
) -> Result<(BTreeSet<IpAddr>, Learned), KernelError> {
    let entries = segment.route.learned_entries(tunnel, !bridge_limits_itself, LEARNED_MAX)?;
    let from = entries.sources.iter().max_by_key(|(_, count)| **count).and_then(|(from, _)| *from);
    let learned = Learned { count: entries.sources.values().sum(), from };
    Ok((entries.flood.into_iter().collect(), learned))
}

/// A device's MTU. Larger values, such as loopback's, are clipped; no desired MTU is that large.
pub(super) fn octets(link: &Link) -> u16 {
    u16::try_from(link.mtu).unwrap_or(u16::MAX)
}

pub(super) fn is_link_local(net: IpNet) -> bool {
    matches!(net.addr(), IpAddr::V6(address) if address.is_unicast_link_local())
}

fn observe_bridge(link: &Link, addresses: &[Address], ipv6: bool) -> Option<ObservedBridge> {
    let Kind::Bridge(settings) = link.kind else {
        return None;
    };
    let mac = link.mac.unwrap_or_default();
    let own = addresses.iter().filter(|address| address.link == link.index);
    let own: Vec<IpNet> = own.map(|address| address.net).collect();
    let mut link_locals = own.iter().copied().filter(|net| is_link_local(*net)).peekable();
    let link_local = !ipv6
        || (link_locals.peek().is_some()
            && link_locals.all(|net| net == GATEWAY_LINK_LOCAL.into()));
    Some(ObservedBridge {
        mark: owner_tag(link),
        mac: MacAddress(mac),
        addresses: own.into_iter().filter(|net| !is_link_local(*net)).collect(),
        forwards: link.forwards,
        mtu: octets(link),
        up: link.up,
        snooping: settings.snooping,
        querier: settings.querier,
        igmp_version: settings.igmp_version,
        mld_version: settings.mld_version,
        groups_max: settings.groups_max,
        multicast_router: settings.multicast_router,
        membership_interval: settings.membership_interval.unwrap_or_default(),
        learned_max: settings.learned_max,
        link_local,
    })
}

fn observe_tunnel(link: &Link, enslaved: bool) -> ObservedTunnel {
    let settings =
        if let Kind::Vxlan(settings) = link.kind { settings } else { Default::default() };
    ObservedTunnel {
        mark: owner_tag(link),
        vni: Vni::new(settings.vni),
        local: settings.local,
        port: settings.port,
        learning: settings.learning,
        mtu: octets(link),
        up: link.up,
        enslaved,
        port_learning: link.port.is_some_and(|port| port.learning),
        multicast_router: link.port.map(|port| port.multicast_router).unwrap_or_default(),
    }
}

fn observe_port(link: &Link, enslaved: bool) -> ObservedPort {
    ObservedPort {
        mark: owner_tag(link),
        mtu: octets(link),
        up: link.up,
        enslaved,
        learning: link.port.is_some_and(|port| port.learning),
        groups_max: link.port.and_then(|port| port.groups_max),
        container_end: None,
    }
}

impl Ends<'_> {
    /// The end of an uplink in the host's namespace, if it is there.
    fn far(
        &mut self,
        segment: &mut SegmentHandle,
        peer: Peer,
    ) -> Result<Option<UplinkFar>, KernelError> {
        let (host, host_route) = &mut self.host;
        let Some(number) = peer.namespace else { return Ok(None) };
        if segment.numbered(number, std::iter::once(*host))? != Some(host.id()) {
            return Ok(None);
        }
        let link = host_route.link_at(peer.index)?;
        Ok(link.map(|link| observe_far(&link, self.way_out)))
    }

    /// Finds a port's other end by its index and namespace in the kernel. A container could forge
    /// names and aliases.
    fn find(
        &mut self,
        segment: &mut SegmentHandle,
        peer: Peer,
    ) -> Result<Option<ContainerEnd>, KernelError> {
        let Some(number) = peer.namespace else {
            return Ok(None);
        };
        let (host, host_route) = &mut self.host;
        let candidates =
            std::iter::once(*host).chain(self.sandboxes.values().map(|sandbox| &sandbox.namespace));
        let place = segment.numbered(number, candidates)?;
        if place == Some(host.id()) {
            let link = host_route.link_at(peer.index)?;
            return Ok(link.and_then(|link| container_end(&link, Place::Host)));
        }
        let found =
            self.sandboxes.iter_mut().find(|(_, sandbox)| Some(sandbox.namespace.id()) == place);
        let Some((path, sandbox)) = found else {
            return Ok(None);
        };
        // Both have side effects, so no short circuit.
        let (is_new, is_stale) = (sandbox.asked.insert(peer.index), sandbox.is_stale());
        if is_new || is_stale {
            let read = read_sandbox(sandbox, path);
            sandbox.route.rest();
            match read {
                Ok(content) => sandbox.reading = Some(Reading::new(content)),
                // A container can cause this. The others are not affected.
                Err(error) => {
                    sandbox.reading = sandbox.reading.take().map(Reading::outdated);
                    self.unreadable.insert(path.clone(), error.to_string());
                }
            }
        }
        Ok(sandbox.reading.as_ref().and_then(|reading| reading.content.get(&peer.index)).cloned())
    }
}

fn read_sandbox(
    sandbox: &mut SandboxHandle,
    path: &Path,
) -> Result<BTreeMap<u32, ContainerEnd>, KernelError> {
    let (route, asked) = (&mut sandbox.route, &mut sandbox.asked);
    let (links, addresses) = (route.links()?, route.addresses()?);
    asked.retain(|index| links.iter().any(|link| link.index == *index));
    let mut routes = Vec::new();
    for index in &*asked {
        routes.extend(route.routes_of(*index)?);
    }
    let veths = links.iter().filter(|link| link.kind == Kind::Veth && asked.contains(&link.index));
    let ends = veths.filter_map(|link| {
        let mut own = addresses.iter().filter(|address| address.link == link.index);
        // The address of an interface that is down stays tentative.
        let is_tentative =
            |address: &Address| link.up && address.tentative && is_link_local(address.net);
        let end = ContainerEnd {
            addresses: own.clone().map(|address| address.net).collect(),
            detects_duplicates: link.detects_duplicates || own.any(is_tentative),
            multicast_routes: multicast_routes(&routes, link.index),
            ..container_end(link, Place::Sandbox(path.to_owned()))?
        };
        Some((link.index, end))
    });
    Ok(ends.collect())
}

/// The properties of a device; `None` if its name is not a valid [`DeviceName`].
fn container_end(link: &Link, place: Place) -> Option<ContainerEnd> {
    Some(ContainerEnd {
        place,
        name: link.name.parse().ok()?,
        mac: MacAddress(link.mac.unwrap_or_default()),
        mtu: octets(link),
        up: link.up,
        addresses: BTreeSet::new(),
        detects_duplicates: false,
        multicast_routes: BTreeSet::new(),
    })
}

/// The destinations of connected IPv4 multicast routes on this device.
pub(super) fn multicast_routes(routes: &[IpRoute], index: u32) -> BTreeSet<Ipv4Net> {
    let connected = routes.iter().filter(|route| route.link == index && route.connected);
    let multicast = connected.filter_map(|route| match route.destination {
        IpNet::V4(destination) => {
            Some(destination).filter(|destination| ALL_MULTICAST.contains(destination))
        }
        IpNet::V6(_) => None,
    });
    multicast.collect()
}
