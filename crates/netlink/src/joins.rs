//! Joins and leaves of sockets in other network namespaces, as the kernel reports them, before any
//! IGMP or MLD report.
//!
//! Since Linux 6.14 the kernel notifies of each group that an interface joins or leaves
//! (`inet_ifmcaddr_notify` of `net/ipv4/igmp.c`, `inet6_ifmcaddr_notify` of `net/ipv6/mcast.c`). A
//! socket can receive the notifications of other namespaces for which its own has an id
//! (`NETLINK_LISTEN_ALL_NSID`). A veth gives its namespace an id for that of its other end.

use std::collections::BTreeMap;
use std::io::IoSliceMut;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, NetlinkAddr, SockFlag, UnknownCmsg, recvmsg,
};

use crate::error::{Error, Fault};
use crate::link::Peer;
use crate::namespace::Namespace;
use crate::socket::{Protocol, open_here, set_option};
use crate::wire::{Attribute, Frame, Frames};

// `enum rtnetlink_groups` and message types (include/uapi/linux/rtnetlink.h).
const RTNLGRP_IPV4_MCADDR: u32 = 37;
const RTNLGRP_IPV6_MCADDR: u32 = 38;
const RTM_NEWMULTICAST: u16 = 56;
const RTM_DELMULTICAST: u16 = 57;
/// Octets of `struct ifaddrmsg`.
const HEADER: usize = 8;
/// `IFA_MULTICAST`.
const GROUP: u16 = 7;
/// Octets read at once; each datagram has one event.
const BUFFER: usize = 1024;
/// Events read at once, so that a flood of events cannot occupy the reader.
const EVENTS_MAX: usize = 4096;

/// Joins and leaves.
#[derive(Debug, Default)]
pub struct Joins {
    /// The last event of each group on each device: true if it was joined.
    pub last: BTreeMap<(Peer, IpAddr), bool>,
    /// The number of events.
    pub events: usize,
}

/// A subscription to joins at the other ends of a namespace's devices.
#[derive(Debug)]
pub struct JoinMonitor {
    fd: OwnedFd,
}

impl JoinMonitor {
    /// Subscribes. `None` on kernels before 6.14, which do not notify.
    pub fn open(namespace: &Namespace) -> Result<Option<Self>, Error> {
        Self::try_open(namespace)
            .map_err(|fault| fault.during("subscribe to joins in the namespaces of containers"))
    }

    fn try_open(namespace: &Namespace) -> Result<Option<Self>, Fault> {
        let fd = namespace.enter(move || open_here(Protocol::Route, SockFlag::SOCK_NONBLOCK))??;
        for group in [RTNLGRP_IPV4_MCADDR, RTNLGRP_IPV6_MCADDR] {
            match set_option(&fd, libc::NETLINK_ADD_MEMBERSHIP, group) {
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Ok(None),
                result => result?,
            }
        }
        set_option(&fd, libc::NETLINK_LISTEN_ALL_NSID, 1)?;
        Ok(Some(Self { fd }))
    }

    /// Reads all pending events. If events were lost (a full buffer), it returns none of them: the
    /// lost ones may be leaves after the joins that remain.
    pub fn changes(&self) -> Joins {
        let mut buffer = [0; BUFFER];
        let mut control = cmsg_space!(libc::c_int);
        let mut changes = Joins::default();
        let mut is_whole = true;
        for _ in 0..EVENTS_MAX {
            let mut room = [IoSliceMut::new(&mut buffer)];
            let received = recvmsg::<NetlinkAddr>(
                self.fd.as_raw_fd(),
                &mut room,
                Some(&mut control),
                MsgFlags::empty(),
            );
            let (length, namespace) = match received {
                Ok(message) => (
                    message.bytes,
                    message.cmsgs().into_iter().flatten().find_map(namespace_number),
                ),
                Err(Errno::EINTR) => continue,
                Err(Errno::ENOBUFS) => {
                    is_whole = false;
                    continue;
                }
                // Nothing is left, or an error that we cannot fix here. The reports of IGMP and MLD
                // still arrive.
                Err(_) => break,
            };
            let frames = Frames(buffer.get(..length).unwrap_or_default());
            for JoinEvent { index, group, joined } in frames.filter_map(|frame| event(&frame)) {
                changes.events += 1;
                changes.last.insert((Peer { index, namespace }, group), joined);
            }
        }
        if !is_whole {
            changes.last.clear();
        }
        changes
    }
}

impl AsFd for JoinMonitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The device with this index joined a group, or left it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct JoinEvent {
    pub(crate) index: u32,
    pub(crate) group: IpAddr,
    pub(crate) joined: bool,
}

/// Parses a message about a device's groups.
pub(crate) fn event(frame: &Frame<'_>) -> Option<JoinEvent> {
    let joined = match frame.kind {
        RTM_NEWMULTICAST => true,
        RTM_DELMULTICAST => false,
        _ => return None,
    };
    let group = frame
        .attributes(HEADER)
        .find(GROUP)
        .and_then(Attribute::ip)
        .filter(IpAddr::is_multicast)?;
    Some(JoinEvent { index: frame.word(4), group, joined })
}

/// The id of the namespace that an event comes from.
fn namespace_number(message: ControlMessageOwned) -> Option<i32> {
    let ControlMessageOwned::Unknown(UnknownCmsg { cmsg_header, data_bytes }) = message else {
        return None;
    };
    let is_it = (cmsg_header.cmsg_level, cmsg_header.cmsg_type)
        == (libc::SOL_NETLINK, libc::NETLINK_LISTEN_ALL_NSID);
    let number = data_bytes.get(..size_of::<i32>()).filter(|_| is_it)?;
    number.try_into().ok().map(i32::from_ne_bytes)
}
