//! Counts the packets of a group that pass a device. The kernel counts, and copies none of them
//! while somebody asks how many there were.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::libc;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::RcvBuf;

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

/// Counts packets at one place until it is dropped.
#[derive(Debug)]
pub struct PacketCounter {
    fd: OwnedFd,
}

impl PacketCounter {
    /// Begins to count. A packet is counted where `tcpdump` sees it: inbound before any rule of
    /// nf_tables, outbound after them.
    pub fn open(
        namespace: &Namespace,
        place: CountedPlace,
        packets: &GroupPackets,
    ) -> Result<Self, Error> {
        Self::try_open(namespace, place, packets)
            .map_err(|fault| fault.during(format_args!("count packets of {}", packets.group)))
    }

    fn try_open(
        namespace: &Namespace,
        place: CountedPlace,
        packets: &GroupPackets,
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
        // Packets are counted, and not read: the smallest buffer.
        setsockopt(&fd, RcvBuf, &0).map_err(io::Error::from)?;
        packet::bind(&fd, device, packet::all_protocols())?;
        Ok(Self { fd })
    }

    /// The packets since the last call, or since it was opened.
    pub fn packets(&self) -> Result<u64, Error> {
        statistics(&self.fd)
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
