//! Counts the packets of a group that pass a device, and keeps them on request.
//! The kernel counts, also what is not kept.

use std::io::{self, IoSliceMut};
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::libc;
use nix::sys::socket::sockopt::{RcvBuf, ReceiveTimestampns};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt};

use crate::error::{Error, Fault};
use crate::namespace::Namespace;
use crate::packet;
use crate::packet_filter::{Direction, GroupPackets, InTunnel, Program};

/// Where packets are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CountedPlace {
    /// At the device with this index.
    Device(u32, Direction),
    /// Outbound at all other devices of the namespace.
    OutboundElsewhere(u32),
    /// Within VXLAN, at the underlay's device with this index.
    Underlay(u32, Direction, InTunnel),
}

/// Octets of packets that wait to be read, with the kernel's overhead, if they are kept.
const KEPT_QUEUE: usize = 128 << 10;
/// Octets that are kept of one packet.
const PACKET_BYTES_MAX: usize = 2048;

/// A packet that was kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptPacket {
    /// When it passed, since 1970.
    pub at: Duration,
    /// Its length in octets, from the IP header on.
    pub length: usize,
    /// The first octets of it, from the IP header on.
    pub octets: Vec<u8>,
}

/// Counts packets at one place until it is dropped.
#[derive(Debug)]
pub struct PacketCounter {
    fd: OwnedFd,
}

impl AsFd for PacketCounter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl PacketCounter {
    /// Begins to count. `keeps` says whether packets can be read, too. A packet is counted where
    /// `tcpdump` sees it: inbound before any rule of nf_tables, outbound after them.
    pub fn open(
        namespace: &Namespace,
        place: CountedPlace,
        packets: &GroupPackets,
        keeps: bool,
    ) -> Result<Self, Error> {
        Self::try_open(namespace, place, packets, keeps)
            .map_err(|fault| fault.during(format_args!("count packets of {}", packets.group)))
    }

    fn try_open(
        namespace: &Namespace,
        place: CountedPlace,
        packets: &GroupPackets,
        keeps: bool,
    ) -> Result<Self, Fault> {
        let (device, program) = match place {
            CountedPlace::Device(device, direction) => {
                (device, Program::direct(packets, direction))
            }
            // An index of 0 stands for all devices.
            CountedPlace::OutboundElsewhere(device) => (0, Program::elsewhere(packets, device)),
            CountedPlace::Underlay(device, direction, tunnel) => {
                (device, Program::in_tunnel(packets, &tunnel, direction))
            }
        };
        // Without a protocol, the socket receives nothing until it has its filter.
        let fd = packet::open_cooked(namespace)?;
        packet::attach(&fd, program.instructions())?;
        if keeps {
            setsockopt(&fd, ReceiveTimestampns, &true).map_err(io::Error::from)?;
        }
        // What is not read needs the smallest buffer only.
        let queue = if keeps { KEPT_QUEUE } else { 0 };
        setsockopt(&fd, RcvBuf, &queue).map_err(io::Error::from)?;
        packet::bind(&fd, device, packet::all_protocols())?;
        Ok(Self { fd })
    }

    /// The packets since the last call, or since it was opened.
    pub fn packets(&self) -> Result<u64, Error> {
        statistics(&self.fd)
    }
}

impl PacketCounter {
    /// The packets since the last call, at most this many. Of more, the kernel keeps what fits into
    /// its buffer.
    pub fn kept(&self, most: usize) -> Vec<KeptPacket> {
        let mut kept = Vec::new();
        let mut buffer = [0; PACKET_BYTES_MAX];
        let mut space = nix::cmsg_space!(nix::sys::time::TimeSpec);
        for _ in 0..most {
            let mut parts = [IoSliceMut::new(&mut buffer)];
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC;
            let received = recvmsg::<()>(self.fd.as_raw_fd(), &mut parts, Some(&mut space), flags);
            let (at, length) = match received {
                Ok(message) => {
                    let at = message.cmsgs().ok().and_then(|mut all| {
                        all.find_map(|control| match control {
                            ControlMessageOwned::ScmTimestampns(at) => Some(Duration::from(at)),
                            _ => None,
                        })
                    });
                    (at.unwrap_or_default(), message.bytes)
                }
                Err(nix::errno::Errno::EINTR) => continue,
                // Nothing is left, or the device is gone or down.
                Err(_) => break,
            };
            let octets = buffer.get(..length.min(PACKET_BYTES_MAX)).unwrap_or_default().to_vec();
            kept.push(KeptPacket { at, length, octets });
        }
        kept
    }
}

/// How many packets a packet socket received since the last call, with those that its buffer could
/// not take (`packet_getsockopt`).
pub(crate) fn statistics(fd: &OwnedFd) -> Result<u64, Error> {
    let mut statistics = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
    let length = libc::socklen_t::try_from(size_of::<libc::tpacket_stats>());
    let mut length = length.unwrap_or_default();
    // SAFETY: both pointers are to values that outlive the call, and `length` is the first one's
    // size.
    let read = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut statistics).cast(),
            &raw mut length,
        )
    };
    if read < 0 {
        let fault = Fault::from(io::Error::last_os_error());
        return Err(fault.during("read how many packets were counted"));
    }
    Ok(statistics.tp_packets.into())
}
