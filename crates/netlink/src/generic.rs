//! Generic netlink: the numbers of families (`include/uapi/linux/genetlink.h`, `CTRL_CMD_*`).

use nix::errno::Errno;

use crate::error::Fault;
use crate::socket::Socket;
use crate::wire::{Attribute, Frame, Message};

/// Octets of `struct genlmsghdr`.
pub(crate) const HEADER: usize = 4;
/// `GENL_ID_CTRL`: the family that knows all others.
const CONTROLLER: u16 = 0x10;
const CONTROLLER_VERSION: u8 = 2;
const NEW_FAMILY: u8 = 1;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;

/// A `struct genlmsghdr`.
pub(crate) fn header(command: u8, version: u8) -> [u8; HEADER] {
    [command, version, 0, 0]
}

/// The number of the family with this name; `None` if the kernel has no such family. The kernel
/// loads the module of the family if it can.
pub(crate) fn family(socket: &mut Socket, name: &str) -> Result<Option<u16>, Fault> {
    let header = header(GET_FAMILY, CONTROLLER_VERSION);
    let mut message = Message::new(CONTROLLER, 0, &header);
    message.text(FAMILY_NAME, name);
    let mut number = None;
    match socket.get(&message, |frame| number = number.or(parse(&frame))) {
        Err(fault) if fault.errno() == Some(Errno::ENOENT) => Ok(None),
        Err(fault) => Err(fault),
        Ok(()) if number.is_none() => Err(Fault::Malformed("a netlink family without a number")),
        Ok(()) => Ok(number),
    }
}

/// The number of a family in an answer of the controller. Numbers up to the controller's own are
/// not given to families (`GENL_MIN_ID`).
pub(crate) fn parse(frame: &Frame<'_>) -> Option<u16> {
    if frame.kind != CONTROLLER || frame.octet(0) != NEW_FAMILY {
        return None;
    }
    let number = frame.attributes(HEADER).find(FAMILY_ID).and_then(Attribute::u16);
    number.filter(|number| *number > CONTROLLER)
}
