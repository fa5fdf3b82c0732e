//! Options that programs set on their UDP sockets, and that decide by which interface and how far
//! multicast goes. No list of the kernel has them: the sockets themselves are asked, which changes
//! nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::mem::size_of;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::libc;

use crate::namespace::NamespaceId;

/// Descriptors of a process that are looked at.
const DESCRIPTORS_MAX: usize = 4096;
/// Sockets that are asked, of all processes.
const SOCKETS_MAX: usize = 1024;

/// The interface that a program selected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SelectedInterface {
    /// By its index.
    Index(u32),
    /// By its address.
    Address(IpAddr),
}

/// The options of one socket for multicast of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SendOptions {
    /// TTL or hop limit.
    pub ttl: u8,
    /// The interface, if the program selected one.
    pub interface: Option<SelectedInterface>,
}

/// The options of UDP sockets, by inode. The sockets are found among the descriptors of the
/// processes in these namespaces. From Linux 5.6 on (`pidfd_getfd`); before, and for a process that
/// must not be looked into, sockets are missing.
pub fn send_options(
    namespaces: &BTreeSet<NamespaceId>,
    sockets: &BTreeSet<u64>,
    is_ipv4: bool,
) -> BTreeMap<u64, SendOptions> {
    let mut found = BTreeMap::new();
    let Ok(processes) = fs::read_dir("/proc") else { return found };
    for process in processes.flatten() {
        let pid = process.file_name().to_str().and_then(|name| name.parse().ok());
        let Some(pid) = pid else { continue };
        let namespace = fs::metadata(process.path().join("ns/net"));
        let is_inside = namespace.is_ok_and(|metadata| {
            namespaces.contains(&NamespaceId::new(metadata.dev(), metadata.ino()))
        });
        if is_inside {
            of_process(pid, &process.path(), sockets, is_ipv4, &mut found);
        }
        if found.len() >= sockets.len().min(SOCKETS_MAX) {
            break;
        }
    }
    found
}

/// Asks the sockets of one process that were not asked yet.
fn of_process(
    pid: libc::pid_t,
    path: &Path,
    sockets: &BTreeSet<u64>,
    is_ipv4: bool,
    found: &mut BTreeMap<u64, SendOptions>,
) {
    let Ok(descriptors) = fs::read_dir(path.join("fd")) else { return };
    let mut process = None;
    for descriptor in descriptors.flatten().take(DESCRIPTORS_MAX) {
        let Some(inode) = fs::read_link(descriptor.path()).ok().and_then(|to| inode(&to)) else {
            continue;
        };
        if !sockets.contains(&inode) || found.contains_key(&inode) {
            continue;
        }
        let number = descriptor.file_name().to_str().and_then(|name| name.parse().ok());
        let Some(number) = number else { continue };
        if process.is_none() {
            process = open(libc::SYS_pidfd_open, pid, 0).ok();
        }
        let Some(process) = &process else { return };
        if let Ok(socket) = open(libc::SYS_pidfd_getfd, process.as_raw_fd(), number)
            && let Some(options) = ask(&socket, is_ipv4)
        {
            found.insert(inode, options);
        }
    }
}

/// `socket:[12345]`
fn inode(link: &Path) -> Option<u64> {
    link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// A system call that returns a descriptor and takes flags, which are 0.
fn open(call: libc::c_long, first: libc::c_int, second: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: both calls take numbers only.
    let opened = unsafe { libc::syscall(call, first, second, 0) };
    let fd = libc::c_int::try_from(opened).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn ask(socket: &OwnedFd, is_ipv4: bool) -> Option<SendOptions> {
    let (level, ttl, interface) = if is_ipv4 {
        (libc::IPPROTO_IP, libc::IP_MULTICAST_TTL, libc::IP_MULTICAST_IF)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_HOPS, libc::IPV6_MULTICAST_IF)
    };
    let ttl = number(socket, level, ttl)?;
    let bound = number(socket, libc::SOL_SOCKET, libc::SO_BINDTOIFINDEX).unwrap_or_default();
    let selected = number(socket, level, interface).unwrap_or_default();
    let interface = match (bound, selected) {
        (0, 0) => None,
        // An address in network byte order (`do_ip_getsockopt`).
        (0, address) if is_ipv4 => {
            Some(SelectedInterface::Address(Ipv4Addr::from(address.to_ne_bytes()).into()))
        }
        (0, index) | (index, _) => Some(SelectedInterface::Index(index.cast_unsigned())),
    };
    // -1 stands for the namespace's default, which is 1 for multicast (RFC 3493, section 5.2).
    Some(SendOptions { ttl: u8::try_from(ttl).unwrap_or(1), interface })
}

/// Reads an option that is a number of up to four octets.
fn number(socket: &OwnedFd, level: libc::c_int, option: libc::c_int) -> Option<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut length = libc::socklen_t::try_from(size_of::<libc::c_int>()).ok()?;
    // SAFETY: both pointers are to values that outlive the call, and `length` is the first one's
    // size.
    let read = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw mut value).cast(),
            &raw mut length,
        )
    };
    (read == 0).then_some(value)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use nix::sys::socket::setsockopt;
    use nix::sys::socket::sockopt::IpMulticastTtl;

    use super::*;
    use crate::namespace::Namespace;

    #[test]
    fn options_of_a_socket_are_read_from_outside() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        setsockopt(&socket, IpMulticastTtl, &0).unwrap();
        let link = fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
        let inode = inode(&link).unwrap();
        let namespaces = [Namespace::current().unwrap().id()].into();
        let found = send_options(&namespaces, &[inode].into(), true);
        assert_eq!(found, [(inode, SendOptions { ttl: 0, interface: None })].into());
        assert_eq!(send_options(&namespaces, &[].into(), true), BTreeMap::new());
        assert_eq!(send_options(&[].into(), &[inode].into(), true), BTreeMap::new());
    }

    #[test]
    fn only_links_to_sockets_have_an_inode() {
        assert_eq!(inode(Path::new("socket:[12]")), Some(12));
        assert_eq!(inode(Path::new("/dev/null")), None);
        assert_eq!(inode(Path::new("socket:[x]")), None);
    }
}
