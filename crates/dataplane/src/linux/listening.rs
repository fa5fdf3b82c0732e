//! Following the multicast databases of segments' bridges.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use shoutd_core::Vni;
use shoutd_core::limits::GROUPS_PER_PORT_MAX;
use shoutd_core::multicast::{Database, Knowledge, Memberships};
use shoutd_core::plane::{BRIDGE, DeviceName};
use shoutd_netlink::{DatabaseMonitor, Kind, Listing, Membership, Namespace, NamespaceId, Route};

use super::registry::Registry;
use crate::forwarding::MembershipSource;
use crate::kernel::KernelError;

/// How often a database is read anew though no event was lost: what no event tells of is noticed within this.
const AGE_MAX: Duration = Duration::from_secs(10);

/// The memberships of the kernel this runs on.
#[derive(Debug)]
pub(super) struct LinuxListening {
    registry: Arc<Registry>,
    segments: BTreeMap<Vni, Listened>,
}

#[derive(Debug)]
struct Listened {
    namespace: NamespaceId,
    route: Route,
    monitor: DatabaseMonitor,
    database: Database,
    /// Index of the bridge, once there is one.
    bridge: Option<u32>,
    /// The ports whose groups count: the ends of containers' veths. `None` is one that does not.
    ports: BTreeMap<u32, Option<DeviceName>>,
    read_at: Option<Instant>,
}

impl LinuxListening {
    pub(super) fn new(registry: Arc<Registry>) -> Self {
        Self { registry, segments: BTreeMap::new() }
    }

    /// Makes the segments followed those that there are. Returns whether any is gone.
    fn refresh(&mut self) -> Result<bool, KernelError> {
        self.registry.acknowledge();
        let there = self.registry.all();
        let before = self.segments.len();
        let same = |vni: &Vni, id: NamespaceId| there.get(vni).is_some_and(|namespace| namespace.id() == id);
        self.segments.retain(|vni, segment| same(vni, segment.namespace));
        let gone = self.segments.len() != before;
        for (vni, namespace) in &there {
            if !self.segments.contains_key(vni) {
                self.segments.insert(*vni, Listened::open(namespace)?);
            }
        }
        Ok(gone)
    }
}

impl MembershipSource for LinuxListening {
    fn update(&mut self, memberships: &mut BTreeMap<Vni, Memberships>) -> Result<bool, KernelError> {
        let mut changed = self.refresh()?;
        if changed {
            memberships.retain(|vni, _| self.segments.contains_key(vni));
        }
        for (vni, segment) in &mut self.segments {
            if segment.update()? && memberships.get(vni) != Some(segment.database.memberships()) {
                memberships.insert(*vni, segment.database.memberships().clone());
                changed = true;
            }
        }
        Ok(changed)
    }

    fn full_ports(&self) -> Vec<(Vni, DeviceName)> {
        let mut full = Vec::new();
        for (vni, segment) in &self.segments {
            let counts = segment.database.entries_per_port();
            let over = counts.into_iter().filter(|(_, count)| *count >= GROUPS_PER_PORT_MAX);
            full.extend(over.filter_map(|(port, _)| Some((*vni, segment.ports.get(&port)?.clone()?))));
        }
        full
    }

    fn wait(&mut self, wake: BorrowedFd<'_>, timeout: Duration) {
        let mut waiting =
            vec![PollFd::new(wake, PollFlags::POLLIN), PollFd::new(self.registry.as_fd(), PollFlags::POLLIN)];
        let monitors = self.segments.values().map(|segment| segment.monitor.as_fd());
        waiting.extend(monitors.map(|monitor| PollFd::new(monitor, PollFlags::POLLIN)));
        let _ = poll(&mut waiting, PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX));
    }
}

impl Listened {
    fn open(namespace: &Namespace) -> Result<Self, KernelError> {
        Ok(Self {
            namespace: namespace.id(),
            monitor: DatabaseMonitor::open(namespace)?,
            route: Route::open(namespace)?,
            database: Database::default(),
            bridge: None,
            ports: BTreeMap::new(),
            read_at: None,
        })
    }

    /// Takes in what happened since the last time. Returns whether there was anything.
    fn update(&mut self) -> Result<bool, KernelError> {
        let changes = self.monitor.changes();
        let is_fresh = self.read_at.is_some_and(|at| at.elapsed() < AGE_MAX);
        // An event of another device than the bridge that is known may be of a new one. The tunnel's database is somebody else's care.
        match changes {
            Some(changes) if is_fresh => {
                let mut any = false;
                for change in changes {
                    any |= self.take(change.device, change.listing, change.present)?;
                }
                Ok(any)
            }
            _ => {
                // What is read is at least as new as the events that were thrown away; those that come while it is read are kept.
                self.read()?;
                Ok(true)
            }
        }
    }

    fn read(&mut self) -> Result<(), KernelError> {
        self.read_at = None;
        self.ports.clear();
        self.database = Database::default();
        self.bridge = self.route.link(BRIDGE)?.map(|link| link.index);
        if let Some(bridge) = self.bridge {
            for listing in self.route.bridge_groups(bridge)? {
                self.take(bridge, listing, true)?;
            }
        }
        self.read_at = Some(Instant::now());
        Ok(())
    }

    /// Takes in one entry. Returns whether it concerns a container's port.
    fn take(&mut self, device: u32, listing: Listing, present: bool) -> Result<bool, KernelError> {
        if self.bridge != Some(device) {
            let bridge = self.route.link(BRIDGE)?.map(|link| link.index);
            if bridge == self.bridge {
                return Ok(false);
            }
            // A new bridge: everything is read, this entry too.
            self.read()?;
            return Ok(true);
        }
        let port = match listing {
            Listing::Member(member) => member.port,
            Listing::Router(port) => port,
        };
        if !self.is_containers(port, present)? {
            return Ok(false);
        }
        match listing {
            Listing::Router(port) => self.database.set_router(port, present),
            Listing::Member(member) if present => self.database.learn(port, member.group, knowledge(member)),
            Listing::Member(member) => self.database.forget(port, member.group, member.source),
        }
        Ok(true)
    }

    /// Whether a port leads to a container: the bridge itself and the tunnel do not.
    fn is_containers(&mut self, port: u32, present: bool) -> Result<bool, KernelError> {
        if let Some(known) = self.ports.get(&port) {
            return Ok(known.is_some());
        }
        if !present {
            return Ok(false);
        }
        let Some(link) = self.route.link_at(port)? else {
            return Ok(false);
        };
        let name = (link.kind == Kind::Veth).then(|| link.name.parse().ok()).flatten();
        let counts = name.is_some();
        self.ports.insert(port, name);
        Ok(counts)
    }
}

fn knowledge(member: Membership) -> Knowledge {
    match member.source {
        Some(source) => Knowledge::Source { source, blocked: member.blocked },
        None if member.include => Knowledge::Include,
        None => Knowledge::Exclude,
    }
}
