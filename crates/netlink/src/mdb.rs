//! The MDBs of bridges and VXLAN devices (`net/bridge/br_mdb.c`, `drivers/net/vxlan/vxlan_mdb.c`):
//! the memberships of each port, and the VTEPs of each group.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::errno::Errno;
use nix::libc;

use crate::error::{Error, Fault};
use crate::route::Route;
use crate::socket::flag;
use crate::wire::{Attribute, Attributes, Frame, Message, NESTED, family_octet};

// include/uapi/linux/rtnetlink.h
pub(crate) const RTM_NEWMDB: u16 = 84;
pub(crate) const RTM_DELMDB: u16 = 85;
const RTM_GETMDB: u16 = 86;

/// Octets of `struct br_port_msg`.
const HEADER: usize = 8;
/// Octets of `struct br_mdb_entry`.
const ENTRY: usize = 28;
// include/uapi/linux/if_bridge.h
const MDBA_MDB: u16 = 1;
const MDBA_ROUTER: u16 = 2;
const MDBA_MDB_ENTRY: u16 = 1;
const MDBA_MDB_ENTRY_INFO: u16 = 1;
const MDBA_ROUTER_PORT: u16 = 1;
const MDBA_SET_ENTRY: u16 = 1;
const MDBA_SET_ENTRY_ATTRS: u16 = 2;
const MDB_TEMPORARY: u8 = 0;
const MDB_PERMANENT: u8 = 1;
const MDB_FLAGS_BLOCKED: u8 = 1 << 3;
const EATTR_GROUP_MODE: u16 = 3;
const EATTR_SOURCE: u16 = 4;
const EATTR_RTPROT: u16 = 5;
const EATTR_DST: u16 = 6;
const EATTR_VNI: u16 = 8;
const ATTR_SOURCE: u16 = 1;
const ATTR_SOURCES: u16 = 2;
const ATTR_GROUP_MODE: u16 = 3;
const ATTR_RTPROT: u16 = 4;
const ATTR_DST: u16 = 5;
const ATTR_VNI: u16 = 7;
const SOURCES_ENTRY: u16 = 1;
const SOURCE_ADDRESS: u16 = 1;
/// `MCAST_INCLUDE` (include/uapi/linux/in.h).
const INCLUDE: u8 = 1;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;

/// A membership in a bridge's MDB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Membership {
    /// Index of the port, or of the bridge itself.
    pub port: u32,
    /// The group.
    pub group: IpAddr,
    /// The source of an (S,G) entry; `None` in (*,G).
    pub source: Option<IpAddr>,
    /// In an (S,G) entry: whether the source is excluded.
    pub blocked: bool,
    /// In a (*,G) entry: whether its filter mode is INCLUDE, so that only sources with (S,G)
    /// entries are selected.
    pub include: bool,
}

/// A membership to add to a bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Join {
    /// Index of the port.
    pub port: u32,
    /// The group.
    pub group: IpAddr,
    /// The included sources, at most 32 (`PG_SRC_ENT_LIMIT`); all if empty.
    pub sources: BTreeSet<IpAddr>,
}

/// One entry of a bridge's MDB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MdbEntry {
    /// A membership.
    Member(Membership),
    /// There is a multicast router behind the port with this index.
    Router(u32),
}

/// A change of a bridge's MDB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DatabaseChange {
    /// Index of the device with the MDB.
    pub device: u32,
    /// The entry.
    pub entry: MdbEntry,
    /// Whether the entry exists, perhaps changed; otherwise it was removed.
    pub present: bool,
}

/// One remote of a VXLAN device's MDB entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TunnelGroup {
    /// The source; `None` in (*,G), for sources without an entry of their own.
    pub source: Option<IpAddr>,
    /// The group; unspecified for all groups of its family without an entry of their own.
    pub group: IpAddr,
    /// The VTEP.
    pub remote: IpAddr,
    /// The VNI it is sent with, unless it is the device's own.
    pub vni: Option<u32>,
}

impl Route {
    /// The MDB of the bridge with this index.
    pub fn bridge_groups(&mut self, bridge: u32) -> Result<Vec<MdbEntry>, Error> {
        let frames =
            self.dump_database(bridge, |frame| Some(mdb_entries(frame).collect::<Vec<_>>()));
        Ok(frames
            .map_err(|fault| fault.during("list the MDBs of bridges"))?
            .into_iter()
            .flatten()
            .collect())
    }

    /// Adds memberships to a bridge, as if each port had reported them now: until a report changes
    /// them or they time out (RFC 3376, section 8.4). Existing entries stay unchanged. A join that
    /// the bridge refuses is skipped: the report follows.
    pub fn join_groups(&mut self, bridge: u32, joins: &[Join]) -> Result<(), Error> {
        let messages: Vec<Message> = joins.iter().map(|join| join_message(bridge, join)).collect();
        let refused = self.socket.call_each(&messages, |_| false);
        refused.map_err(|fault| {
            fault.during(format_args!("join groups at ports of bridge {bridge}"))
        })?;
        Ok(())
    }

    /// The entries of this protocol in the MDB of the VXLAN device with this index.
    pub fn tunnel_groups(&mut self, tunnel: u32, protocol: u8) -> Result<Vec<TunnelGroup>, Error> {
        let groups = self
            .dump_database(tunnel, |frame| {
                let groups = entries(frame).filter_map(|info| tunnel_group(info, protocol));
                Some(groups.collect::<Vec<_>>())
            })
            .map_err(|fault| fault.during(format_args!("list the MDB of device {tunnel}")))?;
        Ok(groups.concat())
    }

    /// Parses one device's part of a dump. The kernel dumps the MDBs of all devices in the
    /// namespace, each consistent by itself (`rtnl_mdb_dump`). So we can read the bridge's MDB even
    /// while many groups come and go in the VXLAN device's.
    fn dump_database<T>(
        &mut self,
        device: u32,
        parse: impl FnMut(&Frame<'_>) -> Option<T>,
    ) -> Result<Vec<T>, Fault> {
        let message = Message::new(RTM_GETMDB, 0, &port_message(0));
        self.socket.dump_part(&message, |frame| self::device(frame) == device, parse)
    }

    /// Changes the MDB of a VXLAN device; our entries carry this protocol. Returns the failures by
    /// position. To add an existing entry or remove a missing one is not a failure.
    pub fn change_tunnel_groups(
        &mut self,
        tunnel: u32,
        protocol: u8,
        changes: &[(TunnelGroup, bool)],
    ) -> Result<Vec<(usize, Error)>, Error> {
        let messages: Vec<Message> = changes
            .iter()
            .map(|(entry, add)| tunnel_message(tunnel, protocol, entry, *add))
            .collect();
        let faults = self
            .socket
            .call_each(&messages, |position| is_of_same_entry(changes, position))
            .map_err(|fault| fault.during(format_args!("change the MDB of device {tunnel}")))?;
        let mut refused = Vec::new();
        for (position, fault) in faults {
            let (TunnelGroup { source, group, remote, .. }, add) = changes[position];
            let (verb, already) =
                if add { ("add", Errno::EEXIST) } else { ("remove", Errno::ENOENT) };
            if fault.errno() == Some(already) {
                continue;
            }
            let source = source.map_or_else(|| "*".to_owned(), |source| source.to_string());
            let error = fault.during(format_args!(
                "{verb} ({source}, {group}) to {remote} on VXLAN device {tunnel}"
            ));
            refused.push((position, error));
        }
        Ok(refused)
    }
}

fn port_message(index: u32) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[0] = family_octet(libc::AF_BRIDGE);
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header
}

fn join_message(bridge: u32, Join { port, group, sources }: &Join) -> Message {
    let mut message = Message::new(
        RTM_NEWMDB,
        flag(libc::NLM_F_CREATE | libc::NLM_F_EXCL),
        &port_message(bridge),
    );
    message.bytes(MDBA_SET_ENTRY, &entry_body(*port, MDB_TEMPORARY, *group));
    if !sources.is_empty() {
        message.nest(MDBA_SET_ENTRY_ATTRS | NESTED, |attributes| {
            attributes.u8(ATTR_GROUP_MODE, INCLUDE);
            attributes.nest(ATTR_SOURCES | NESTED, |list| {
                for &source in sources {
                    list.nest(SOURCES_ENTRY | NESTED, |entry| entry.ip(SOURCE_ADDRESS, source));
                }
            });
        });
    }
    message
}

/// Whether the change at this position is about the same entry as the one before it.
fn is_of_same_entry(changes: &[(TunnelGroup, bool)], position: usize) -> bool {
    let (Some((last, add_last)), Some((next, add))) =
        (changes.get(position - 1), changes.get(position))
    else {
        return false;
    };
    (last.source, last.group, add_last) == (next.source, next.group, add)
}

fn tunnel_message(tunnel: u32, protocol: u8, entry: &TunnelGroup, add: bool) -> Message {
    let (kind, flags) = if add {
        (RTM_NEWMDB, flag(libc::NLM_F_CREATE | libc::NLM_F_APPEND))
    } else {
        (RTM_DELMDB, 0)
    };
    let mut message = Message::new(kind, flags, &port_message(tunnel));
    message.bytes(MDBA_SET_ENTRY, &entry_body(tunnel, MDB_PERMANENT, entry.group));
    message.nest(MDBA_SET_ENTRY_ATTRS | NESTED, |attributes| {
        if let Some(source) = entry.source {
            attributes.ip(ATTR_SOURCE, source);
        }
        attributes.u8(ATTR_RTPROT, protocol);
        attributes.ip(ATTR_DST, entry.remote);
        if let Some(vni) = entry.vni {
            attributes.u32(ATTR_VNI, vni);
        }
    });
    message
}

/// A `struct br_mdb_entry`.
fn entry_body(port: u32, state: u8, group: IpAddr) -> [u8; ENTRY] {
    let mut body = [0; ENTRY];
    body[0..4].copy_from_slice(&port.to_ne_bytes());
    body[4] = state;
    match group {
        IpAddr::V4(group) => {
            body[8..12].copy_from_slice(&group.octets());
            body[24..26].copy_from_slice(&ETHERTYPE_IPV4.to_be_bytes());
        }
        IpAddr::V6(group) => {
            body[8..24].copy_from_slice(&group.octets());
            body[24..26].copy_from_slice(&ETHERTYPE_IPV6.to_be_bytes());
        }
    }
    body
}

/// The contents of each `MDBA_MDB_ENTRY_INFO` of a message.
fn entries<'a>(frame: &Frame<'a>) -> impl Iterator<Item = &'a [u8]> + use<'a> {
    let databases = frame.attributes(HEADER).filter(|attribute| attribute.kind == MDBA_MDB);
    let entries =
        databases.flat_map(Attribute::nested).filter(|attribute| attribute.kind == MDBA_MDB_ENTRY);
    let infos = entries
        .flat_map(Attribute::nested)
        .filter(|attribute| attribute.kind == MDBA_MDB_ENTRY_INFO);
    infos.map(|attribute| attribute.value)
}

/// The entries of a message about a bridge's MDB.
pub(crate) fn mdb_entries<'a>(frame: &Frame<'a>) -> impl Iterator<Item = MdbEntry> + use<'a> {
    let routers = frame.attributes(HEADER).filter(|attribute| attribute.kind == MDBA_ROUTER);
    let ports =
        routers.flat_map(Attribute::nested).filter(|attribute| attribute.kind == MDBA_ROUTER_PORT);
    // In dumps attributes follow the index. Events have only the index.
    let indexes = ports.filter_map(|attribute| word(attribute.value, 0)).map(MdbEntry::Router);
    entries(frame).filter_map(membership).map(MdbEntry::Member).chain(indexes)
}

/// The index of the device whose MDB a message is about.
pub(crate) fn device(frame: &Frame<'_>) -> u32 {
    frame.word(4)
}

fn word(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..offset + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

/// The group of a `struct br_mdb_entry`; `None` for a MAC address.
fn group(info: &[u8]) -> Option<IpAddr> {
    match u16::from_be_bytes(info.get(24..26)?.try_into().ok()?) {
        ETHERTYPE_IPV4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(info.get(8..12)?).ok()?).into()),
        ETHERTYPE_IPV6 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(info.get(8..24)?).ok()?).into()),
        _ => None,
    }
}

fn membership(info: &[u8]) -> Option<Membership> {
    let attributes = Attributes(info.get(ENTRY..).unwrap_or_default());
    Some(Membership {
        port: word(info, 0)?,
        group: group(info)?,
        source: attributes.find(EATTR_SOURCE).and_then(Attribute::ip),
        blocked: info.get(5)? & MDB_FLAGS_BLOCKED != 0,
        include: attributes.find(EATTR_GROUP_MODE).and_then(Attribute::u8) == Some(INCLUDE),
    })
}

fn tunnel_group(info: &[u8], protocol: u8) -> Option<TunnelGroup> {
    let attributes = Attributes(info.get(ENTRY..).unwrap_or_default());
    let is_ours = attributes.find(EATTR_RTPROT).and_then(Attribute::u8) == Some(protocol);
    Some(TunnelGroup {
        source: attributes.find(EATTR_SOURCE).and_then(Attribute::ip),
        group: group(info).filter(|_| is_ours)?,
        remote: attributes.find(EATTR_DST).and_then(Attribute::ip)?,
        vni: attributes.find(EATTR_VNI).and_then(Attribute::u32),
    })
}
