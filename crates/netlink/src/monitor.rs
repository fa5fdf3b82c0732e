//! Says that something changed, not what: whoever is told looks for himself.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{MsgFlags, SockFlag, recv, setsockopt, sockopt};

use crate::error::{Error, Fault};
use crate::fdb;
use crate::ip_route;
use crate::mdb::{self, DatabaseChange, RTM_DELMDB, RTM_NEWMDB};
use crate::namespace::Namespace;
use crate::nftables::{self, TableName};
use crate::socket::{Protocol, open_here, set_option};
use crate::underlay_filter;
use crate::wire::{Frame, Frames};

/// Octets read at once; the kernel notifies of one thing per datagram.
const BUFFER: usize = 32 * 1024;
/// Datagrams read at once, so that a flood of events cannot hold the reader.
const DATAGRAMS_MAX: usize = 4096;

/// Addresses that are learnt before somebody is told: more than virtual addresses and such bring up
/// at once.
const LEARNED_MANY: usize = 512;

/// Octets of events that wait to be read: some ten thousand joins. The kernel takes it twice, for
/// what it adds itself.
const DATABASE_BUFFER: usize = 8 * 1024 * 1024;
/// More datagrams than wait at a time in the largest buffer: none takes less than 512 octets of it.
const WAITING_MAX: usize = 2 * DATABASE_BUFFER / 512;

// `enum rtnetlink_groups` and `enum nfnetlink_groups`.
const RTNLGRP_LINK: u32 = 1;
const RTNLGRP_NEIGH: u32 = 3;
const RTNLGRP_IPV4_IFADDR: u32 = 5;
const RTNLGRP_IPV4_ROUTE: u32 = 7;
const RTNLGRP_IPV6_IFADDR: u32 = 9;
const RTNLGRP_IPV6_ROUTE: u32 = 11;
const RTNLGRP_MDB: u32 = 26;
const NFNLGRP_NFTABLES: u32 = 7;

/// A subscription to changes in one namespace. Its descriptor is readable when something changed;
/// [`Monitor::drain`] then clears that.
#[derive(Debug)]
pub struct Monitor {
    fd: OwnedFd,
    /// The only table of nf_tables that matters, if not all of them do.
    table: Option<TableName>,
    /// Addresses that were learnt since that was last taken for a change.
    learned: AtomicUsize,
}

impl Monitor {
    /// Watches devices.
    pub fn links(namespace: &Namespace) -> Result<Self, Error> {
        Self::open(namespace, Protocol::Route, &[RTNLGRP_LINK])
    }

    /// Watches devices, their IPv6 addresses, and all-zero entries of forwarding tables. Those that
    /// devices learn come and go with the traffic: they are a change only when there are many.
    pub fn segment(namespace: &Namespace) -> Result<Self, Error> {
        Self::open(namespace, Protocol::Route, &[RTNLGRP_LINK, RTNLGRP_NEIGH, RTNLGRP_IPV6_IFADDR])
    }

    /// Watches devices, their addresses, and routes of IPv4 multicast and of IPv6 link-local
    /// addresses; others come and go by thousands where a container routes. Those of IPv6 are how
    /// the kernel tells of an address that it still looks for duplicates of (net/ipv6/addrconf.c,
    /// `addrconf_add_linklocal`).
    pub fn sandbox(namespace: &Namespace) -> Result<Self, Error> {
        Self::open(
            namespace,
            Protocol::Route,
            &[
                RTNLGRP_LINK,
                RTNLGRP_IPV4_IFADDR,
                RTNLGRP_IPV6_IFADDR,
                RTNLGRP_IPV4_ROUTE,
                RTNLGRP_IPV6_ROUTE,
            ],
        )
    }

    /// Watches nf_tables, but for the elements of sets.
    pub fn filters(namespace: &Namespace) -> Result<Self, Error> {
        Self::open(namespace, Protocol::Netfilter, &[NFNLGRP_NFTABLES])
    }

    /// Watches the [`UnderlayFilter`](crate::UnderlayFilter), the members in it too. Docker and
    /// others change their own tables of the same namespace with every container.
    pub fn underlay_filter(namespace: &Namespace) -> Result<Self, Error> {
        let monitor = Self::open(namespace, Protocol::Netfilter, &[NFNLGRP_NFTABLES])?;
        Ok(Self { table: Some(underlay_filter::TABLE), ..monitor })
    }

    fn open(namespace: &Namespace, protocol: Protocol, groups: &[u32]) -> Result<Self, Error> {
        let attempt = || -> Result<Self, Fault> {
            let fd = namespace.enter(move || open_here(protocol, SockFlag::SOCK_NONBLOCK))??;
            for &group in groups {
                set_option(&fd, libc::NETLINK_ADD_MEMBERSHIP, group)?;
            }
            Ok(Self { fd, table: None, learned: AtomicUsize::new(0) })
        };
        attempt().map_err(|fault| fault.during("watch a network namespace for changes"))
    }

    /// Reads all there is to read, and says whether anything of it is a change. Events that were
    /// lost for want of room are one.
    pub fn drain(&self) -> bool {
        let mut buffer = vec![0; BUFFER];
        let mut changed = false;
        for _ in 0..DATAGRAMS_MAX {
            match recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(length) => {
                    for frame in Frames(buffer.get(..length).unwrap_or_default()) {
                        changed |= self.is_change(&frame) || self.counts(&frame);
                    }
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => break,
                Err(_) => changed = true,
            }
        }
        changed
    }

    fn is_change(&self, frame: &Frame<'_>) -> bool {
        self.table.map_or_else(|| is_change(frame), |table| nftables::is_about(table, frame))
    }

    /// Counts an address that was learnt. Returns whether that makes many.
    fn counts(&self, frame: &Frame<'_>) -> bool {
        let is_many = fdb::is_learned(frame)
            && self.learned.fetch_add(1, Ordering::Relaxed) + 1 >= LEARNED_MANY;
        if is_many {
            self.learned.store(0, Ordering::Relaxed);
        }
        is_many
    }
}

/// A subscription to the multicast databases of the bridges of one namespace, that says what
/// changed.
#[derive(Debug)]
pub struct DatabaseMonitor {
    fd: OwnedFd,
}

impl DatabaseMonitor {
    /// Subscribes.
    pub fn open(namespace: &Namespace) -> Result<Self, Error> {
        let Monitor { fd, .. } = Monitor::open(namespace, Protocol::Route, &[RTNLGRP_MDB])?;
        // Without the privilege to go beyond the system's limit it loses events sooner, and reads
        // everything again more often.
        let _ = setsockopt(&fd, sockopt::RcvBufForce, &DATABASE_BUFFER);
        Ok(Self { fd })
    }

    /// Reads all there is to read, in order. `None` if events were lost for want of room: then all
    /// is to be read anew.
    pub fn changes(&self) -> Option<Vec<DatabaseChange>> {
        let mut buffer = vec![0; BUFFER];
        let mut changes = Vec::new();
        let (mut is_whole, mut most) = (true, DATAGRAMS_MAX);
        let mut read = 0;
        while read < most {
            read += 1;
            match recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(length) => {
                    let frames = Frames(buffer.get(..length).unwrap_or_default());
                    let ours = frames.filter(|frame| matches!(frame.kind, RTM_NEWMDB | RTM_DELMDB));
                    changes.extend(ours.flat_map(|frame| {
                        let (device, present) = (mdb::device(&frame), frame.kind == RTM_NEWMDB);
                        mdb::listings(&frame).map(move |listing| DatabaseChange {
                            device,
                            listing,
                            present,
                        })
                    }));
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => break,
                // What still waits is older than what was lost, and would undo what is read anew.
                // And until nothing waits, the kernel drops what comes without another word
                // (`netlink_overrun`).
                Err(_) => (is_whole, most) = (false, WAITING_MAX),
            }
        }
        is_whole.then_some(changes)
    }

    /// Throws away all that waits to be read, for all is read anew next: what is older than that
    /// would undo it for a moment.
    pub fn discard(&self) {
        let mut buffer = [0; 1];
        for _ in 0..WAITING_MAX {
            if recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::MSG_TRUNC) == Err(Errno::EAGAIN) {
                return;
            }
        }
    }
}

impl AsFd for DatabaseMonitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

pub(crate) fn is_change(frame: &Frame<'_>) -> bool {
    match frame.kind {
        libc::RTM_NEWNEIGH | libc::RTM_DELNEIGH => fdb::is_flood(frame),
        libc::RTM_NEWROUTE | libc::RTM_DELROUTE => ip_route::is_of_interest(frame),
        _ => !nftables::is_of_elements(frame),
    }
}
