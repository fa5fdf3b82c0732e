//! Captures of what reaches a host on the underlay, by a packet socket (packet(7)).

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::sockopt::{RcvBufForce, ReceiveTimeout};
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket,
};
use nix::sys::time::TimeVal;
use parking_lot::Mutex;
use serde_json::json;

use super::membership::BUFFER;
use super::{READY, monotonic_nanoseconds};
use crate::by_hand::PLAIN;

/// The UDP ports of the tunnels: shoutd's and that of the way by hand.
const VXLAN_PORTS: [u16; 2] = [7789, PLAIN.port()];

/// Octets of the outer headers before the inner frame: Ethernet, IPv4 without options, UDP, VXLAN
/// (RFC 7348, section 5).
const OUTER: usize = 14 + 20 + 8 + 8;

/// Octets in an inner frame before the destination of its IPv4 packet: Ethernet and the packet's
/// first 16.
const DESTINATION: usize = 14 + 16;

/// Counts the tunnelled frames to `group` until `time` has passed.
pub(super) fn watch(interface: &str, group: Ipv4Addr, time: Duration) -> Result<()> {
    let index = if_nametoindex(interface).with_context(|| format!("find {interface}"))? as usize;
    let socket = open()?;
    println!("{READY}");
    let deadline = Instant::now() + time;
    let mut buffer = vec![0; 1 << 16];
    let (mut frames, mut bytes, mut last) = (0_u64, 0_u64, None);
    while Instant::now() < deadline {
        let Some((length, from)) = read(&socket, &mut buffer)? else { continue };
        if from == index && is_tunnelled_to(buffer.get(..length).unwrap_or_default(), group) {
            frames += 1;
            bytes += length as u64;
            last = Some(monotonic_nanoseconds()?);
        }
    }
    println!("{}", json!({ "frames": frames, "bytes": bytes, "last": last }));
    Ok(())
}

/// A frame and its time.
type Report = (Vec<u8>, Instant);

/// The times at which this network namespace reported its memberships.
#[derive(Debug)]
pub(super) struct Reports {
    seen: Arc<Mutex<Vec<Report>>>,
}

impl Reports {
    /// Starts watching, until the end of the process.
    pub(super) fn watch() -> Result<Self> {
        let socket = open()?;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let seeing = seen.clone();
        thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            while let Ok(read) = read(&socket, &mut buffer) {
                let Some((length, _)) = read else { continue };
                let frame = buffer.get(..length).unwrap_or_default();
                if is_report(frame) {
                    seeing.lock().push((frame.to_vec(), Instant::now()));
                }
            }
        });
        Ok(Self { seen })
    }

    /// The time of the first report of a group.
    pub(super) fn of(&self, group: IpAddr) -> Option<Instant> {
        let seen = self.seen.lock();
        let group = match group {
            IpAddr::V4(group) => group.octets().to_vec(),
            IpAddr::V6(group) => group.octets().to_vec(),
        };
        seen.iter()
            .find(|(frame, _)| frame.windows(group.len()).any(|octets| octets == group))
            .map(|(_, time)| *time)
    }
}

/// Whether a frame is IPv4 with protocol 2 (IGMP), or IPv6 with hop-by-hop options, which only MLD
/// has here (RFC 3810, section 5).
fn is_report(frame: &[u8]) -> bool {
    let (kind, ipv4, ipv6) = (frame.get(12..14), frame.get(23), frame.get(20));
    kind == Some(&[8, 0]) && ipv4 == Some(&2) || kind == Some(&[0x86, 0xdd]) && ipv6 == Some(&0)
}

/// The tunnelled frames to this host, seen from a container's network namespace.
#[derive(Debug)]
pub(super) struct Underlay {
    socket: OwnedFd,
    index: usize,
    buffer: Vec<u8>,
}

impl Underlay {
    /// Opens one on this interface of the host, in the network namespace of the host's first
    /// process.
    pub(super) fn open(interface: &str) -> Result<Self> {
        let interface = interface.to_owned();
        // The thread that changes its namespace ends, so that no other work runs there.
        let opened = thread::spawn(move || {
            let host = File::open("/proc/1/ns/net").context("open /proc/1/ns/net")?;
            setns(host, CloneFlags::CLONE_NEWNET).context("enter the host's network namespace")?;
            let index =
                if_nametoindex(interface.as_str()).with_context(|| format!("find {interface}"))?;
            Ok::<_, anyhow::Error>((open()?, index as usize))
        });
        let (socket, index) =
            opened.join().map_err(|_| anyhow!("open a packet socket on the host"))??;
        Ok(Self { socket, index, buffer: vec![0; 1 << 16] })
    }

    /// The one of these groups that the next frame is to; `None` if no frame came for a while, or
    /// it is to another destination.
    pub(super) fn next(&mut self, groups: &[Ipv4Addr]) -> Result<Option<Ipv4Addr>> {
        let Some((length, from)) = read(&self.socket, &mut self.buffer)? else { return Ok(None) };
        let frame = self.buffer.get(..length).unwrap_or_default();
        let group =
            groups.iter().find(|group| from == self.index && is_tunnelled_to(frame, **group));
        Ok(group.copied())
    }
}

/// A packet socket of all interfaces of this network namespace.
fn open() -> Result<OwnedFd> {
    let socket =
        socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)
            .context("open a packet socket")?;
    setsockopt(&socket, RcvBufForce, &BUFFER).context("enlarge its buffer")?;
    setsockopt(&socket, ReceiveTimeout, &TimeVal::new(0, 50_000)).context("set its timeout")?;
    Ok(socket)
}

/// The length of the next frame, and the index of its interface; `None` if none came for a while.
fn read(socket: &OwnedFd, buffer: &mut [u8]) -> Result<Option<(usize, usize)>> {
    match recvfrom::<LinkAddr>(socket.as_raw_fd(), buffer) {
        Ok((length, from)) => Ok(from.map(|from| (length, from.ifindex()))),
        Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
        Err(error) => Err(error).context("read a frame"),
    }
}

/// Whether a frame of the underlay carries an IPv4 packet to `group`.
fn is_tunnelled_to(frame: &[u8], group: Ipv4Addr) -> bool {
    let is_vxlan = frame.get(12..14) == Some(&[8, 0])
        && frame.get(23) == Some(&17)
        && VXLAN_PORTS.iter().any(|port| frame.get(36..38) == Some(&port.to_be_bytes()));
    let inner = frame.get(OUTER..).unwrap_or_default();
    is_vxlan
        && inner.get(12..14) == Some(&[8, 0])
        && inner.get(DESTINATION..DESTINATION + 4) == Some(&group.octets())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_tunnelled_frames_to_the_group() {
        let group = Ipv4Addr::new(239, 77, 0, 1);
        let mut frame = vec![0; 120];
        for (at, bytes) in [
            (12, [8, 0].as_slice()),
            (23, &[17]),
            (36, &7789_u16.to_be_bytes()),
            (OUTER + 12, &[8, 0]),
            (OUTER + DESTINATION, &group.octets()),
        ] {
            frame[at..at + bytes.len()].copy_from_slice(bytes);
        }
        assert!(is_tunnelled_to(&frame, group));
        assert!(!is_tunnelled_to(&frame, Ipv4Addr::new(239, 77, 0, 2)));
        assert!(!is_tunnelled_to(&frame[..70], group));
        frame[37] = 0;
        assert!(!is_tunnelled_to(&frame, group));
    }
}
