//! UDP sockets that the test itself opens in containers, for source filters (RFC 3678) and
//! thousands of groups, which no program in Debian uses.

use std::fs::File;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use nix::errno::Errno;
use nix::libc;
use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::sockopt::{BindToDevice, IpMulticastTtl, RcvBufForce};
use nix::sys::socket::{SockaddrLike, SockaddrStorage, setsockopt};

use shoutd_lab::Host;

use crate::Container;

/// The receive buffer in octets; each datagram takes some hundreds in addition to its own.
const BUFFER: usize = 16 << 20;

/// The source filter of a membership.
#[derive(Debug, Clone, Copy)]
pub enum Sources<'a> {
    /// All sources (EXCLUDE of none).
    All,
    /// These sources (INCLUDE).
    Only(&'a [IpAddr]),
    /// All but these sources (EXCLUDE).
    AllBut(&'a [IpAddr]),
}

/// A UDP socket on a container's interface `eth0`.
#[derive(Debug)]
pub struct GroupSocket {
    socket: UdpSocket,
    interface: u32,
    is_v4: bool,
    name: String,
}

impl GroupSocket {
    /// Opens a socket for IPv4 or IPv6, on this port (0 for any).
    pub fn open(container: &Container, is_v4: bool, port: u16) -> Result<Self> {
        let any: IpAddr =
            if is_v4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let (socket, interface) = container.inside(|| {
            let socket = UdpSocket::bind((any, port)).context("open a UDP socket")?;
            Ok((socket, if_nametoindex("eth0").context("find eth0")?))
        })?;
        setsockopt(&socket, BindToDevice, &"eth0".into()).context("bind it to eth0")?;
        setsockopt(&socket, RcvBufForce, &BUFFER).context("enlarge its buffer")?;
        socket.set_nonblocking(true)?;
        socket.set_broadcast(true)?;
        if is_v4 {
            setsockopt(&socket, IpMulticastTtl, &4).context("set its TTL")?;
        }
        Ok(Self {
            socket,
            interface,
            is_v4,
            name: format!("{} on {}", container.name, container.host.name()),
        })
    }

    /// Joins a group.
    pub fn join(&self, group: IpAddr, sources: Sources<'_>) -> Result<()> {
        let (option, sources) = match sources {
            Sources::All => return self.ask_for(libc::MCAST_JOIN_GROUP, group, None),
            Sources::Only(sources) => (libc::MCAST_JOIN_SOURCE_GROUP, sources),
            Sources::AllBut(sources) => {
                self.ask_for(libc::MCAST_JOIN_GROUP, group, None)?;
                (libc::MCAST_BLOCK_SOURCE, sources)
            }
        };
        sources.iter().try_for_each(|source| self.ask_for(option, group, Some(*source)))
    }

    /// `struct group_req`, or `struct group_source_req` (ip(7), RFC 3678, section 5).
    fn ask_for(&self, option: i32, group: IpAddr, source: Option<IpAddr>) -> Result<()> {
        let group_request =
            libc::group_req { gr_interface: self.interface, gr_group: storage(group) };
        let source_request = libc::group_source_req {
            gsr_interface: self.interface,
            gsr_group: storage(group),
            gsr_source: storage(source.unwrap_or(group)),
        };
        let (request, length): (*const libc::c_void, usize) = match source {
            Some(_) => ((&raw const source_request).cast(), size_of_val(&source_request)),
            None => ((&raw const group_request).cast(), size_of_val(&group_request)),
        };
        let level = if self.is_v4 { libc::IPPROTO_IP } else { libc::IPPROTO_IPV6 };
        // SAFETY: the pointer is valid for a request of that length, which outlives the call.
        let result = unsafe {
            libc::setsockopt(
                self.socket.as_raw_fd(),
                level,
                option,
                request,
                libc::socklen_t::try_from(length)?,
            )
        };
        Errno::result(result)
            .with_context(|| format!("ask for {group} (option {option}) in {}", self.name))?;
        Ok(())
    }

    /// Sends a datagram.
    pub fn send(&self, to: impl Into<SocketAddr>, text: &[u8]) -> Result<()> {
        let to = to.into();
        let sent = self
            .socket
            .send_to(text, to)
            .with_context(|| format!("send to {to} from {}", self.name))?;
        ensure!(sent == text.len(), "only {sent} octets were sent");
        Ok(())
    }

    /// The datagrams that came since the last call, each with its source.
    pub fn received(&self) -> Result<Vec<(IpAddr, Vec<u8>)>> {
        let mut received = Vec::new();
        let mut datagram = [0; 2048];
        loop {
            match self.socket.recv_from(&mut datagram) {
                Ok((length, from)) => {
                    received.push((from.ip(), datagram.get(..length).unwrap_or_default().to_vec()));
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    return Ok(received);
                }
                Err(error) => return Err(error).with_context(|| format!("read in {}", self.name)),
            }
        }
    }
}

fn storage(address: IpAddr) -> libc::sockaddr_storage {
    let address = SockaddrStorage::from(SocketAddr::new(address, 0));
    // SAFETY: all zeros are a valid value of this type.
    let mut storage: libc::sockaddr_storage = unsafe { mem::zeroed() };
    // SAFETY: both are at least as long as the address, and do not overlap.
    unsafe {
        let length = usize::try_from(address.len()).unwrap_or_default().min(size_of_val(&storage));
        std::ptr::copy_nonoverlapping(
            address.as_ptr().cast::<u8>(),
            (&raw mut storage).cast::<u8>(),
            length,
        );
    }
    storage
}

/// Runs `work` in a host's network namespace; sockets that it opens stay there.
///
/// # Errors
/// The host is gone, or `work` fails.
pub fn inside_host<T: Send>(host: &Host, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    inside(&host.file("/proc/1/ns/net")?, work)
}

fn inside<T: Send>(namespace: &Path, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let file = File::open(namespace).with_context(|| format!("open {}", namespace.display()))?;
    // A thread may be in another network namespace than its process.
    thread::scope(|scope| {
        let thread = scope.spawn(move || {
            setns(&file, CloneFlags::CLONE_NEWNET).context("enter the network namespace")?;
            work()
        });
        thread.join().map_err(|_| anyhow!("a thread panicked"))?
    })
}

impl Container {
    /// Runs `work` in the container's network namespace; sockets that it opens stay there.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let pid = self.inspect("{{.State.Pid}}")?;
        inside(&self.host.file(&format!("/proc/{pid}/ns/net"))?, work)
    }

    /// Its IPv6 address on this network.
    pub fn address_v6(&self, network: &str) -> Result<Ipv6Addr> {
        let template =
            format!("{{{{(index .NetworkSettings.Networks \"{network}\").GlobalIPv6Address}}}}");
        let text = self.inspect(&template)?;
        text.parse()
            .with_context(|| format!("the IPv6 address of {} on {network}: {text:?}", self.name))
    }
}
