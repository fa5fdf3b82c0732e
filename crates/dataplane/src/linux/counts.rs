//! Counts a group's packets at the devices that they pass, to show where they stop. Nothing is
//! changed, and nothing is counted without a request.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::thread;
use std::time::Instant;

use shoutd_core::explain::{ContainerCounts, Counts, InOut, KeptAt, TraceProbe};
use shoutd_core::limits::{COUNTED_CONTAINERS_MAX, PORT};
use shoutd_core::plane::{DeviceName, ENCRYPTED_NAMESPACE, TUNNEL, namespace_name};
use shoutd_core::{EndpointId, Vni};
use shoutd_netlink::{
    CountedPlace, Direction, GroupPackets, GroupSender, InTunnel, Link, Namespace, PacketCounter,
    Route,
};

use super::facts::Subject;
use crate::kernel_error::KernelError;

/// What to count.
#[derive(Debug, Clone)]
pub struct CountsWanted {
    /// The segment.
    pub vni: Vni,
    /// The group.
    pub group: IpAddr,
    /// Only packets from this address, of the group's family; probes come from it.
    pub source: Option<IpAddr>,
    /// Only UDP packets to this port; probes go to it.
    pub port: Option<u16>,
    /// The containers on the network. Only the first ones are looked at.
    pub subjects: Vec<Subject>,
    /// The VTEPs of the other hosts that have the network.
    pub peers: BTreeSet<IpAddr>,
    /// Whether the network is encrypted: VXLAN is then counted at the WireGuard device.
    pub encrypted: bool,
    /// Whether packets are kept, too.
    pub keeps: bool,
}

impl CountsWanted {
    fn packets(&self) -> GroupPackets {
        GroupPackets { group: self.group, source: self.source, port: self.port }
    }
}

/// Counts until it is finished or dropped.
#[derive(Debug)]
pub struct Counting {
    tunnel: Option<Pair>,
    underlay: BTreeMap<IpAddr, Pair>,
    containers: BTreeMap<EndpointId, Container>,
    left_out: usize,
    is_ipv4: bool,
}

/// The counters of both directions at one device.
#[derive(Debug)]
struct Pair {
    inbound: PacketCounter,
    outbound: PacketCounter,
}

#[derive(Debug)]
struct Container {
    namespace: Namespace,
    interface: Pair,
    port: Pair,
    elsewhere: PacketCounter,
    delivered_before: u64,
}

impl Pair {
    fn open(
        namespace: &Namespace,
        wanted: &CountsWanted,
        place: impl Fn(Direction) -> CountedPlace,
    ) -> Result<Self, KernelError> {
        let open = |direction| {
            PacketCounter::open(namespace, place(direction), &wanted.packets(), wanted.keeps)
        };
        Ok(Self { inbound: open(Direction::Inbound)?, outbound: open(Direction::Outbound)? })
    }

    fn device(
        namespace: &Namespace,
        wanted: &CountsWanted,
        index: u32,
    ) -> Result<Self, KernelError> {
        Self::open(namespace, wanted, |direction| CountedPlace::Device(index, direction))
    }

    fn add<'a>(&'a self, at: &KeptAt, places: &mut Vec<(KeptAt, bool, &'a PacketCounter)>) {
        places.push((at.clone(), false, &self.inbound));
        places.push((at.clone(), true, &self.outbound));
    }

    fn count(&self) -> Result<InOut, KernelError> {
        Ok(InOut { inbound: self.inbound.packets()?, outbound: self.outbound.packets()? })
    }
}

impl Counting {
    /// Begins to count. `directory` is that of the segments' namespaces.
    ///
    /// # Errors
    /// The segment does not exist, or there are no descriptors left. A container that cannot be
    /// looked into, and a host to which there is no route, are left out.
    pub fn open(directory: &Path, wanted: &CountsWanted) -> Result<Self, KernelError> {
        let segment = Namespace::open(&directory.join(namespace_name(wanted.vni)))?;
        let links = Route::open(&segment)?.links()?;
        let tunnel = links.iter().find(|link| link.name == TUNNEL);
        let tunnel = tunnel.map(|link| Pair::device(&segment, wanted, link.index)).transpose()?;
        let mut containers = BTreeMap::new();
        for subject in wanted.subjects.iter().take(COUNTED_CONTAINERS_MAX) {
            if let Some(found) = Container::open(&segment, &links, subject, wanted)? {
                containers.insert(subject.endpoint.clone(), found);
            }
        }
        Ok(Self {
            tunnel,
            underlay: underlay(directory, wanted)?,
            containers,
            left_out: wanted.subjects.len().saturating_sub(COUNTED_CONTAINERS_MAX),
            is_ipv4: wanted.group.is_ipv4(),
        })
    }

    /// Every counter, with its place and whether it is outbound.
    pub(super) fn places(&self) -> Vec<(KeptAt, bool, &PacketCounter)> {
        let mut places = Vec::new();
        for (endpoint, container) in &self.containers {
            container.interface.add(&KeptAt::Interface(endpoint.clone()), &mut places);
            container.port.add(&KeptAt::Port(endpoint.clone()), &mut places);
            places.push((KeptAt::Elsewhere(endpoint.clone()), true, &container.elsewhere));
        }
        if let Some(tunnel) = &self.tunnel {
            tunnel.add(&KeptAt::Tunnel, &mut places);
        }
        for (peer, pair) in &self.underlay {
            pair.add(&KeptAt::Underlay(*peer), &mut places);
        }
        places
    }

    /// What was counted since. The time is the caller's to fill in.
    ///
    /// # Errors
    /// A counter cannot be read.
    pub fn finish(self) -> Result<Counts, KernelError> {
        let mut counts = Counts { left_out: self.left_out, ..Counts::default() };
        for (endpoint, container) in &self.containers {
            counts.containers.insert(endpoint.clone(), container.count(self.is_ipv4)?);
        }
        for (peer, pair) in &self.underlay {
            counts.underlay.insert(*peer, pair.count()?);
        }
        counts.tunnel = self.tunnel.map(|pair| pair.count()).transpose()?.unwrap_or_default();
        Ok(counts)
    }
}

impl Container {
    /// `None` if the container has no interface on the network at the moment.
    fn open(
        segment: &Namespace,
        links: &[Link],
        subject: &Subject,
        wanted: &CountsWanted,
    ) -> Result<Option<Self>, KernelError> {
        let name = DeviceName::port(&subject.endpoint);
        let port = links.iter().find(|link| link.name == name.as_str());
        let peer = port.and_then(|port| port.peer).filter(|peer| peer.namespace.is_some());
        let (Some(port), Some(peer), Some(sandbox)) = (port, peer, &subject.sandbox) else {
            return Ok(None);
        };
        // The container may end at any time.
        let Ok(namespace) = Namespace::open(sandbox) else { return Ok(None) };
        let elsewhere = CountedPlace::OutboundElsewhere(peer.index);
        let container = Self {
            delivered_before: delivered(&namespace, wanted.group.is_ipv4())?,
            interface: Pair::device(&namespace, wanted, peer.index)?,
            port: Pair::device(segment, wanted, port.index)?,
            elsewhere: PacketCounter::open(&namespace, elsewhere, &wanted.packets(), wanted.keeps)?,
            namespace,
        };
        Ok(Some(container))
    }

    fn count(&self, is_ipv4: bool) -> Result<ContainerCounts, KernelError> {
        let delivered = delivered(&self.namespace, is_ipv4)?;
        Ok(ContainerCounts {
            interface: self.interface.count()?,
            port: self.port.count()?,
            elsewhere: self.elsewhere.packets()?,
            delivered: delivered.saturating_sub(self.delivered_before),
        })
    }
}

fn delivered(namespace: &Namespace, is_ipv4: bool) -> Result<u64, KernelError> {
    let [v4, v6] = namespace.delivered()?;
    Ok(if is_ipv4 { v4 } else { v6 })
}

/// Counters at the devices by which this host sends VXLAN to the others.
fn underlay(
    directory: &Path,
    wanted: &CountsWanted,
) -> Result<BTreeMap<IpAddr, Pair>, KernelError> {
    let namespace = if wanted.encrypted {
        Namespace::open(&directory.join(ENCRYPTED_NAMESPACE))?
    } else {
        Namespace::current()?
    };
    let mut route = Route::open(&namespace)?;
    let mut pairs = BTreeMap::new();
    for remote in &wanted.peers {
        if let Some(device) = route.output_device(*remote)? {
            let tunnel = InTunnel { port: PORT, vni: wanted.vni.get(), remote: *remote };
            let place = |direction| CountedPlace::Underlay(device, direction, tunnel);
            pairs.insert(*remote, Pair::open(&namespace, wanted, place)?);
        }
    }
    Ok(pairs)
}

/// Sends a probe from a container, by its interface on the network. It takes 10 ms for each
/// datagram. `directory` is that of the segments' namespaces.
///
/// # Errors
/// The container has no interface on the network, or cannot send by it.
pub fn send_probe(
    directory: &Path,
    wanted: &CountsWanted,
    from: &Subject,
    probe: &TraceProbe,
) -> Result<(), KernelError> {
    let segment = Namespace::open(&directory.join(namespace_name(wanted.vni)))?;
    let to = (wanted.group, wanted.port.unwrap_or(TraceProbe::PORT));
    let sender = container_sender(&segment, from, wanted.source, to, probe.ttl)?;
    let content = vec![0; probe.size.into()];
    let begin = Instant::now();
    for number in 1..=probe.count {
        sender.send(&content)?;
        // By the clock, so that delays do not add up: hosts stop counting at a time known before.
        let next = TraceProbe::INTERVAL * number.into();
        thread::sleep(next.saturating_sub(begin.elapsed()));
    }
    Ok(())
}

/// Sends datagrams from a container, by its interface on the network of this segment. Without a
/// source, the kernel chooses the address.
///
/// # Errors
/// The container has no interface on the network, or cannot send by it.
pub(super) fn container_sender(
    segment: &Namespace,
    from: &Subject,
    source: Option<IpAddr>,
    to: (IpAddr, u16),
    ttl: u8,
) -> Result<GroupSender, KernelError> {
    let (namespace, own) = container_interface(segment, from)?;
    Ok(GroupSender::open(&namespace, (own.index, own.name.as_str()), source, to, ttl)?)
}

/// A container's namespace, and its interface on the network of this segment.
///
/// # Errors
/// The container has no interface on the network.
pub(super) fn container_interface(
    segment: &Namespace,
    container: &Subject,
) -> Result<(Namespace, Link), KernelError> {
    let name = DeviceName::port(&container.endpoint);
    let port = Route::open(segment)?.link(name.as_str())?;
    let peer = port.and_then(|port| port.peer).filter(|peer| peer.namespace.is_some());
    let missing = || KernelError::NoDevice {
        device: format!("at the other end of {}", name.as_str()),
        namespace: "of the container".to_owned(),
    };
    let (Some(peer), Some(sandbox)) = (peer, &container.sandbox) else { return Err(missing()) };
    let namespace = Namespace::open(sandbox)?;
    let own = Route::open(&namespace)?.link_at(peer.index)?.ok_or_else(missing)?;
    Ok((namespace, own))
}
