//! Notifications of changes in a namespace: that something changed, and for MDBs also what.

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

/// Octets read at once; the kernel sends one notification per datagram.
const BUFFER: usize = 32 * 1024;
/// Datagrams read at once, so that a flood of events cannot occupy the reader.
const DATAGRAMS_MAX: usize = 4096;

/// Learned addresses that count as one change: more than appear at once with virtual addresses and
/// the like.
const LEARNED_MANY: usize = 512;

/// Receive buffer for MDB events, in octets: some ten thousand joins. The kernel doubles it to
/// cover its own overhead.
const DATABASE_BUFFER: usize = 8 * 1024 * 1024;
/// More datagrams than the largest buffer can hold: each takes at least 512 octets of it.
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

/// A subscription to changes in one namespace. Its descriptor becomes readable when something
/// changed, until [`Monitor::drain`] is called.
#[derive(Debug)]
pub struct Monitor {
    fd: OwnedFd,
    /// The only nf_tables table that matters; `None` if all do.
    table: Option<TableName>,
    /// Addresses learned since they last counted as a change.
    learned: AtomicUsize,
}

impl Monitor {
    /// Watches devices.
    pub fn links(namespace: &Namespace) -> Result<Self, Error> {
        Self::open(namespace, Protocol::Route, &[RTNLGRP_LINK])
    }

    /// Watches devices, their addresses, default routes, and flood entries. Learned entries come
    /// and go with the traffic: only many of them count as a change.
    pub fn segment(namespace: &Namespace) -> Result<Self, Error> {
        Self::open(
            namespace,
            Protocol::Route,
            &[
                RTNLGRP_LINK,
                RTNLGRP_NEIGH,
                RTNLGRP_IPV4_IFADDR,
                RTNLGRP_IPV6_IFADDR,
                RTNLGRP_IPV4_ROUTE,
            ],
        )
    }

    /// Watches devices, their addresses, and three kinds of routes: default routes, those of IPv4
    /// multicast and those of IPv6 link-local addresses. Other routes change by thousands in a
    /// container that routes. A tentative address at first shows only by its IPv6 route
    /// (`addrconf_add_linklocal` of `net/ipv6/addrconf.c`).
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

    /// Watches nf_tables, except for the elements of sets.
    pub fn filters(namespace: &Namespace) -> Result<Self, Error> {
        Self::open(namespace, Protocol::Netfilter, &[NFNLGRP_NFTABLES])
    }

    /// Watches the [`UnderlayFilter`](crate::UnderlayFilter), including its sets of members. In the
    /// same namespace Docker and others change their own tables with every container.
    pub fn underlay_filter(namespace: &Namespace) -> Result<Self, Error> {
        let monitor = Self::open(namespace, Protocol::Netfilter, &[NFNLGRP_NFTABLES])?;
        Ok(Self { table: Some(underlay_filter::TABLE), ..monitor })
    }

    fn open(namespace: &Namespace, protocol: Protocol, groups: &[u32]) -> Result<Self, Error> {
        Self::try_open(namespace, protocol, groups)
            .map_err(|fault| fault.during("watch a network namespace for changes"))
    }

    fn try_open(namespace: &Namespace, protocol: Protocol, groups: &[u32]) -> Result<Self, Fault> {
        let fd = namespace.enter(move || open_here(protocol, SockFlag::SOCK_NONBLOCK))??;
        for &group in groups {
            set_option(&fd, libc::NETLINK_ADD_MEMBERSHIP, group)?;
        }
        Ok(Self { fd, table: None, learned: AtomicUsize::new(0) })
    }

    /// Reads all pending events and returns whether any is a change. Lost events (a full buffer)
    /// count as a change.
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

    /// Counts a learned address. Returns whether the count reached [`LEARNED_MANY`].
    fn counts(&self, frame: &Frame<'_>) -> bool {
        let is_many = fdb::is_learned(frame)
            && self.learned.fetch_add(1, Ordering::Relaxed) + 1 >= LEARNED_MANY;
        if is_many {
            self.learned.store(0, Ordering::Relaxed);
        }
        is_many
    }
}

/// A subscription to the MDBs of the bridges in one namespace.
#[derive(Debug)]
pub struct DatabaseMonitor {
    fd: OwnedFd,
}

impl DatabaseMonitor {
    /// Subscribes.
    pub fn open(namespace: &Namespace) -> Result<Self, Error> {
        let Monitor { fd, .. } = Monitor::open(namespace, Protocol::Route, &[RTNLGRP_MDB])?;
        // Without the privilege to exceed the system's limit, we lose events sooner and
        // resynchronize more often.
        let _ = setsockopt(&fd, sockopt::RcvBufForce, &DATABASE_BUFFER);
        Ok(Self { fd })
    }

    /// Reads all pending changes in order. `None` if events were lost (a full buffer): then the
    /// MDBs must be read again.
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
                        mdb::mdb_entries(&frame).map(move |entry| DatabaseChange {
                            device,
                            entry,
                            present,
                        })
                    }));
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => break,
                // Pending events are older than the lost ones and would undo what we read next.
                // Until the queue is empty, the kernel drops new events without reporting it again
                // (`netlink_overrun`).
                Err(_) => (is_whole, most) = (false, WAITING_MAX),
            }
        }
        is_whole.then_some(changes)
    }

    /// Discards all pending events before the MDBs are read again: older events would undo what is
    /// read.
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
