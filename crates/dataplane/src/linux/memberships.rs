//! Following the MDBs of segments' bridges.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::iter;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use shoutd_core::Vni;
use shoutd_core::limits::GROUPS_PER_PORT_MAX;
use shoutd_core::multicast::{Knowledge, Mdb, MdbUsage};
use shoutd_core::plane::{BRIDGE, Desired, DeviceName};
use shoutd_netlink::{
    DatabaseChange, DatabaseMonitor, Kind, MdbEntry, Membership, Namespace, NamespaceId, Route,
};
use tracing::debug;

use super::BUSY_FOR;
use super::backup_querier::BackupQuerier;
use super::early_joins::EarlyJoins;
use super::registry::Registry;
use super::reports::Reporting;
use super::stamps::Stamps;
use crate::forwarding::{MembershipChange, MembershipSource};
use crate::kernel_error::KernelError;
use crate::mdb_pressure::MdbPressure;

/// How often an MDB is read again although no event was lost. It bounds the delay of changes
/// without an event.
const AGE_MAX: Duration = Duration::from_secs(10);

/// How long a bridge that starts snooping floods all ports: until members have had time to answer
/// its first query (`mcast_query_response_interval` by the kernel's default, RFC 3376, section
/// 8.3).
const FLOODS_FOR: Duration = Duration::from_secs(10);

/// Ports named in an MDB pressure.
const NAMED_MAX: usize = 3;

/// The memberships of this host's kernel.
#[derive(Debug)]
pub(super) struct LinuxMemberships {
    registry: Arc<Registry>,
    segments: BTreeMap<Vni, FollowedSegment>,
    /// The desired state.
    desired: Arc<Desired>,
}

#[derive(Debug)]
struct FollowedSegment {
    namespace: NamespaceId,
    route: Route,
    monitor: DatabaseMonitor,
    early_joins: EarlyJoins,
    queries: BackupQuerier,
    reporting: Reporting,
    stamps: Stamps,
    database: Mdb,
    /// Index of the bridge, if it exists.
    bridge: Option<u32>,
    /// Index of the last device seen that is not the bridge: the tunnel, whose MDB the replicator
    /// changes by thousands of entries at a time.
    other: Option<u32>,
    /// The capacity of the bridge's MDB, as last read. The number of entries comes from `database`.
    room: MdbUsage,
    is_crowded: bool,
    /// Whether it recently stopped snooping and started again, so it floods all ports.
    is_flooding: bool,
    /// The ports whose memberships count: the ends of containers' veths. `None` for other ports.
    ports: BTreeMap<u32, Option<DeviceName>>,
    read_at: Option<Instant>,
    /// When a membership last changed.
    changed_at: Instant,
    /// Whether all memberships must be published, not only changes: nothing was published yet, or
    /// an error left it unclear what was.
    is_new: bool,
}

impl LinuxMemberships {
    pub(super) fn new(registry: Arc<Registry>) -> Self {
        Self { registry, segments: BTreeMap::new(), desired: Arc::default() }
    }

    /// Follows the segments that exist now, and reports the vanished ones.
    fn refresh(&mut self, changes: &mut Vec<MembershipChange>) -> Result<(), KernelError> {
        self.registry.acknowledge();
        let there = self.registry.all();
        self.segments.retain(|vni, segment| {
            let is_there = there.get(vni).is_some_and(|found| found.id() == segment.namespace);
            if !is_there {
                changes.push(MembershipChange::Gone(*vni));
            }
            is_there
        });
        let mut result = Ok(());
        for (vni, namespace) in &there {
            if !self.segments.contains_key(vni) {
                match FollowedSegment::open(namespace, &self.registry) {
                    Ok(segment) => _ = self.segments.insert(*vni, segment),
                    Err(error) => result = result.and(Err(error)),
                }
            }
        }
        result
    }
}

impl MembershipSource for LinuxMemberships {
    fn update(&mut self, changes: &mut Vec<MembershipChange>) -> Result<(), KernelError> {
        let mut result = self.refresh(changes);
        for (vni, segment) in &mut self.segments {
            segment.is_flooding = self.registry.restarted_snooping_within(*vni, FLOODS_FOR);
            match segment.update(*vni) {
                Ok(changed) => changes.extend(changed),
                Err(error) => result = result.and(Err(error)),
            }
            segment.reporting.follow(
                self.desired.segments.get(vni),
                &segment.database,
                &segment.ports,
            );
        }
        result
    }

    fn desire(&mut self, desired: Arc<Desired>) {
        self.desired = desired;
    }

    fn mdb_pressures(&self) -> Vec<MdbPressure> {
        self.segments.iter().flat_map(|(vni, segment)| segment.mdb_pressures(*vni)).collect()
    }

    fn wait(&mut self, wake: BorrowedFd<'_>, timeout: Duration) {
        let mut waiting = vec![
            PollFd::new(wake, PollFlags::POLLIN),
            PollFd::new(self.registry.as_fd(), PollFlags::POLLIN),
        ];
        let segments = self.segments.values();
        let monitors = segments.flat_map(|segment| {
            let joins = segment.joins_to_await();
            iter::once(segment.monitor.as_fd()).chain(joins).chain(segment.reporting.events())
        });
        waiting.extend(monitors.map(|monitor| PollFd::new(monitor, PollFlags::POLLIN)));
        let due = self.segments.values().filter_map(|segment| segment.reporting.due()).min();
        let timeout = due.map_or(timeout, |due| timeout.min(due.max(Duration::from_millis(1))));
        let _ = poll(&mut waiting, PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX));
    }
}

impl FollowedSegment {
    fn open(namespace: &Namespace, registry: &Arc<Registry>) -> Result<Self, KernelError> {
        Ok(Self {
            namespace: namespace.id(),
            monitor: DatabaseMonitor::open(namespace)?,
            early_joins: EarlyJoins::open(namespace, registry)?,
            queries: BackupQuerier::new(namespace),
            reporting: Reporting::new(namespace),
            stamps: Stamps::new(namespace),
            route: Route::open(namespace)?,
            database: Mdb::default(),
            bridge: None,
            other: None,
            room: MdbUsage::default(),
            is_crowded: false,
            is_flooding: false,
            ports: BTreeMap::new(),
            read_at: None,
            changed_at: Instant::now(),
            is_new: true,
        })
    }

    /// Without a bridge, an early join has no MDB to go to.
    fn joins_to_await(&self) -> Option<BorrowedFd<'_>> {
        self.bridge.and_then(|_| self.early_joins.event())
    }

    /// Processes the events since the last call, and returns the changed memberships.
    fn update(&mut self, vni: Vni) -> Result<Vec<MembershipChange>, KernelError> {
        // The bridge reports what we add here in the events that we read next.
        if let Some(bridge) = self.bridge
            && let Err(error) = self.early_joins.follow(&mut self.route, bridge)
        {
            debug!("joins have to wait for their reports: {error}");
        }
        self.ask();
        let was_router = self.database.memberships().router;
        let is_fresh =
            self.bridge.is_some() && self.read_at.is_some_and(|at| at.elapsed() < AGE_MAX);
        let result = match is_fresh.then(|| self.monitor.changes()).flatten() {
            Some(events) => self.take_all(events),
            None => self.read(),
        };
        if let Err(error) = result {
            self.read_at = None;
            // Some events were processed but not published.
            self.is_new = true;
            return Err(error);
        }
        if let Err(error) = self.stamps.follow(&mut self.route, &self.database) {
            debug!("PTP's unicast has two time stamps: {error}");
        }
        self.is_crowded = self.bridge.is_some() && self.room().is_crowded(self.is_crowded);
        self.database.set_everything(self.is_crowded);
        let changed = self.database.take_changes();
        if !changed.is_empty() {
            self.changed_at = Instant::now();
        } else if self.changed_at.elapsed() >= BUSY_FOR {
            self.route.rest();
        }
        let is_router = self.database.memberships().router;
        if std::mem::take(&mut self.is_new) {
            return Ok(vec![MembershipChange::Whole(vni, self.database.memberships().clone())]);
        }
        let router = (was_router != is_router).then_some(MembershipChange::Router(vni, is_router));
        let groups =
            changed.into_iter().map(|(group, filter)| MembershipChange::Group(vni, group, filter));
        Ok(groups.chain(router).collect())
    }

    /// Sends the backup queries, which keep memberships from expiring.
    fn ask(&mut self) {
        let Some(bridge) = self.bridge else { return };
        let ports = self.ports.iter().filter_map(|(port, name)| name.as_ref().map(|_| *port));
        let asked = self.queries.follow(&mut self.route, bridge, ports);
        let asked_in_vlans = self.queries.follow_vlans(&mut self.route, bridge);
        if let Err(error) = asked.and(asked_in_vlans) {
            debug!("cannot send backup queries: {error}");
        }
    }

    fn room(&self) -> MdbUsage {
        MdbUsage {
            taken: self.database.entries(),
            snoops: self.room.snoops && !self.is_flooding,
            ..self.room
        }
    }

    /// The limits that are reached or nearly reached.
    fn mdb_pressures(&self, vni: Vni) -> Vec<MdbPressure> {
        let mut counts: Vec<(DeviceName, usize)> = self
            .database
            .entries_per_port()
            .into_iter()
            .filter_map(|(port, count)| Some((self.ports.get(&port)?.clone()?, count)))
            .collect();
        counts.sort_by_key(|(_, count)| Reverse(*count));
        let full = counts.iter().filter(|(_, count)| *count >= GROUPS_PER_PORT_MAX);
        let mut mdb_pressures: Vec<MdbPressure> =
            full.map(|(port, _)| MdbPressure::Port(vni, port.clone())).collect();
        if self.is_crowded {
            counts.truncate(NAMED_MAX);
            mdb_pressures.push(MdbPressure::Bridge { vni, room: self.room(), most: counts });
        }
        mdb_pressures
    }

    fn read(&mut self) -> Result<(), KernelError> {
        // What we read is at least as new as the discarded events. Events during the reading are
        // kept.
        self.monitor.discard();
        // If the reading fails halfway, we no longer know what was published.
        let was_new = std::mem::replace(&mut self.is_new, true);
        self.ports.clear();
        self.other = None;
        let before = std::mem::take(&mut self.database);
        let bridge = self.route.link(BRIDGE)?;
        self.room = bridge.as_ref().map(|link| room(&link.kind)).unwrap_or_default();
        self.bridge = bridge.map(|link| link.index);
        if let Some(bridge) = self.bridge {
            for entry in self.route.bridge_groups(bridge)? {
                self.take(entry, true)?;
            }
        }
        self.database.note_changes_since(before);
        self.is_new = was_new;
        self.read_at = Some(Instant::now());
        Ok(())
    }

    /// Processes events in order.
    fn take_all(&mut self, events: Vec<DatabaseChange>) -> Result<(), KernelError> {
        for DatabaseChange { device, entry, present } in events {
            if self.bridge == Some(device) {
                self.take(entry, present)?;
            } else if self.other != Some(device) {
                // A new bridge: read its whole MDB. That includes this event and all later ones.
                if self.route.link(BRIDGE)?.map(|link| link.index) != self.bridge {
                    return self.read();
                }
                self.other = Some(device);
            }
        }
        Ok(())
    }

    /// Processes one entry of the bridge's MDB.
    fn take(&mut self, entry: MdbEntry, present: bool) -> Result<(), KernelError> {
        let port = match entry {
            MdbEntry::Member(member) => member.port,
            MdbEntry::Router(port) => port,
        };
        if !self.is_containers(port, present)? {
            return Ok(());
        }
        match entry {
            MdbEntry::Router(port) => self.database.set_router(port, present),
            MdbEntry::Member(member) if present => {
                self.database.learn(port, member.group, knowledge(member));
                if let Some(bridge) =
                    self.bridge.filter(|_| member.source.is_some() && !member.blocked)
                {
                    self.early_joins.note_source(bridge, port, member.group);
                }
            }
            MdbEntry::Member(member) => {
                self.queries.note_end(port);
                self.database.forget(port, member.group, member.source);
            }
        }
        Ok(())
    }

    /// Whether a port leads to a container. The bridge itself and the tunnel do not.
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

fn room(kind: &Kind) -> MdbUsage {
    let Kind::Bridge(settings) = kind else {
        return MdbUsage::default();
    };
    MdbUsage {
        size: usize::try_from(settings.groups_max).unwrap_or(usize::MAX),
        taken: 0,
        snoops: settings.snooping,
    }
}

pub(super) fn knowledge(member: Membership) -> Knowledge {
    match member.source {
        Some(source) => Knowledge::Source { source, blocked: member.blocked },
        None if member.include => Knowledge::Include,
        None => Knowledge::Exclude,
    }
}
