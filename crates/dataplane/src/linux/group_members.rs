//! The current memberships of a segment's ports, for display.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

use shoutd_core::Vni;
use shoutd_core::limits::GROUP_MEMBERS_SHOWN_MAX;
use shoutd_core::plane::{BRIDGE, DeviceName, namespace_name};
use shoutd_netlink::{Kind, MdbEntry, Namespace, Route};

use crate::kernel_error::KernelError;

/// The container ports of a segment, each with a group in the bridge's MDB; `None` stands for all
/// groups, at the port of a multicast router. `directory` is that of the segments' namespaces.
/// Empty if the bridge does not exist.
///
/// # Errors
/// The segment does not exist or cannot be read.
pub fn group_members(
    directory: &Path,
    vni: Vni,
) -> Result<BTreeSet<(DeviceName, Option<IpAddr>)>, KernelError> {
    let mut route = Route::open(&Namespace::open(&directory.join(namespace_name(vni)))?)?;
    let Some(bridge) = route.link(BRIDGE)? else {
        return Ok(BTreeSet::new());
    };
    let ports = route.links()?.into_iter().filter(|link| link.kind == Kind::Veth);
    let names: BTreeMap<u32, DeviceName> =
        ports.filter_map(|link| Some((link.index, link.name.parse().ok()?))).collect();
    let listed = route.bridge_groups(bridge.index)?.into_iter().map(|entry| match entry {
        MdbEntry::Member(member) => (member.port, Some(member.group)),
        MdbEntry::Router(port) => (port, None),
    });
    let known = listed.filter_map(|(port, group)| Some((names.get(&port)?.clone(), group)));
    Ok(known.take(GROUP_MEMBERS_SHOWN_MAX).collect())
}
