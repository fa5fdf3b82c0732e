//! Samples of the multicast that a device is to send: sources, groups and lengths. The kernel
//! counts those that were not read in time, so that rates can be estimated.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::sockopt::RcvBufForce;
use nix::sys::socket::{MsgFlags, recv, setsockopt};

use crate::error::{Error, Fault};
use crate::namespace::Namespace;
use crate::packet;
use crate::packet_count;
use crate::packet_filter::Program;

/// Octets of packets that wait to be read, with the kernel's overhead: some thousand packets.
const QUEUE: usize = 4 << 20;
/// Octets that are copied of each packet: an IPv6 header.
const HEADER: usize = 40;

/// A multicast packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PacketSample {
    /// Its source.
    pub source: IpAddr,
    /// Its destination.
    pub group: IpAddr,
    /// Its length in octets, from the IP header on.
    pub length: u64,
}

/// Takes samples at one device until it is dropped. IGMP and ICMPv6 are left out.
#[derive(Debug)]
pub struct PacketSampler {
    fd: OwnedFd,
}

impl PacketSampler {
    /// Begins to take samples at the device with this index.
    pub fn open(namespace: &Namespace, device: u32) -> Result<Self, Error> {
        Self::try_open(namespace, device)
            .map_err(|fault| fault.during(format_args!("sample packets of device {device}")))
    }

    fn try_open(namespace: &Namespace, device: u32) -> Result<Self, Fault> {
        let fd = packet::open_cooked(namespace)?;
        packet::attach(&fd, Program::multicast().instructions())?;
        // If this fails, more packets are estimated, and fewer read.
        let _ = setsockopt(&fd, RcvBufForce, &QUEUE);
        packet::bind(&fd, device, packet::all_protocols())?;
        Ok(Self { fd })
    }

    /// The packets since the last call, at most this many. The rest stays for the next call.
    pub fn read(&self, most: usize) -> Vec<PacketSample> {
        let mut buffer = [0; HEADER];
        let mut samples = Vec::new();
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC;
        for _ in 0..most {
            match recv(self.fd.as_raw_fd(), &mut buffer, flags) {
                Ok(length) => samples.extend(parse(&buffer, length)),
                Err(nix::errno::Errno::EINTR) => {}
                // Nothing is left, or the device is gone or down.
                Err(_) => break,
            }
        }
        samples
    }

    /// How many packets passed since the last call, read or not.
    pub fn passed(&self) -> Result<u64, Error> {
        packet_count::statistics(&self.fd)
    }
}

fn parse(packet: &[u8; HEADER], length: usize) -> Option<PacketSample> {
    let (source, group) = match packet[0] >> 4 {
        4 if length >= 20 => {
            let address = |at: usize| <[u8; 4]>::try_from(packet.get(at..at + 4)?).ok();
            (Ipv4Addr::from(address(12)?).into(), Ipv4Addr::from(address(16)?).into())
        }
        6 if length >= HEADER => {
            let address = |at: usize| <[u8; 16]>::try_from(packet.get(at..at + 16)?).ok();
            (Ipv6Addr::from(address(8)?).into(), Ipv6Addr::from(address(24)?).into())
        }
        _ => return None,
    };
    Some(PacketSample { source, group, length: u64::try_from(length).ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_and_groups_are_read_from_headers() {
        let mut packet = [0; HEADER];
        packet[0] = 0x45;
        packet[12..20].copy_from_slice(&[10, 0, 0, 1, 224, 1, 1, 1]);
        let sample = PacketSample {
            source: [10, 0, 0, 1].into(),
            group: [224, 1, 1, 1].into(),
            length: 1498,
        };
        assert_eq!(parse(&packet, 1498), Some(sample));
        assert_eq!(parse(&packet, 19), None);
        packet[0] = 0x60;
        packet[24] = 0xff;
        assert!(parse(&packet, 40).is_some_and(|sample| sample.group.is_multicast()));
        assert_eq!(parse(&packet, 39), None);
        packet[0] = 0x10;
        assert_eq!(parse(&packet, 1498), None);
    }
}
