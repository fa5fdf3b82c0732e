//! rtnetlink in one namespace.

use nix::errno::Errno;
use nix::libc;

use crate::error::Error;
use crate::namespace::Namespace;
use crate::socket::{Protocol, Socket};
use crate::wire::{Attribute, Message};

/// An rtnetlink socket: devices, FDBs and MDBs, addresses and routes of the namespace in which it
/// was opened.
#[derive(Debug)]
pub struct Route {
    pub(crate) socket: Socket,
}

impl Route {
    /// Opens a socket in this namespace.
    pub fn open(namespace: &Namespace) -> Result<Self, Error> {
        let socket = Socket::open(Protocol::Route, namespace)
            .map_err(|fault| fault.during("open an rtnetlink socket"))?;
        Ok(Self { socket })
    }

    /// Closes its socket until the next request.
    pub fn rest(&mut self) {
        self.socket.rest();
    }

    /// The id that this namespace has for `other` (`RTM_GETNSID`), as in
    /// [`Peer::namespace`](crate::Peer::namespace). `None` if it has none, for example because no
    /// device leads there. The id stays the same while `other` is open.
    pub fn namespace_number(&mut self, other: &Namespace) -> Result<Option<i32>, Error> {
        const NETNSA_NSID: u16 = 1;
        const NETNSA_FD: u16 = 3;

        let mut message = Message::new(libc::RTM_GETNSID, 0, &[0; 4]);
        message.i32(NETNSA_FD, other.raw());
        let mut number = None;
        self.socket
            .get(&message, |frame| {
                number = frame.attributes(4).find(NETNSA_NSID).and_then(Attribute::i32);
            })
            .map_err(|fault| fault.during("look up the number of a network namespace"))?;
        Ok(number.filter(|&number| number >= 0))
    }
}

/// Turns errors that mean "already done" into success.
pub(crate) fn unless(result: Result<(), Error>, already: &[Errno]) -> Result<(), Error> {
    match result {
        Err(error) if error.errno().is_some_and(|errno| already.contains(&errno)) => Ok(()),
        result => result,
    }
}
