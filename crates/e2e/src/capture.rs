//! Captures of all frames of one interface, by a packet socket (packet(7)).

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread::{self, JoinHandle};
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
use shoutd_lab::Host;

/// UDP port of VXLAN between hosts.
const VXLAN_PORT: u16 = 7789;

/// Octets of the headers before the inner frame: VXLAN's own (RFC 7348, section 5).
const VXLAN_HEADER: usize = 8;

/// The socket's buffer, in octets.
const BUFFER: usize = 64 << 20;

/// How often a capture checks whether it is to end, in microseconds.
const LOOK: i64 = 50_000;

/// How long a capture may read on after its end, while frames keep coming.
const LAST: Duration = Duration::from_millis(500);

/// An Ethernet frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame(Vec<u8>);

impl Frame {
    /// The inner frame with its outer source and destination, if this is VXLAN over IPv4.
    pub fn tunnelled(&self) -> Option<(Ipv4Addr, Ipv4Addr, Frame)> {
        let (protocol, source, destination, payload) = self.ipv4()?;
        let port = u16::from_be_bytes(payload.get(2..4)?.try_into().ok()?);
        let inner = payload.get(8 + VXLAN_HEADER..)?;
        (protocol == 17 && port == VXLAN_PORT).then(|| (source, destination, Frame(inner.to_vec())))
    }

    /// The inner frame with its outer source and destination, if this is VXLAN over IPv6.
    pub fn tunnelled_v6(&self) -> Option<(Ipv6Addr, Ipv6Addr, Frame)> {
        let packet = self.payload(0x86dd)?;
        let address =
            |at: usize| Some(Ipv6Addr::from(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?));
        let port = u16::from_be_bytes(packet.get(42..44)?.try_into().ok()?);
        let inner = packet.get(48 + VXLAN_HEADER..)?;
        let is_vxlan = *packet.get(6)? == 17 && port == VXLAN_PORT;
        is_vxlan.then_some((address(8)?, address(24)?, Frame(inner.to_vec())))
    }

    /// Whether it is IGMP (IPv4 protocol 2) or MLD (ICMPv6 types 130, 131, 132 and 143: RFC 2710,
    /// RFC 3810).
    pub fn manages_groups(&self) -> bool {
        self.is_igmp() || self.icmpv6_type().is_some_and(|kind| matches!(kind, 130..=132 | 143))
    }

    /// Whether it is IGMP.
    pub fn is_igmp(&self) -> bool {
        self.ipv4().is_some_and(|(protocol, ..)| protocol == 2)
    }

    /// The type of its IGMP message, if it has the tag of this VLAN and an IPv4 header with one
    /// option.
    pub fn igmp_in_vlan(&self, vlan: u8) -> Option<u8> {
        let is_tagged = self.0.get(12..19)? == [0x81, 0, 0, vlan, 8, 0, 0x46];
        (is_tagged && self.0.get(27) == Some(&2)).then(|| self.0.get(42).copied())?
    }

    /// Whether it contains these octets.
    pub fn contains(&self, octets: &[u8]) -> bool {
        self.0.windows(octets.len()).any(|part| part == octets)
    }

    /// Whether these are its last octets.
    pub fn ends_with(&self, octets: &[u8]) -> bool {
        self.0.ends_with(octets)
    }

    /// Whether it is an IPv4 packet to this address.
    pub fn is_to(&self, address: Ipv4Addr) -> bool {
        self.destination() == Some(address.into())
    }

    /// Whether it is an IPv6 packet to this address.
    pub fn is_to_v6(&self, address: Ipv6Addr) -> bool {
        self.destination() == Some(address.into())
    }

    /// Its destination, if it is an IPv4 or IPv6 packet.
    pub fn destination(&self) -> Option<IpAddr> {
        if let Some((_, _, destination, _)) = self.ipv4() {
            return Some(destination.into());
        }
        let octets: [u8; 16] = self.payload(0x86dd)?.get(24..40)?.try_into().ok()?;
        Some(Ipv6Addr::from(octets).into())
    }

    /// The type of its ICMPv6 message, if it has one, with or without a hop-by-hop header before
    /// it.
    pub fn icmpv6_type(&self) -> Option<u8> {
        let packet = self.payload(0x86dd)?;
        let mut next = *packet.get(6)?;
        let mut at = 40;
        if next == 0 {
            next = *packet.get(at)?;
            // Its length is counted in 8 octets, less the first (RFC 8200, section 4.3).
            at += (usize::from(*packet.get(at + 1)?) + 1) * 8;
        }
        (next == 58).then(|| packet.get(at).copied())?
    }

    /// The payload of its UDP datagram over IPv4, if it is from this port.
    pub fn udp_from(&self, port: u16) -> Option<&[u8]> {
        self.udp(0, port)
    }

    /// The payload of its UDP datagram over IPv4, if it is to this port.
    pub fn udp_to(&self, port: u16) -> Option<&[u8]> {
        self.udp(2, port)
    }

    /// The payload of a UDP datagram whose header has `port` at the octet `at`.
    fn udp(&self, at: usize, port: u16) -> Option<&[u8]> {
        let (protocol, _, _, datagram) = self.ipv4()?;
        let is_it = protocol == 17 && datagram.get(at..at + 2)? == port.to_be_bytes();
        // A frame may be longer than its packet (RFC 894).
        let length = usize::from(u16::from_be_bytes(datagram.get(4..6)?.try_into().ok()?));
        is_it.then(|| datagram.get(8..length))?
    }

    /// Protocol, source, destination and payload of an IPv4 packet.
    fn ipv4(&self) -> Option<(u8, Ipv4Addr, Ipv4Addr, &[u8])> {
        let packet = self.payload(0x0800)?;
        let length = usize::from(packet.first()? & 0xf) * 4;
        let address =
            |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
        Some((*packet.get(9)?, address(12)?, address(16)?, packet.get(length..)?))
    }

    /// The payload, if the frame has this EtherType.
    fn payload(&self, kind: u16) -> Option<&[u8]> {
        (self.0.get(12..14)? == kind.to_be_bytes()).then(|| self.0.get(14..))?
    }
}

/// A capture that goes on until it is stopped.
#[derive(Debug)]
pub struct Capture {
    frames: Arc<Mutex<Vec<Frame>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Capture {
    /// Captures at the underlay interface of a host.
    pub fn of_underlay(host: &Host) -> Result<Self> {
        Self::start(&host.file("/proc/1/ns/net")?, "eth0")
    }

    /// Captures at an interface of a network namespace, in both directions.
    pub fn start(namespace: &Path, interface: &str) -> Result<Self> {
        let namespace =
            File::open(namespace).with_context(|| format!("open {}", namespace.display()))?;
        let interface = interface.to_owned();
        let frames = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (started, begun) = channel();
        let (kept, ending) = (frames.clone(), stop.clone());
        // A thread may be in another network namespace than its process.
        let thread = thread::spawn(move || {
            let opened = open(&namespace, &interface);
            match opened {
                Ok((socket, index)) => {
                    _ = started.send(Ok(()));
                    capture(&socket, index, &kept, &ending)
                }
                Err(error) => {
                    _ = started.send(Err(error));
                    Ok(())
                }
            }
        });
        begun.recv().context("the capture's thread")??;
        Ok(Self { frames, stop, thread: Some(thread) })
    }

    /// The frames captured so far.
    pub fn frames(&self) -> Vec<Frame> {
        self.frames.lock().clone()
    }

    /// Ends it and returns all frames.
    pub fn stop(mut self) -> Result<Vec<Frame>> {
        self.end().context("capture")?;
        Ok(self.frames())
    }

    fn end(&mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.take() {
            Some(thread) => thread.join().map_err(|_| anyhow!("the capture's thread panicked"))?,
            None => Ok(()),
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        _ = self.end();
    }
}

fn open(namespace: &File, interface: &str) -> Result<(OwnedFd, usize)> {
    setns(namespace, CloneFlags::CLONE_NEWNET).context("enter the network namespace")?;
    let index = if_nametoindex(interface).with_context(|| format!("find {interface}"))?;
    let kind = (AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll);
    let socket = socket(kind.0, kind.1, kind.2, kind.3).context("open a packet socket")?;
    setsockopt(&socket, RcvBufForce, &BUFFER).context("enlarge its buffer")?;
    setsockopt(&socket, ReceiveTimeout, &TimeVal::new(0, LOOK)).context("set its timeout")?;
    Ok((socket, usize::try_from(index)?))
}

/// Reads until the sign to stop, and then what was waiting by then.
fn capture(
    socket: &OwnedFd,
    index: usize,
    frames: &Mutex<Vec<Frame>>,
    stop: &AtomicBool,
) -> Result<()> {
    let mut buffer = vec![0; 1 << 16];
    let mut stopped: Option<Instant> = None;
    loop {
        // Checked before reading, so that everything on the wire by then is read.
        let last = stop.load(Ordering::Relaxed);
        if last && stopped.get_or_insert_with(Instant::now).elapsed() > LAST {
            return Ok(());
        }
        match recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut buffer) {
            Ok((length, from)) if from.is_some_and(|from| from.ifindex() == index) => {
                let frame = Frame(buffer.get(..length).unwrap_or_default().to_vec());
                frames.lock().push(frame);
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) if last => return Ok(()),
            Err(Errno::EAGAIN) => {}
            Err(error) => return Err(error).context("read a frame"),
        }
    }
}
