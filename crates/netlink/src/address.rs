//! IP addresses of devices and of their neighbours.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use nix::errno::Errno;
use nix::libc;

use crate::error::Error;
use crate::route::{Route, unless};
use crate::socket::flag;
use crate::wire::{Attribute, Frame, Message, family_of};

/// Octets of `struct ifaddrmsg`.
const HEADER: usize = 8;
/// Octets of `struct ndmsg`.
const NEIGHBOUR_HEADER: usize = 12;
/// `NDA_DST`.
const NDA_DST: u16 = 1;
// include/uapi/linux/if_addr.h
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_F_SECONDARY: u8 = 0x01;
const IFA_F_NODAD: u8 = 0x02;
const IFA_F_DADFAILED: u8 = 0x08;
const IFA_F_DEPRECATED: u8 = 0x20;
const IFA_F_TENTATIVE: u8 = 0x40;

/// An address of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// Index of the device.
    pub link: u32,
    /// The address and its prefix length.
    pub net: IpNet,
    /// Whether duplicate address detection (RFC 4862, section 5.4) is in progress. Until it ends,
    /// nothing can be sent from the address.
    pub tentative: bool,
    /// Whether duplicate address detection found a duplicate. The kernel then never uses the
    /// address.
    pub duplicate: bool,
    /// Whether the kernel calls it secondary (IPv4) or temporary (IPv6, RFC 8981): one flag.
    pub secondary: bool,
    /// Whether its preferred lifetime has ended (RFC 4862, section 5.5.4).
    pub deprecated: bool,
}

impl Route {
    /// All addresses of all devices in the namespace.
    pub fn addresses(&mut self) -> Result<Vec<Address>, Error> {
        let message = Message::new(libc::RTM_GETADDR, 0, &[0; HEADER]);
        self.socket.dump(&message, parse).map_err(|fault| fault.during("list IP addresses"))
    }

    /// Adds an address to a device, valid at once: the lease makes it unique, not duplicate address
    /// detection. An existing one is not an error.
    pub fn add_address(&mut self, link: u32, net: IpNet) -> Result<(), Error> {
        let mut header = [0; HEADER];
        header[0] = family_of(net.addr());
        header[1] = net.prefix_len();
        header[2] = if net.addr().is_ipv6() { IFA_F_NODAD } else { 0 };
        header[3] =
            if is_link_local(net.addr()) { libc::RT_SCOPE_LINK } else { libc::RT_SCOPE_UNIVERSE };
        header[4..8].copy_from_slice(&link.to_ne_bytes());
        let flags = flag(libc::NLM_F_CREATE | libc::NLM_F_EXCL);
        let mut message = Message::new(libc::RTM_NEWADDR, flags, &header);
        message.ip(IFA_LOCAL, net.addr());
        message.ip(IFA_ADDRESS, net.addr());
        if let IpNet::V4(net) = net
            && net.prefix_len() < 31
        {
            message.ip(IFA_BROADCAST, net.broadcast().into());
        }
        let result = self
            .socket
            .call(&message)
            .map_err(|fault| fault.during(format_args!("add address {net} to device {link}")));
        unless(result, &[Errno::EEXIST])
    }
}

impl Route {
    /// Removes an address from a device. A missing one is not an error.
    pub fn remove_address(&mut self, link: u32, net: IpNet) -> Result<(), Error> {
        let mut header = [0; HEADER];
        header[0] = family_of(net.addr());
        header[1] = net.prefix_len();
        header[4..8].copy_from_slice(&link.to_ne_bytes());
        let mut message = Message::new(libc::RTM_DELADDR, 0, &header);
        message.ip(IFA_LOCAL, net.addr());
        let result = self.socket.call(&message);
        let result = result
            .map_err(|fault| fault.during(format_args!("remove address {net} from device {link}")));
        unless(result, &[Errno::EADDRNOTAVAIL])
    }
}

impl Route {
    /// Forgets the MAC address of a neighbour (its ARP entry), so that the kernel asks for it
    /// again. A missing entry is not an error.
    pub fn forget_neighbour(&mut self, link: u32, address: Ipv4Addr) -> Result<(), Error> {
        let mut header = [0; NEIGHBOUR_HEADER];
        header[0] = family_of(address.into());
        header[4..8].copy_from_slice(&link.to_ne_bytes());
        let mut message = Message::new(libc::RTM_DELNEIGH, 0, &header);
        message.ip(NDA_DST, address.into());
        let result = self.socket.call(&message).map_err(|fault| {
            fault.during(format_args!("forget neighbour {address} of device {link}"))
        });
        unless(result, &[Errno::ENOENT])
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

pub(crate) fn parse(frame: &Frame<'_>) -> Option<Address> {
    if frame.kind != libc::RTM_NEWADDR {
        return None;
    }
    let attributes = frame.attributes(HEADER);
    // On a point-to-point device, `IFA_ADDRESS` is the address of the other side.
    let address = attributes
        .find(IFA_LOCAL)
        .or_else(|| attributes.find(IFA_ADDRESS))
        .and_then(Attribute::ip)?;
    let flags = frame.octet(2);
    Some(Address {
        link: frame.word(4),
        net: IpNet::new(address, frame.octet(1)).ok()?,
        tentative: flags & IFA_F_TENTATIVE != 0,
        duplicate: flags & IFA_F_DADFAILED != 0,
        secondary: flags & IFA_F_SECONDARY != 0,
        deprecated: flags & IFA_F_DEPRECATED != 0,
    })
}
