//! FDBs. In a VXLAN device, the flood entries (all-zero MAC address) hold the VTEPs for broadcast,
//! multicast and unknown unicast, and other entries hold the VTEP of one address
//! (`drivers/net/vxlan/vxlan_core.c`). In a bridge, an entry holds the port of one address
//! (`net/bridge/br_fdb.c`).

use std::net::IpAddr;

use nix::errno::Errno;
use nix::libc;

use crate::error::{Error, Fault};
use crate::link::Mac;
use crate::route::{Route, unless};
use crate::socket::flag;
use crate::wire::{Attribute, Frame, Message, family_octet};

/// Octets of `struct ndmsg`.
pub(crate) const HEADER: usize = 12;
pub(crate) const NDA_DST: u16 = 1;
pub(crate) const NDA_LLADDR: u16 = 2;
pub(crate) const NDA_MASTER: u16 = 9;
const ALL_ZERO: [u8; 6] = [0; 6];
const NTF_STICKY: u8 = 0x40;
/// Set on entries that a control plane added to a VXLAN device. It distinguishes our entries from
/// others.
const NTF_EXT_LEARNED: u8 = 0x10;

/// A static FDB entry made by a control plane. Learning does not change it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pinned {
    /// In a VXLAN device.
    Tunnel {
        /// The destination: a unicast address, or the MAC address of groups.
        mac: Mac,
        /// The VTEP.
        remote: IpAddr,
    },
    /// In a VXLAN device, only to unpin: all VTEPs of a destination, in one step.
    Destination {
        /// The destination.
        mac: Mac,
    },
    /// In a bridge.
    Port {
        /// The address.
        mac: Mac,
        /// Index of the port.
        port: u32,
    },
}

impl Route {
    /// Adds a VTEP to the flood entries. An existing one is not an error.
    pub fn add_flood(&mut self, index: u32, remote: IpAddr) -> Result<(), Error> {
        // Appending keeps the other VTEPs and leaves an existing one unchanged.
        let message = flood_message(
            libc::RTM_NEWNEIGH,
            flag(libc::NLM_F_CREATE | libc::NLM_F_APPEND),
            index,
            remote,
        );
        let result = self.socket.call(&message);
        result.map_err(|fault| {
            fault.during(format_args!("add {remote} to the FDB of device {index}"))
        })
    }

    /// Removes a VTEP from the flood entries. A missing one is not an error.
    pub fn remove_flood(&mut self, index: u32, remote: IpAddr) -> Result<(), Error> {
        let message = flood_message(libc::RTM_DELNEIGH, 0, index, remote);
        let result = self.socket.call(&message);
        let result = result.map_err(|fault| {
            fault.during(format_args!("remove {remote} from the FDB of device {index}"))
        });
        unless(result, &[Errno::ENOENT])
    }
}

impl Route {
    /// The pins in the FDB of this VXLAN device and of its bridge. It fails with
    /// [`Fault::TooManyLearned`] if there are more than `learned_max` learned entries: reading on
    /// could take seconds.
    pub fn pinned(&mut self, tunnel: u32, learned_max: usize) -> Result<Vec<Pinned>, Error> {
        let message = Message::new(libc::RTM_GETNEIGH, 0, &neighbour_header(0, 0, 0));
        let (mut found, mut learned) = (Vec::new(), 0);
        let end = self.socket.dump_while(&message, |frame| {
            found.extend(parse_pinned(&frame, tunnel));
            learned += usize::from(is_learned(&frame));
            learned <= learned_max
        });
        let end = end.and_then(|end| {
            if end.is_whole { Ok(()) } else { Err(Fault::TooManyLearned { most: learned_max }) }
        });
        end.map_err(|fault| {
            fault.during(format_args!("list the FDBs of device {tunnel} and its bridge"))
        })?;
        Ok(found)
    }

    /// Pins (`true`) or unpins. A unicast address is moved from wherever it was pinned. Returns the
    /// failures by position. To unpin what is not pinned is not a failure.
    pub fn change_pinned(
        &mut self,
        tunnel: u32,
        changes: &[(Pinned, bool)],
    ) -> Result<Vec<(usize, Error)>, Error> {
        let messages: Vec<Message> =
            changes.iter().map(|(pinned, add)| pinned_message(tunnel, *pinned, *add)).collect();
        let faults = self
            .socket
            .call_each(&messages, |position| is_of_same_mac(changes, position))
            .map_err(|fault| {
                fault.during(format_args!("change the FDBs of device {tunnel} and its bridge"))
            })?;
        let mut refused = Vec::new();
        for (position, fault) in faults {
            let (pinned, add) = changes[position];
            if !add && matches!(fault.errno(), Some(Errno::ENOENT | Errno::ENODEV)) {
                // What should go is gone already.
                continue;
            }
            let verb = if add { "pin" } else { "unpin" };
            let (mac, place) = match pinned {
                Pinned::Tunnel { mac, remote } => (mac, remote.to_string()),
                Pinned::Destination { mac } => (mac, "all VTEPs".to_owned()),
                Pinned::Port { mac, port } => (mac, format!("port {port}")),
            };
            refused.push((position, fault.during(format_args!("{verb} {mac:02x?} at {place}"))));
        }
        Ok(refused)
    }
}

/// Whether the change at this position pins or unpins the same MAC address in the tunnel's FDB as
/// the one before it.
fn is_of_same_mac(changes: &[(Pinned, bool)], position: usize) -> bool {
    match (changes.get(position - 1), changes.get(position)) {
        (
            Some((Pinned::Tunnel { mac: last, .. }, add_last)),
            Some((Pinned::Tunnel { mac, .. }, add)),
        ) => (last, add_last) == (mac, add),
        _ => false,
    }
}

fn pinned_message(tunnel: u32, pinned: Pinned, add: bool) -> Message {
    let (mac, header) = match pinned {
        // Without a VTEP the kernel removes the whole entry (`__vxlan_fdb_delete`).
        Pinned::Tunnel { mac, .. } | Pinned::Destination { mac } => {
            let state = libc::NUD_NOARP | libc::NUD_PERMANENT;
            (mac, neighbour_header(tunnel, state, libc::NTF_SELF | NTF_EXT_LEARNED))
        }
        // In a bridge, `NUD_PERMANENT` means the port's own address. `NUD_NOARP` is an entry that
        // does not age.
        Pinned::Port { mac, port } => {
            (mac, neighbour_header(port, libc::NUD_NOARP, libc::NTF_MASTER | NTF_STICKY))
        }
    };
    let is_of_groups = mac[0] & 1 != 0;
    let (kind, flags) = if !add {
        (libc::RTM_DELNEIGH, 0)
    } else if is_of_groups {
        (libc::RTM_NEWNEIGH, libc::NLM_F_CREATE | libc::NLM_F_APPEND)
    } else {
        (libc::RTM_NEWNEIGH, libc::NLM_F_CREATE | libc::NLM_F_REPLACE)
    };
    let mut message = Message::new(kind, flag(flags), &header);
    message.bytes(NDA_LLADDR, &mac);
    if let Pinned::Tunnel { remote, .. } = pinned {
        message.ip(NDA_DST, remote);
    }
    message
}

fn parse_pinned(frame: &Frame<'_>, tunnel: u32) -> Option<Pinned> {
    if frame.kind != libc::RTM_NEWNEIGH {
        return None;
    }
    let (attributes, index, flags) = (frame.attributes(HEADER), frame.word(4), frame.octet(10));
    let mac = attributes.find(NDA_LLADDR).and_then(Attribute::mac)?;
    if attributes.find(NDA_MASTER).is_some() {
        return (flags & NTF_STICKY != 0).then_some(Pinned::Port { mac, port: index });
    }
    let remote = attributes.find(NDA_DST).and_then(Attribute::ip)?;
    let is_ours = index == tunnel && flags & NTF_EXT_LEARNED != 0 && mac != ALL_ZERO;
    is_ours.then_some(Pinned::Tunnel { mac, remote })
}

fn flood_message(kind: u16, flags: u16, index: u32, remote: IpAddr) -> Message {
    let state = libc::NUD_NOARP | libc::NUD_PERMANENT;
    let mut message = Message::new(kind, flags, &neighbour_header(index, state, libc::NTF_SELF));
    message.bytes(NDA_LLADDR, &ALL_ZERO);
    message.ip(NDA_DST, remote);
    message
}

pub(crate) fn neighbour_header(index: u32, state: u16, flags: u8) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[0] = family_octet(libc::AF_BRIDGE);
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..10].copy_from_slice(&state.to_ne_bytes());
    header[10] = flags;
    header
}

/// The VTEP of a flood entry of this device. Old kernels dump the entries of every device.
pub(crate) fn parse(frame: &Frame<'_>, index: u32) -> Option<IpAddr> {
    let is_ours = frame.kind == libc::RTM_NEWNEIGH && frame.word(4) == index && is_flood(frame);
    frame.attributes(HEADER).find(NDA_DST).filter(|_| is_ours).and_then(Attribute::ip)
}

/// Whether a message is about a flood entry.
pub(crate) fn is_flood(frame: &Frame<'_>) -> bool {
    i32::from(frame.octet(0)) == libc::AF_BRIDGE
        && frame.attributes(HEADER).find(NDA_LLADDR).and_then(Attribute::mac) == Some(ALL_ZERO)
}

/// Whether a message is about a learned entry of a bridge or VXLAN device. Configured entries are
/// permanent or do not age.
pub(crate) fn is_learned(frame: &Frame<'_>) -> bool {
    let state = u16::from_ne_bytes([frame.octet(8), frame.octet(9)]);
    frame.kind == libc::RTM_NEWNEIGH
        && i32::from(frame.octet(0)) == libc::AF_BRIDGE
        && state & (libc::NUD_NOARP | libc::NUD_PERMANENT) == 0
}
