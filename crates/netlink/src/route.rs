//! rtnetlink in one namespace.

use nix::errno::Errno;
use nix::libc;

use crate::error::Error;
use crate::namespace::Namespace;
use crate::socket::{Protocol, Socket};
use crate::wire::{Attribute, Message};

/// An rtnetlink socket: devices, forwarding tables, addresses and routes of the namespace in which
/// it was opened.
#[derive(Debug)]
pub struct Route {
    pub(crate) socket: Socket,
}

impl Route {
    /// Opens one in this namespace.
    pub fn open(namespace: &Namespace) -> Result<Self, Error> {
        let socket = Socket::open(Protocol::Route, namespace)
            .map_err(|fault| fault.during("open an rtnetlink socket"))?;
        Ok(Self { socket })
    }

    /// Closes its socket until it is needed again.
    pub fn rest(&mut self) {
        self.socket.rest();
    }

    /// The number by which this namespace knows `other` (`RTM_GETNSID`): what
    /// [`Peer::namespace`](crate::Peer::namespace) holds for a device whose other end is there.
    /// `None` if it has given it none, as when no device leads there. It stays the same while
    /// `other` is open.
    pub fn namespace_number(&mut self, other: &Namespace) -> Result<Option<i32>, Error> {
        const NETNSA_NSID: u16 = 1;
        const NETNSA_FD: u16 = 3;

        let mut message = Message::new(libc::RTM_GETNSID, 0, &[0; 4]);
        message.i32(NETNSA_FD, other.raw());
        let mut number = None;
        self.socket
            .get(&message, |frame| {
                number = frame.attributes(4).find(NETNSA_NSID).and_then(Attribute::i32)
            })
            .map_err(|fault| fault.during("look up the number of a network namespace"))?;
        Ok(number.filter(|&number| number >= 0))
    }
}

/// Makes success of the refusals that say that what was asked for is so already.
pub(crate) fn unless(result: Result<(), Error>, already: &[Errno]) -> Result<(), Error> {
    match result {
        Err(error) if error.errno().is_some_and(|errno| already.contains(&errno)) => Ok(()),
        result => result,
    }
}
