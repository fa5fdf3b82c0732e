//! Sockets that are members of groups, on the measured interface.

use std::mem;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::libc;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{BindToDevice, RcvBufForce};

/// A receiver's socket buffer in bytes, for the time in which others have the processor.
pub(super) const BUFFER: usize = 64 << 20;

/// The measured interface, in the helper's network namespace.
#[derive(Debug, Clone, clap::Args)]
pub struct Place {
    /// Its IPv4 address.
    #[arg(long)]
    interface: Ipv4Addr,
    /// Its name.
    #[arg(long)]
    device: String,
}

impl Place {
    /// A socket that sends to addresses of the family of `to`. IPv6 has no route for groups that
    /// selects an interface.
    pub(super) fn sender(&self, to: IpAddr) -> Result<UdpSocket> {
        let any: SocketAddr =
            if to.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
        let socket = UdpSocket::bind(any).context("open a socket")?;
        if to.is_ipv6() {
            let device = self.device.as_str().into();
            setsockopt(&socket, BindToDevice, &device)
                .with_context(|| format!("bind to {}", self.device))?;
        }
        Ok(socket)
    }

    /// A socket that receives at `at`, and joins it if it is a group, for one source if one is
    /// given. Reads time out after `patience`.
    pub(super) fn listen(
        &self,
        at: SocketAddr,
        source: Option<Ipv4Addr>,
        patience: Duration,
    ) -> Result<UdpSocket> {
        let socket = UdpSocket::bind(at).with_context(|| format!("bind to {at}"))?;
        setsockopt(&socket, RcvBufForce, &BUFFER).context("enlarge the socket's buffer")?;
        socket.set_read_timeout(Some(patience)).context("set the socket's timeout")?;
        match (at.ip(), source) {
            (IpAddr::V4(group), Some(source)) => {
                self.change(&socket, How::Only, source, group, true)?;
            }
            (group, None) if group.is_multicast() => self.join(&socket, group)?,
            (_, None) => {}
            (IpAddr::V6(_), Some(_)) => bail!("sources can be selected for IPv4 groups only here"),
        }
        Ok(socket)
    }

    pub(super) fn join(&self, socket: &UdpSocket, group: IpAddr) -> Result<()> {
        let joined = match group {
            IpAddr::V4(group) => socket.join_multicast_v4(&group, &self.interface),
            IpAddr::V6(group) => {
                let device = self.device.as_str();
                let index = if_nametoindex(device).with_context(|| format!("find {device}"))?;
                socket.join_multicast_v6(&group, index)
            }
        };
        joined.with_context(|| format!("join {group}"))
    }

    /// Lets a socket receive, or no longer receive, what `source` sends to the group.
    pub(super) fn change(
        &self,
        socket: &UdpSocket,
        how: How,
        source: Ipv4Addr,
        group: Ipv4Addr,
        wants: bool,
    ) -> Result<()> {
        let changed = match (how, wants) {
            (How::Any, true) => socket.join_multicast_v4(&group, &self.interface),
            (How::Any, false) => socket.leave_multicast_v4(&group, &self.interface),
            (How::Only, true) => self.set(socket, libc::IP_ADD_SOURCE_MEMBERSHIP, source, group),
            (How::Only, false) => self.set(socket, libc::IP_DROP_SOURCE_MEMBERSHIP, source, group),
            (How::AllBut, true) => self.set(socket, libc::IP_UNBLOCK_SOURCE, source, group),
            (How::AllBut, false) => self.set(socket, libc::IP_BLOCK_SOURCE, source, group),
        };
        changed.with_context(|| format!("{how:?}, {source} to {group}: {wants}"))
    }

    /// Sets an option of ip(7) that takes a group and a source.
    fn set(
        &self,
        socket: &UdpSocket,
        option: i32,
        source: Ipv4Addr,
        group: Ipv4Addr,
    ) -> std::io::Result<()> {
        let request = libc::ip_mreq_source {
            imr_multiaddr: in_addr(group),
            imr_interface: in_addr(self.interface),
            imr_sourceaddr: in_addr(source),
        };
        let length = libc::socklen_t::try_from(mem::size_of_val(&request)).unwrap_or_default();
        // SAFETY: the kernel reads `length` bytes, which are those of `request`, and keeps none of
        // them.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::IPPROTO_IP,
                option,
                (&raw const request).cast(),
                length,
            )
        };
        Errno::result(result).map(drop).map_err(Into::into)
    }
}

fn in_addr(address: Ipv4Addr) -> libc::in_addr {
    libc::in_addr { s_addr: u32::from_ne_bytes(address.octets()) }
}

/// The way in which a membership for a source is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum How {
    /// Membership for all sources.
    Any,
    /// Membership for that source only (IGMPv3: INCLUDE).
    Only,
    /// Membership for all sources stays; that source is blocked (IGMPv3: EXCLUDE).
    AllBut,
}
