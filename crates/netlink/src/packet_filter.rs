//! Filters that select one group's packets at one place: classic BPF programs, as
//! `SO_ATTACH_FILTER` takes them (`Documentation/networking/filter.rst`).

use std::net::IpAddr;

use nix::libc::{self, sock_filter};

use crate::packet::ICMPV6;

/// Where a program jumps if a packet is not selected.
const REJECT: u8 = u8::MAX;
/// `SKF_AD_OFF + SKF_AD_PKTTYPE`: how the packet passes the device.
const PACKET_TYPE: u32 = ancillary(libc::SKF_AD_PKTTYPE);
/// `SKF_AD_OFF + SKF_AD_IFINDEX`: the device.
const DEVICE: u32 = ancillary(libc::SKF_AD_IFINDEX);
/// `PACKET_OUTGOING` of `linux/if_packet.h`.
const OUTGOING: u32 = 4;

const IPV4_FRAGMENT_OFFSET: u32 = 0x1fff;
const IPV6_FRAGMENT_OFFSET: u32 = 0xfff8;
const IPV6_HEADER: u32 = 40;
const UDP_HEADER: u32 = 8;
const VXLAN_HEADER: u32 = 8;
const ETHERNET_HEADER: u32 = 14;
const IGMP: u32 = 2;
const UDP: u32 = 17;
const HOP_BY_HOP: u32 = 0;
const FRAGMENT: u32 = 44;

/// The direction in which packets pass a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// The device received them.
    Inbound,
    /// The device is to send them.
    Outbound,
}

/// Which packets are selected: those to a group, without IGMP and MLD. Of a fragmented datagram,
/// only the first fragment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupPackets {
    /// The group.
    pub group: IpAddr,
    /// Only packets from this address, of the group's family.
    pub source: Option<IpAddr>,
    /// Only UDP packets to this port.
    pub port: Option<u16>,
}

/// The tunnel in which packets are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InTunnel {
    /// UDP port of VXLAN.
    pub port: u16,
    /// The VNI.
    pub vni: u32,
    /// The other host: the outer source of inbound packets, the outer destination of others.
    pub remote: IpAddr,
}

/// A program for a packet socket of type `SOCK_DGRAM`, whose packets begin with the IP header.
#[derive(Debug, Default)]
pub(crate) struct Program {
    instructions: Vec<sock_filter>,
}

impl Program {
    /// Selects packets at one device.
    pub(crate) fn direct(packets: &GroupPackets, direction: Direction) -> Self {
        let mut program = Self::default();
        program.passes(direction);
        program.group(packets, 0);
        program.finish()
    }

    /// Selects packets that are sent by other devices than this one.
    pub(crate) fn elsewhere(packets: &GroupPackets, device: u32) -> Self {
        let mut program = Self::default();
        program.passes(Direction::Outbound);
        program.load(libc::BPF_W, DEVICE);
        program.not(device);
        program.group(packets, 0);
        program.finish()
    }

    /// Selects packets within VXLAN.
    pub(crate) fn in_tunnel(
        packets: &GroupPackets,
        tunnel: &InTunnel,
        direction: Direction,
    ) -> Self {
        let mut program = Self::default();
        program.passes(direction);
        let udp = program.ip(tunnel.remote, direction);
        program.load(libc::BPF_H, udp + 2);
        program.is(tunnel.port.into());
        let vxlan = udp + UDP_HEADER;
        program.load(libc::BPF_W, vxlan + 4);
        program.push(libc::BPF_ALU | libc::BPF_RSH | libc::BPF_K, 8);
        program.is(tunnel.vni);
        program.group(packets, vxlan + VXLAN_HEADER + ETHERNET_HEADER);
        program.finish()
    }

    /// Selects the multicast that a device is to send, without IGMP and ICMPv6.
    pub(crate) fn multicast() -> Self {
        let mut program = Self::default();
        program.passes(Direction::Outbound);
        program.load(libc::BPF_B, 0);
        program.push(libc::BPF_ALU | libc::BPF_RSH | libc::BPF_K, 4);
        // Past IPv4's five instructions, and the jump over those of IPv6.
        program.jump(libc::BPF_JEQ, 4, 0, 6);
        program.load(libc::BPF_B, 9);
        program.not(IGMP);
        program.load(libc::BPF_B, 16);
        program.push(libc::BPF_ALU | libc::BPF_RSH | libc::BPF_K, 4);
        program.is(0xe);
        program.push(libc::BPF_JMP | libc::BPF_JA, 6);
        program.is(6);
        program.load(libc::BPF_B, 6);
        program.not(HOP_BY_HOP);
        program.not(ICMPV6.into());
        program.load(libc::BPF_B, 24);
        program.is(0xff);
        program.finish()
    }

    pub(crate) fn instructions(&self) -> &[sock_filter] {
        &self.instructions
    }

    fn passes(&mut self, direction: Direction) {
        self.load(libc::BPF_B, PACKET_TYPE);
        match direction {
            Direction::Outbound => self.is(OUTGOING),
            Direction::Inbound => self.not(OUTGOING),
        }
    }

    /// The outer IP and UDP headers. Returns the offset of the UDP header. The kernel's VXLAN adds
    /// no IP options.
    fn ip(&mut self, remote: IpAddr, direction: Direction) -> u32 {
        let is_source = direction == Direction::Inbound;
        match remote {
            IpAddr::V4(remote) => {
                self.load(libc::BPF_B, 0);
                self.is(0x45);
                self.load(libc::BPF_B, 9);
                self.is(UDP);
                self.load(libc::BPF_H, 6);
                self.no_bits(IPV4_FRAGMENT_OFFSET);
                self.address(&remote.octets(), if is_source { 12 } else { 16 });
                20
            }
            IpAddr::V6(remote) => {
                self.version(0, 6);
                self.load(libc::BPF_B, 6);
                self.is(UDP);
                self.address(&remote.octets(), if is_source { 8 } else { 24 });
                IPV6_HEADER
            }
        }
    }

    /// The packet whose IP header has this offset.
    fn group(&mut self, packets: &GroupPackets, at: u32) {
        match packets.group {
            IpAddr::V4(group) => {
                self.version(at, 4);
                self.address(&group.octets(), at + 16);
                if let Some(IpAddr::V4(source)) = packets.source {
                    self.address(&source.octets(), at + 12);
                }
                self.load(libc::BPF_H, at + 6);
                self.no_bits(IPV4_FRAGMENT_OFFSET);
                self.load(libc::BPF_B, at + 9);
                self.not(IGMP);
                if let Some(port) = packets.port {
                    self.is(UDP);
                    self.push(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, at);
                    self.push(libc::BPF_LD | libc::BPF_H | libc::BPF_IND, at + 2);
                    self.is(port.into());
                }
            }
            IpAddr::V6(group) => {
                self.version(at, 6);
                self.address(&group.octets(), at + 24);
                if let Some(IpAddr::V6(source)) = packets.source {
                    self.address(&source.octets(), at + 8);
                }
                self.ipv6_protocol(packets.port, at);
            }
        }
    }

    fn ipv6_protocol(&mut self, port: Option<u16>, at: u32) {
        let body = at + IPV6_HEADER;
        // X is what a fragment header takes.
        self.push(libc::BPF_LDX | libc::BPF_W | libc::BPF_IMM, 0);
        self.load(libc::BPF_B, at + 6);
        self.jump(libc::BPF_JEQ, FRAGMENT, 0, 4);
        self.load(libc::BPF_H, body + 2);
        self.no_bits(IPV6_FRAGMENT_OFFSET);
        self.push(libc::BPF_LDX | libc::BPF_W | libc::BPF_IMM, 8);
        self.load(libc::BPF_B, body);
        // MLD comes with a hop-by-hop options header (RFC 3810, section 5).
        self.not(HOP_BY_HOP);
        if let Some(port) = port {
            self.is(UDP);
            self.push(libc::BPF_LD | libc::BPF_H | libc::BPF_IND, body + 2);
            self.is(port.into());
        }
    }

    fn version(&mut self, at: u32, version: u32) {
        self.load(libc::BPF_B, at);
        self.push(libc::BPF_ALU | libc::BPF_RSH | libc::BPF_K, 4);
        self.is(version);
    }

    fn address(&mut self, octets: &[u8], at: u32) {
        let words = octets.as_chunks::<4>().0;
        for (word, at) in words.iter().zip((at..).step_by(4)) {
            self.load(libc::BPF_W, at);
            self.is(u32::from_be_bytes(*word));
        }
    }

    fn load(&mut self, size: u32, at: u32) {
        self.push(libc::BPF_LD | size | libc::BPF_ABS, at);
    }

    /// Goes on if A has this value.
    fn is(&mut self, value: u32) {
        self.jump(libc::BPF_JEQ, value, 0, REJECT);
    }

    /// Goes on if A has another value.
    fn not(&mut self, value: u32) {
        self.jump(libc::BPF_JEQ, value, REJECT, 0);
    }

    /// Goes on if A has none of these bits.
    fn no_bits(&mut self, bits: u32) {
        self.jump(libc::BPF_JSET, bits, REJECT, 0);
    }

    fn push(&mut self, code: u32, k: u32) {
        self.instruction(code, k, 0, 0);
    }

    fn jump(&mut self, test: u32, k: u32, jt: u8, jf: u8) {
        self.instruction(libc::BPF_JMP | test | libc::BPF_K, k, jt, jf);
    }

    fn instruction(&mut self, code: u32, k: u32, jt: u8, jf: u8) {
        let code = u16::try_from(code).unwrap_or_default();
        self.instructions.push(sock_filter { code, jt, jf, k });
    }

    /// Adds the ends, and resolves the jumps to [`REJECT`]. No program is so long that a jump does
    /// not reach them.
    fn finish(mut self) -> Self {
        let reject = self.instructions.len() + 1;
        for (at, instruction) in self.instructions.iter_mut().enumerate() {
            let distance = u8::try_from(reject - at - 1).unwrap_or(REJECT);
            for jump in [&mut instruction.jt, &mut instruction.jf] {
                if *jump == REJECT {
                    *jump = distance;
                }
            }
        }
        self.push(libc::BPF_RET | libc::BPF_K, u32::MAX);
        self.push(libc::BPF_RET | libc::BPF_K, 0);
        self
    }
}

const fn ancillary(offset: i32) -> u32 {
    (libc::SKF_AD_OFF + offset).cast_unsigned()
}
