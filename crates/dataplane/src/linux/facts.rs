//! Reads the facts about a group's way on this host, to explain why packets do not arrive. Nothing
//! is changed, and nothing is read without a request.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use shoutd_core::explain::{
    InsideFacts, InterfaceFacts, NetfilterDrops, PortFacts, SegmentFacts, SendingSocket, SendsTo,
    SocketFacts,
};
use shoutd_core::limits::{FACT_DETOURS_MAX, FACT_GROUPS_MAX, FACT_SOCKETS_MAX};
use shoutd_core::multicast::Mdb;
use shoutd_core::plane::{BRIDGE, DeviceName, TUNNEL, namespace_name};
use shoutd_core::{EndpointId, Vni};
use shoutd_netlink::{
    Dropper, Error, IgmpMldFilter, Kind, Link, ListedSocket, MdbEntry, Namespace, Route,
    SelectedInterface, SendOptions, dropped, send_options,
};

use super::forwarding::LinuxForwarding;
use super::memberships::knowledge;
use super::registry::Registry;
use crate::forwarding::ForwardingTables;
use crate::kernel_error::KernelError;

/// How long drops of sockets, of netfilter and of the network's limit are watched, if there were
/// any before.
const DROPS_WATCHED: Duration = Duration::from_millis(300);

/// A container to look into.
#[derive(Debug, Clone)]
pub struct Subject {
    /// Its endpoint.
    pub endpoint: EndpointId,
    /// The file of its network namespace.
    pub sandbox: Option<PathBuf>,
}

/// What to read.
#[derive(Debug, Clone)]
pub struct FactsWanted {
    /// The segment.
    pub vni: Vni,
    /// The group.
    pub group: IpAddr,
    /// The flood entries of the VXLAN device, as they were observed.
    pub flood: BTreeSet<IpAddr>,
    /// The containers on the network.
    pub subjects: Vec<Subject>,
    /// Addresses of the network's other containers.
    pub others: Vec<IpAddr>,
}

/// What was read.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The segment.
    pub segment: SegmentFacts,
    /// The containers' ports.
    pub ports: BTreeMap<EndpointId, PortFacts>,
    /// The containers' namespaces, or why they cannot be read.
    pub inside: BTreeMap<EndpointId, Result<InsideFacts, String>>,
}

/// Reads the facts. `directory` is that of the segments' namespaces. It takes milliseconds, or 300
/// more if sockets or the network's limit have dropped packets.
///
/// # Errors
/// The segment does not exist or cannot be read.
pub fn facts(directory: &Path, wanted: &FactsWanted) -> Result<Facts, KernelError> {
    let FactsWanted { vni, group, .. } = *wanted;
    let namespace = Namespace::open(&directory.join(namespace_name(vni)))?;
    let mut route = Route::open(&namespace)?;
    let mut filter = IgmpMldFilter::open(&namespace)?;
    let links = route.links()?;
    let mut facts = Facts { segment: segment(&links), ..Facts::default() };
    if facts.segment.tunnel {
        let registry = Registry::new().map_err(KernelError::Descriptor)?;
        registry.insert(vni, namespace);
        let tables = LinuxForwarding::new(registry).read(vni)?;
        facts.segment.sends_to = SendsTo::read(&tables, &wanted.flood, group);
    }
    let mut database = Mdb::default();
    if let Some(bridge) = links.iter().find(|link| link.name == BRIDGE) {
        for entry in route.bridge_groups(bridge.index)? {
            match entry {
                MdbEntry::Router(port) => database.set_router(port, true),
                MdbEntry::Member(member) if member.group == group => {
                    database.learn(member.port, group, knowledge(member));
                }
                MdbEntry::Member(_) => {}
            }
        }
    }
    let mut insides = Vec::new();
    for subject in &wanted.subjects {
        let name = DeviceName::port(&subject.endpoint);
        let port = links.iter().find(|link| link.name == name.as_str());
        if let Some(port) = port {
            let found = PortFacts {
                up: port.up,
                filter: database.filter_of(port.index, group),
                router: database.routers().contains(&port.index),
            };
            facts.ports.insert(subject.endpoint.clone(), found);
        }
        let inside = Inside::open(subject, port, wanted);
        let inside = inside.map_err(|why| facts.inside.insert(subject.endpoint.clone(), Err(why)));
        insides.extend(inside.map(|inside| (&subject.endpoint, inside)));
    }
    let before = filter.counts()?.over_rate;
    if before > 0 || insides.iter().any(|(_, inside)| inside.has_drops(group)) {
        thread::sleep(DROPS_WATCHED);
        facts.segment.over_rate_now = filter.counts()?.over_rate.saturating_sub(before);
    }
    let options = sending_options(insides.iter().map(|(_, inside)| inside), group);
    for (endpoint, inside) in insides {
        let read = inside.finish(group, &options).map_err(|error| error.to_string());
        facts.inside.insert(endpoint.clone(), read);
    }
    Ok(facts)
}

fn segment(links: &[Link]) -> SegmentFacts {
    let mut segment = SegmentFacts::default();
    for link in links {
        match &link.kind {
            Kind::Bridge(settings) if link.name == BRIDGE => {
                segment.bridge = link.up;
                segment.snooping = settings.snooping;
            }
            Kind::Vxlan(_) if link.name == TUNNEL => {
                segment.tunnel = link.up && link.master.is_some();
            }
            _ => {}
        }
    }
    segment
}

/// An open namespace of a container, with what was read so far.
struct Inside {
    namespace: Namespace,
    facts: InsideFacts,
    sockets: Vec<ListedSocket>,
    /// What netfilter had dropped then.
    dropped: BTreeMap<Dropper, u64>,
}

impl Inside {
    /// Opens the namespace and reads all but the sockets' present drops.
    fn open(subject: &Subject, port: Option<&Link>, wanted: &FactsWanted) -> Result<Self, String> {
        let Some(sandbox) = &subject.sandbox else {
            return Err("Docker has not given the container its interface yet".to_owned());
        };
        let namespace = Namespace::open(sandbox).map_err(|error| error.to_string())?;
        Self::read(namespace, port, wanted).map_err(|error| error.to_string())
    }

    fn read(
        namespace: Namespace,
        port: Option<&Link>,
        wanted: &FactsWanted,
    ) -> Result<Self, Error> {
        let mut route = Route::open(&namespace)?;
        let mut facts = InsideFacts::default();
        let end = port.and_then(|port| port.peer).filter(|peer| peer.namespace.is_some());
        let own = end.map(|end| route.link_at(end.index)).transpose()?.flatten();
        let by = route.output_device(wanted.group)?;
        facts.route = by.map(|index| route.link_at(index)).transpose()?.flatten().map(|l| l.name);
        for joined in namespace.joined_groups()? {
            if joined.group == wanted.group {
                let link = route.link_at(joined.interface)?;
                facts.joined.extend(link.map(|link| link.name));
            } else if own.as_ref().is_some_and(|own| own.index == joined.interface)
                && !is_every_hosts(joined.group)
                && facts.other_groups.len() < FACT_GROUPS_MAX
            {
                facts.other_groups.insert(joined.group);
            }
        }
        if let Some(own) = own {
            let strict = namespace.reverse_path_filter(&own.name)? == 1;
            if strict {
                facts.detours = detours(&mut route, &own, wanted)?;
            }
            facts.interface =
                Some(InterfaceFacts { name: own.name, up: own.up, strict_reverse_path: strict });
        }
        let sockets = namespace.udp_sockets()?;
        let dropped = dropped(&namespace)?;
        Ok(Self { namespace, facts, sockets, dropped })
    }

    /// The sockets that can receive the group's packets.
    fn receiving(&self, group: IpAddr) -> impl Iterator<Item = &ListedSocket> {
        self.sockets.iter().filter(move |socket| can_receive(socket.local, group))
    }

    fn has_drops(&self, group: IpAddr) -> bool {
        self.receiving(group).any(|socket| socket.drops > 0)
            || self.dropped.values().any(|packets| *packets > 0)
    }

    /// The rule or policy that has dropped most since the namespace was opened.
    fn netfilter_now(&self) -> Result<Option<NetfilterDrops>, Error> {
        if self.dropped.values().all(|packets| *packets == 0) {
            return Ok(None);
        }
        let now = dropped(&self.namespace)?.into_iter();
        let risen = now.map(|(dropper, packets)| {
            let before = self.dropped.get(&dropper).copied().unwrap_or_default();
            (packets.saturating_sub(before), dropper)
        });
        let most = risen.max().filter(|(packets, _)| *packets > 0);
        Ok(most.map(|(packets, Dropper { table, chain, .. })| NetfilterDrops {
            place: format!("table {table}, chain {chain}"),
            packets,
        }))
    }

    /// The sockets that may send to the group. One that is bound to a group only receives.
    fn sending(&self, group: IpAddr) -> impl Iterator<Item = &ListedSocket> {
        let sockets = self.sockets.iter().filter(|socket| !socket.local.ip().is_multicast());
        sockets.filter(move |socket| socket.remote.is_none_or(|remote| remote == group))
    }

    /// What programs set on these sockets. Sockets that cannot be asked are left out.
    fn senders(
        &self,
        group: IpAddr,
        options: &BTreeMap<u64, SendOptions>,
    ) -> Result<Vec<SendingSocket>, Error> {
        let known =
            self.sending(group).filter_map(|socket| Some((socket, *options.get(&socket.inode)?)));
        let known: Vec<_> = known.take(FACT_SOCKETS_MAX).collect();
        if known.is_empty() {
            return Ok(Vec::new());
        }
        let mut route = Route::open(&self.namespace)?;
        let addresses = route.addresses()?;
        let mut senders = Vec::new();
        for (socket, options) in known {
            // Linux sends multicast by the interface of the source address that a socket is bound
            // to (`ip_route_output_key_hash_rcu`).
            let bound =
                Some(socket.local.ip()).filter(|one| one.is_ipv4() && !one.is_unspecified());
            let selected = options.interface.or(bound.map(SelectedInterface::Address));
            let (index, otherwise) = match selected {
                None => (None, None),
                Some(SelectedInterface::Index(index)) => {
                    (Some(index), Some(format!("interface {index}")))
                }
                Some(SelectedInterface::Address(address)) => {
                    let owner = addresses.iter().find(|known| known.net.addr() == address);
                    (owner.map(|owner| owner.link), Some(address.to_string()))
                }
            };
            let link = index.map(|index| route.link_at(index)).transpose()?.flatten();
            let interface = link.map(|link| link.name).or(otherwise);
            let is_connected = socket.remote.is_some();
            let local = socket.local;
            senders.push(SendingSocket { local, is_connected, ttl: options.ttl, interface });
        }
        Ok(senders)
    }

    fn finish(
        mut self,
        group: IpAddr,
        options: &BTreeMap<u64, SendOptions>,
    ) -> Result<InsideFacts, Error> {
        self.facts.senders = self.senders(group, options)?;
        self.facts.netfilter_now = self.netfilter_now()?;
        let later = if self.has_drops(group) { self.namespace.udp_sockets()? } else { Vec::new() };
        let sockets = self.receiving(group).map(|socket| {
            let again = later.iter().find(|again| again.inode == socket.inode);
            let drops = again.map_or(socket.drops, |again| again.drops);
            SocketFacts {
                local: socket.local,
                drops,
                drops_now: drops.saturating_sub(socket.drops),
            }
        });
        self.facts.sockets = sockets.take(FACT_SOCKETS_MAX).collect();
        Ok(self.facts)
    }
}

/// The options of all sockets that may send to the group.
fn sending_options<'a>(
    insides: impl Iterator<Item = &'a Inside>,
    group: IpAddr,
) -> BTreeMap<u64, SendOptions> {
    let (mut namespaces, mut sockets) = (BTreeSet::new(), BTreeSet::new());
    for inside in insides {
        namespaces.insert(inside.namespace.id());
        sockets.extend(inside.sending(group).map(|socket| socket.inode));
    }
    send_options(&namespaces, &sockets, group.is_ipv4())
}

/// The addresses to which the container does not send by its interface on the network.
fn detours(
    route: &mut Route,
    own: &Link,
    wanted: &FactsWanted,
) -> Result<BTreeMap<IpAddr, String>, Error> {
    let mut detours = BTreeMap::new();
    for address in wanted.others.iter().filter(|one| one.is_ipv4()).take(FACT_DETOURS_MAX) {
        let by = route.output_device(*address)?.filter(|index| *index != own.index);
        let name = by.map(|index| route.link_at(index)).transpose()?.flatten();
        detours.extend(name.map(|link| (*address, link.name)));
    }
    Ok(detours)
}

/// Whether a socket with this local address can receive a group's packets. An IPv6 socket bound to
/// any address receives IPv4, too.
fn can_receive(local: SocketAddr, group: IpAddr) -> bool {
    local.ip() == group
        || local.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
        || (group.is_ipv4() && local.ip() == IpAddr::V4(Ipv4Addr::UNSPECIFIED))
}

/// Whether the kernel joins this group by itself: all nodes, and solicited-node addresses (RFC
/// 4291, section 2.7.1).
fn is_every_hosts(group: IpAddr) -> bool {
    match group {
        IpAddr::V4(group) => group == Ipv4Addr::new(224, 0, 0, 1),
        IpAddr::V6(group) => match group.segments() {
            [0xff01 | 0xff02, 0, 0, 0, 0, 0, 0, 1] => true,
            [0xff02, 0, 0, 0, 0, 1, high, _] => high >> 8 == 0xff,
            _ => false,
        },
    }
}
