//! The forwarding table of a VXLAN device: its all-zero entries, which say where to send what has no entry of its own, and broadcast
//! and multicast (`drivers/net/vxlan/vxlan_core.c`).

use std::net::IpAddr;

use nix::errno::Errno;
use nix::libc;

use crate::error::Error;
use crate::route::{Route, unless};
use crate::socket::flag;
use crate::wire::{Attribute, Frame, Message, family_octet};

/// Octets of `struct ndmsg`.
pub(crate) const HEADER: usize = 12;
pub(crate) const NDA_DST: u16 = 1;
pub(crate) const NDA_LLADDR: u16 = 2;
const ALL_ZERO: [u8; 6] = [0; 6];

impl Route {
    /// The VTEPs in the all-zero entries of a VXLAN device.
    pub fn flood(&mut self, index: u32) -> Result<Vec<IpAddr>, Error> {
        let message = Message::new(libc::RTM_GETNEIGH, 0, &neighbour_header(index, 0, 0));
        self.socket
            .dump(&message, |frame| parse(frame, index))
            .map_err(|fault| fault.during(format_args!("list the forwarding table of device {index}")))
    }

    /// Adds a VTEP to the all-zero entries. One that is there already is no error.
    pub fn add_flood(&mut self, index: u32, remote: IpAddr) -> Result<(), Error> {
        // Appending is what keeps the other VTEPs; a VTEP that is there already is left as it is.
        let message = flood_message(libc::RTM_NEWNEIGH, flag(libc::NLM_F_CREATE | libc::NLM_F_APPEND), index, remote);
        let result = self.socket.call(&message);
        result.map_err(|fault| fault.during(format_args!("add {remote} to the forwarding table of device {index}")))
    }

    /// Takes a VTEP out of the all-zero entries. One that is not there is no error.
    pub fn remove_flood(&mut self, index: u32, remote: IpAddr) -> Result<(), Error> {
        let message = flood_message(libc::RTM_DELNEIGH, 0, index, remote);
        let result = self.socket.call(&message);
        let result = result
            .map_err(|fault| fault.during(format_args!("remove {remote} from the forwarding table of device {index}")));
        unless(result, &[Errno::ENOENT])
    }
}

fn flood_message(kind: u16, flags: u16, index: u32, remote: IpAddr) -> Message {
    let state = libc::NUD_NOARP | libc::NUD_PERMANENT;
    let mut message = Message::new(kind, flags, &neighbour_header(index, state, libc::NTF_SELF));
    message.bytes(NDA_LLADDR, &ALL_ZERO);
    message.ip(NDA_DST, remote);
    message
}

fn neighbour_header(index: u32, state: u16, flags: u8) -> [u8; HEADER] {
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
