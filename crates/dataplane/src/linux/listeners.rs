//! Which port of a segment listens to what, for people who ask.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

use shoutd_core::Vni;
use shoutd_core::limits::LISTENERS_SHOWN_MAX;
use shoutd_core::plane::{BRIDGE, DeviceName, namespace_name};
use shoutd_netlink::{Kind, Listing, Namespace, Route};

use crate::kernel::KernelError;

/// The ports of a segment that lead to containers, each with a group that the bridge has it listen
/// to; `None` is every group, of a port behind which there is a multicast router. `directory` is
/// that of the segments' namespaces. A bridge that is not there has none.
///
/// # Errors
/// If the segment is not there, or cannot be looked at.
pub fn listeners(
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
    let listed = route.bridge_groups(bridge.index)?.into_iter().map(|listing| match listing {
        Listing::Member(member) => (member.port, Some(member.group)),
        Listing::Router(port) => (port, None),
    });
    let known = listed.filter_map(|(port, group)| Some((names.get(&port)?.clone(), group)));
    Ok(known.take(LISTENERS_SHOWN_MAX).collect())
}
