//! Forwarding tables. That of a VXLAN device has all-zero entries, which say where to send what has
//! no entry of its own, and broadcast and multicast, and others that say where one address is
//! (`drivers/net/vxlan/vxlan_core.c`); that of a bridge says behind which port one is
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
/// Set on what a control plane put into a VXLAN device: what tells shoutd's entries from those of
/// others.
const NTF_EXT_LEARNED: u8 = 0x10;

/// An entry of a forwarding table that a control plane put there, and that nothing learnt can
/// change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pinned {
    /// Of a VXLAN device.
    Tunnel {
        /// The destination: one interface's address, or that of groups.
        mac: Mac,
        /// The VTEP it is sent to.
        remote: IpAddr,
    },
    /// Of a VXLAN device, to let go of: all that there is of this destination, in one step.
    Destination {
        /// Its address.
        mac: Mac,
    },
    /// Of a bridge.
    Port {
        /// The address.
        mac: Mac,
        /// Index of the port it is behind.
        port: u32,
    },
}

impl Route {
    /// Adds a VTEP to the all-zero entries. One that is there already is no error.
    pub fn add_flood(&mut self, index: u32, remote: IpAddr) -> Result<(), Error> {
        // Appending is what keeps the other VTEPs; a VTEP that is there already is left as it is.
        let message = flood_message(
            libc::RTM_NEWNEIGH,
            flag(libc::NLM_F_CREATE | libc::NLM_F_APPEND),
            index,
            remote,
        );
        let result = self.socket.call(&message);
        result.map_err(|fault| {
            fault.during(format_args!("add {remote} to the forwarding table of device {index}"))
        })
    }

    /// Takes a VTEP out of the all-zero entries. One that is not there is no error.
    pub fn remove_flood(&mut self, index: u32, remote: IpAddr) -> Result<(), Error> {
        let message = flood_message(libc::RTM_DELNEIGH, 0, index, remote);
        let result = self.socket.call(&message);
        let result = result.map_err(|fault| {
            fault
                .during(format_args!("remove {remote} from the forwarding table of device {index}"))
        });
        unless(result, &[Errno::ENOENT])
    }
}

impl Route {
    /// What was pinned in the forwarding table of this VXLAN device, and in that of the bridge it
    /// is a port of. It fails with [`Fault::Crowded`] if more than this many entries were learnt:
    /// to read on could take seconds.
    pub fn pinned(&mut self, tunnel: u32, learned_max: usize) -> Result<Vec<Pinned>, Error> {
        let message = Message::new(libc::RTM_GETNEIGH, 0, &neighbour_header(0, 0, 0));
        let (mut found, mut learned) = (Vec::new(), 0);
        let end = self.socket.dump_while(&message, |frame| {
            found.extend(parse_pinned(&frame, tunnel));
            learned += usize::from(is_learned(&frame));
            learned <= learned_max
        });
        let end = end.and_then(|end| {
            if end.is_whole { Ok(()) } else { Err(Fault::Crowded { most: learned_max }) }
        });
        end.map_err(|fault| {
            fault.during(format_args!("list the forwarding tables around device {tunnel}"))
        })?;
        Ok(found)
    }

    /// Pins (`true`) or lets go; an address of one interface is taken from wherever else it is
    /// pinned. Returns what failed, by position. To let go of what is not there is no failure.
    pub fn change_pinned(
        &mut self,
        tunnel: u32,
        changes: &[(Pinned, bool)],
    ) -> Result<Vec<(usize, Error)>, Error> {
        let messages: Vec<Message> =
            changes.iter().map(|(pinned, add)| pinned_message(tunnel, *pinned, *add)).collect();
        let mac = |position: usize| match changes.get(position) {
            Some((Pinned::Tunnel { mac, .. }, add)) => Some((mac, *add)),
            _ => None,
        };
        let belongs_to_last =
            |position: usize| mac(position).is_some() && mac(position) == mac(position - 1);
        let faults = self.socket.call_each(&messages, belongs_to_last);
        let faults = faults.map_err(|fault| {
            fault.during(format_args!("change the forwarding tables around device {tunnel}"))
        })?;
        let is_failure = |(position, fault): &(usize, Fault)| {
            changes[*position].1 || !matches!(fault.errno(), Some(Errno::ENOENT | Errno::ENODEV))
        };
        let named = faults.into_iter().filter(is_failure).map(|(position, fault)| {
            let (pinned, add) = changes[position];
            let verb = if add { "pin" } else { "let go of" };
            let (mac, place) = match pinned {
                Pinned::Tunnel { mac, remote } => (mac, remote.to_string()),
                Pinned::Destination { mac } => (mac, "all VTEPs".to_owned()),
                Pinned::Port { mac, port } => (mac, format!("port {port}")),
            };
            (position, fault.during(format_args!("{verb} {mac:02x?} at {place}")))
        });
        Ok(named.collect())
    }
}

fn pinned_message(tunnel: u32, pinned: Pinned, add: bool) -> Message {
    let (mac, header) = match pinned {
        // Without a VTEP the kernel takes the whole entry away (`__vxlan_fdb_delete`).
        Pinned::Tunnel { mac, .. } | Pinned::Destination { mac } => {
            let state = libc::NUD_NOARP | libc::NUD_PERMANENT;
            (mac, neighbour_header(tunnel, state, libc::NTF_SELF | NTF_EXT_LEARNED))
        }
        // To a bridge "permanent" means the port's own address; "no ARP" is an entry that does not
        // age.
        Pinned::Port { mac, port } => {
            (mac, neighbour_header(port, libc::NUD_NOARP, libc::NTF_MASTER | NTF_STICKY))
        }
    };
    let is_of_groups = mac[0] & 1 != 0;
    let (kind, flags) = match add {
        true if is_of_groups => (libc::RTM_NEWNEIGH, libc::NLM_F_CREATE | libc::NLM_F_APPEND),
        true => (libc::RTM_NEWNEIGH, libc::NLM_F_CREATE | libc::NLM_F_REPLACE),
        false => (libc::RTM_DELNEIGH, 0),
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

/// The VTEP, if this is an all-zero entry of the device: an old kernel dumps those of every device.
pub(crate) fn parse(frame: &Frame<'_>, index: u32) -> Option<IpAddr> {
    let is_ours = frame.kind == libc::RTM_NEWNEIGH && frame.word(4) == index && is_flood(frame);
    frame.attributes(HEADER).find(NDA_DST).filter(|_| is_ours).and_then(Attribute::ip)
}

/// Whether a message about an entry of a forwarding table concerns an all-zero one.
pub(crate) fn is_flood(frame: &Frame<'_>) -> bool {
    i32::from(frame.octet(0)) == libc::AF_BRIDGE
        && frame.attributes(HEADER).find(NDA_LLADDR).and_then(Attribute::mac) == Some(ALL_ZERO)
}

/// Whether this is an entry that a bridge or a VXLAN device learnt from traffic: what somebody made
/// is permanent or does not age.
pub(crate) fn is_learned(frame: &Frame<'_>) -> bool {
    let state = u16::from_ne_bytes([frame.octet(8), frame.octet(9)]);
    frame.kind == libc::RTM_NEWNEIGH
        && i32::from(frame.octet(0)) == libc::AF_BRIDGE
        && state & (libc::NUD_NOARP | libc::NUD_PERMANENT) == 0
}
