//! The replication and pins of segments in the Linux kernel.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use shoutd_core::plane::{
    Change, Destination, DeviceName, Filter, Forwarding, TUNNEL, Vtep, namespace_name,
};
use shoutd_core::{MacAddress, Vni};
use shoutd_netlink::{Error, Filtering, GroupFilter, NamespaceId, Pinned, Route, TunnelGroup};

use super::BUSY_FOR;
use super::registry::Registry;
use super::{LEARNED_READ_MAX, PROTOCOL};
use crate::forwarding::ForwardingTables;
use crate::kernel_error::KernelError;

/// The VNI of entries without receivers: they send to the host itself. No network has this VNI, so
/// the VXLAN device drops the frame before encapsulation (`encap_bypass_if_local`). It needs no
/// route, and nothing leaves the host.
const VNI_NOWHERE: u32 = shoutd_core::limits::VNI_NOWHERE;

/// The FDBs, MDBs and group filters of segments.
#[derive(Debug)]
pub(super) struct LinuxForwarding {
    registry: Arc<Registry>,
    open: BTreeMap<Vni, Open>,
}

#[derive(Debug)]
struct Open {
    namespace: NamespaceId,
    route: Route,
    filter: GroupFilter,
    /// Indexes of our devices, by name.
    devices: BTreeMap<DeviceName, u32>,
    /// When something was last changed.
    changed_at: Instant,
}

impl LinuxForwarding {
    pub(super) fn new(registry: Arc<Registry>) -> Self {
        Self { registry, open: BTreeMap::new() }
    }

    fn open(&mut self, vni: Vni) -> Result<&mut Open, KernelError> {
        let namespace = self.registry.get(vni);
        if self.open.get(&vni).map(|open| open.namespace)
            != namespace.as_ref().map(|namespace| namespace.id())
        {
            self.open.remove(&vni);
        }
        let namespace =
            namespace.ok_or_else(|| KernelError::NoNamespace { namespace: namespace_name(vni) })?;
        Ok(match self.open.entry(vni) {
            Entry::Occupied(open) => open.into_mut(),
            Entry::Vacant(vacant) => vacant.insert(Open {
                namespace: namespace.id(),
                route: Route::open(&namespace)?,
                filter: GroupFilter::open(&namespace)?,
                devices: BTreeMap::new(),
                changed_at: Instant::now(),
            }),
        })
    }
}

impl Open {
    fn refresh(&mut self) -> Result<(), KernelError> {
        let links = self.route.links()?.into_iter().filter(super::is_ours);
        self.devices =
            links.filter_map(|link| Some((link.name.parse().ok()?, link.index))).collect();
        Ok(())
    }

    fn index(&self, vni: Vni, name: &str) -> Result<u32, KernelError> {
        let found = self.devices.iter().find(|(device, _)| device.as_str() == name);
        found.map(|(_, index)| *index).ok_or_else(|| KernelError::NoDevice {
            device: name.to_owned(),
            namespace: namespace_name(vni),
        })
    }

    fn change_pinned(
        &mut self,
        vni: Vni,
        tunnel: u32,
        changes: &[Change],
    ) -> Result<Vec<(usize, KernelError)>, KernelError> {
        let (mut entries, mut positions, mut failures) = (Vec::new(), Vec::new(), Vec::new());
        for (position, change) in changes.iter().enumerate() {
            match pinned(self, vni, change) {
                Ok(entry) => {
                    entries.extend(entry);
                    positions.extend(entry.map(|_| position));
                }
                Err(error) => failures.push((position, error)),
            }
        }
        let failed = self.route.change_pinned(tunnel, &entries)?;
        failures.extend(
            failed.into_iter().map(|(position, error)| (positions[position], error.into())),
        );
        Ok(failures)
    }

    fn change_filter(&mut self, changes: &[Change]) -> Vec<(usize, KernelError)> {
        let mut failures = Vec::new();
        let mut start = 0;
        for run in changes
            .chunk_by(|last, next| admitted_group(last).is_some() && admitted_group(next).is_some())
        {
            let done: Result<(), Error> = match &run[0] {
                Change::Filter { admitted } => self.filter.install(TUNNEL, admitted),
                Change::Unfilter => self.filter.remove(),
                _ => self.filter.change(&run.iter().filter_map(admitted_group).collect::<Vec<_>>()),
            };
            // A batch is atomic, so we cannot tell which change was refused.
            failures.extend(done.err().map(|error| (start, error.into())));
            start += run.len();
        }
        failures
    }

    fn name(&self, index: u32) -> Option<&DeviceName> {
        self.devices.iter().find(|(_, found)| **found == index).map(|(name, _)| name)
    }
}

/// The group that a change admits (`true`) or stops admitting.
fn admitted_group(change: &Change) -> Option<(IpAddr, bool)> {
    match change {
        Change::Admit { group, add } => Some((*group, *add)),
        _ => None,
    }
}

impl ForwardingTables for LinuxForwarding {
    fn read(&mut self, vni: Vni) -> Result<Forwarding, KernelError> {
        let open = self.open(vni)?;
        open.refresh()?;
        let tunnel = open.index(vni, TUNNEL)?;
        let mut found = Forwarding::default();
        // A kernel without VXLAN MDB dumps the bridge's entries only.
        for entry in open.route.tunnel_groups(tunnel, PROTOCOL)? {
            let to = match entry.vni {
                Some(VNI_NOWHERE) => Destination::Nowhere,
                _ => Destination::Host(entry.remote),
            };
            found.groups.entry((entry.source, entry.group)).or_default().insert(to);
        }
        for pinned in open.route.pinned(tunnel, LEARNED_READ_MAX)? {
            match pinned {
                Pinned::Tunnel { mac, remote } if mac[0] & 1 != 0 => {
                    found.group_macs.entry(MacAddress(mac)).or_default().insert(remote);
                }
                Pinned::Tunnel { mac, remote } => {
                    found.remote_macs.insert(MacAddress(mac), remote);
                }
                Pinned::Destination { .. } => {}
                Pinned::Port { mac, port } => {
                    found.ports.extend(open.name(port).map(|name| (MacAddress(mac), name.clone())));
                }
            }
        }
        found.filter = match open.filter.read(TUNNEL)? {
            Filtering::Absent => Filter::Off,
            Filtering::Whole(admitted) => Filter::On(admitted),
            Filtering::Broken => Filter::Broken,
        };
        Ok(found)
    }

    fn ports(&mut self, vni: Vni) -> Result<BTreeSet<DeviceName>, KernelError> {
        let open = self.open(vni)?;
        let refreshed = open.refresh();
        // This is the last call of a full read.
        open.filter.rest();
        if open.changed_at.elapsed() >= BUSY_FOR {
            open.route.rest();
        }
        refreshed?;
        Ok(open.devices.keys().cloned().collect())
    }

    fn change(
        &mut self,
        vni: Vni,
        own: Vtep,
        changes: &[Change],
    ) -> Result<Vec<(usize, KernelError)>, KernelError> {
        let open = self.open(vni)?;
        open.changed_at = Instant::now();
        if open.devices.is_empty() {
            open.refresh()?;
        }
        let tunnel = open.index(vni, TUNNEL)?;
        let mut failures = Vec::new();
        // In order. Consecutive changes of the same table are made together.
        let mut start = 0;
        for run in changes.chunk_by(|a, b| table(a) == table(b)) {
            let failed = match table(&run[0]) {
                Table::Groups => {
                    let entries: Vec<_> =
                        run.iter().filter_map(|change| tunnel_group(change, own.address)).collect();
                    let failed = open.route.change_tunnel_groups(tunnel, PROTOCOL, &entries)?;
                    failed.into_iter().map(|(position, error)| (position, error.into())).collect()
                }
                Table::Addresses => open.change_pinned(vni, tunnel, run)?,
                Table::Filter => open.change_filter(run),
            };
            failures.extend(failed.into_iter().map(|(position, error)| (start + position, error)));
            start += run.len();
        }
        Ok(failures)
    }

    fn retain(&mut self, segments: &BTreeSet<Vni>) {
        let registry = &self.registry;
        self.open.retain(|vni, open| {
            segments.contains(vni)
                && registry.get(*vni).is_some_and(|namespace| namespace.id() == open.namespace)
        });
    }
}

/// The table of a change.
#[derive(Debug, PartialEq, Eq)]
enum Table {
    /// The MDB of the VXLAN device.
    Groups,
    /// The FDBs of the VXLAN device and of the bridge.
    Addresses,
    /// The group filter before the VXLAN device.
    Filter,
}

fn table(change: &Change) -> Table {
    match change {
        Change::Group { .. } => Table::Groups,
        Change::Filter { .. } | Change::Unfilter | Change::Admit { .. } => Table::Filter,
        _ => Table::Addresses,
    }
}

fn tunnel_group(change: &Change, own: IpAddr) -> Option<(TunnelGroup, bool)> {
    let Change::Group { key: (source, group), to, add } = change else {
        return None;
    };
    let (remote, vni) = match to {
        Destination::Host(remote) => (*remote, None),
        Destination::Nowhere => (own, Some(VNI_NOWHERE)),
    };
    Some((TunnelGroup { source: *source, group: *group, remote, vni }, *add))
}

/// The pin of a change. To unpin at a port that is gone there is nothing to do.
fn pinned(open: &Open, vni: Vni, change: &Change) -> Result<Option<(Pinned, bool)>, KernelError> {
    Ok(match change {
        Change::Group { .. } | Change::Filter { .. } | Change::Unfilter | Change::Admit { .. } => {
            None
        }
        Change::GroupMac { mac, remote, add } => {
            Some((Pinned::Tunnel { mac: mac.0, remote: *remote }, *add))
        }
        Change::ReleaseGroupMac { mac } => Some((Pinned::Destination { mac: mac.0 }, false)),
        Change::PinRemote { mac, remote } => {
            Some((Pinned::Tunnel { mac: mac.0, remote: *remote }, true))
        }
        Change::UnpinRemote { mac, remote } => {
            Some((Pinned::Tunnel { mac: mac.0, remote: *remote }, false))
        }
        Change::PinPort { mac, port } => {
            Some((Pinned::Port { mac: mac.0, port: open.index(vni, port.as_str())? }, true))
        }
        Change::UnpinPort { mac, port } => {
            let port = open.index(vni, port.as_str()).ok();
            port.map(|port| (Pinned::Port { mac: mac.0, port }, false))
        }
    })
}
