//! IP routes of the main table.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use nix::errno::Errno;
use nix::libc;

use crate::error::Error;
use crate::route::{Route, unless};
use crate::socket::flag;
use crate::wire::{Attribute, Frame, Message, family_octet, family_of};

/// Octets of `struct rtmsg`.
const HEADER: usize = 12;
// include/uapi/linux/rtnetlink.h
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_VIA: u16 = 18;
/// The origin of our routes (`rtm_protocol`): a number that iproute2's list does not assign, the
/// ASCII code of "s".
const PROTOCOL: u8 = 115;

/// A unicast route of the main table with one output device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IpRoute {
    /// The destination.
    pub destination: IpNet,
    /// Index of the device.
    pub link: u32,
    /// Whether the destination is on-link, without a gateway.
    pub connected: bool,
    /// The gateway, if it has one of its address family.
    pub gateway: Option<IpAddr>,
}

impl Route {
    /// The routes of both address families.
    pub fn routes(&mut self) -> Result<Vec<IpRoute>, Error> {
        let mut routes = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            let mut header = [0; HEADER];
            header[0] = family_octet(family);
            let message = Message::new(libc::RTM_GETROUTE, 0, &header);
            routes.extend(
                self.socket
                    .dump(&message, parse)
                    .map_err(|fault| fault.during("list IP routes"))?,
            );
        }
        Ok(routes)
    }

    /// The IPv4 routes of one device. Since kernel 4.20 the kernel filters the dump: a container
    /// that routes may have a million others.
    pub fn routes_of(&mut self, link: u32) -> Result<Vec<IpRoute>, Error> {
        let mut header = [0; HEADER];
        header[0] = family_octet(libc::AF_INET);
        header[4] = libc::RT_TABLE_MAIN;
        header[7] = libc::RTN_UNICAST;
        let mut message = Message::new(libc::RTM_GETROUTE, 0, &header);
        message.u32(RTA_OIF, link);
        match self.socket.dump(&message, |frame| parse(frame).filter(|route| route.link == link)) {
            // Without routes there is no table. The device may be gone as well.
            Err(fault) if matches!(fault.errno(), Some(Errno::ENOENT | Errno::ENODEV)) => {
                Ok(Vec::new())
            }
            result => result
                .map_err(|fault| fault.during(format_args!("list IP routes of device {link}"))),
        }
    }

    /// Index of the device by which the routes of the namespace send to this address; `None` if no
    /// route does.
    pub fn output_device(&mut self, destination: IpAddr) -> Result<Option<u32>, Error> {
        let mut header = [0; HEADER];
        header[0] = family_of(destination);
        header[1] = if destination.is_ipv4() { 32 } else { 128 };
        let mut message = Message::new(libc::RTM_GETROUTE, 0, &header);
        message.ip(RTA_DST, destination);
        let mut device = None;
        let asked = self.socket.get(&message, |frame| {
            device = frame.attributes(HEADER).find(RTA_OIF).and_then(Attribute::u32);
        });
        match asked {
            Err(fault)
                if matches!(
                    fault.errno(),
                    Some(Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::EACCES | Errno::EINVAL)
                ) =>
            {
                Ok(None)
            }
            result => result
                .map(|()| device)
                .map_err(|fault| fault.during(format_args!("look up the route to {destination}"))),
        }
    }

    /// Sets the IPv4 default route of metric 0, in place of an existing one.
    pub fn set_default_route(&mut self, link: u32, gateway: Ipv4Addr) -> Result<(), Error> {
        self.default_route(libc::NLM_F_REPLACE, link, gateway)
    }

    /// Adds an IPv4 default route, unless there is one of metric 0 already.
    pub fn add_default_route(&mut self, link: u32, gateway: Ipv4Addr) -> Result<(), Error> {
        unless(self.default_route(libc::NLM_F_EXCL, link, gateway), &[Errno::EEXIST])
    }

    fn default_route(&mut self, flags: i32, link: u32, gateway: Ipv4Addr) -> Result<(), Error> {
        let mut header = [0; HEADER];
        header[0] = family_octet(libc::AF_INET);
        header[4] = libc::RT_TABLE_MAIN;
        header[5] = PROTOCOL;
        header[6] = libc::RT_SCOPE_UNIVERSE;
        header[7] = libc::RTN_UNICAST;
        let flags = flag(libc::NLM_F_CREATE | flags);
        let mut message = Message::new(libc::RTM_NEWROUTE, flags, &header);
        message.ip(RTA_GATEWAY, gateway.into());
        message.u32(RTA_OIF, link);
        self.socket.call(&message).map_err(|fault| {
            fault.during(format_args!("set the default route to {gateway} by device {link}"))
        })
    }

    /// Adds an on-link route, after existing ones to the same destination. An existing one is not
    /// an error.
    pub fn add_connected_route(&mut self, link: u32, destination: IpNet) -> Result<(), Error> {
        let mut header = [0; HEADER];
        header[0] = family_of(destination.addr());
        header[1] = destination.prefix_len();
        header[4] = libc::RT_TABLE_MAIN;
        header[5] = PROTOCOL;
        header[6] = libc::RT_SCOPE_LINK;
        header[7] = libc::RTN_UNICAST;
        let mut message = Message::new(
            libc::RTM_NEWROUTE,
            flag(libc::NLM_F_CREATE | libc::NLM_F_APPEND),
            &header,
        );
        message.ip(RTA_DST, destination.network());
        message.u32(RTA_OIF, link);
        let result = self.socket.call(&message);
        unless(
            result.map_err(|fault| {
                fault.during(format_args!("add route {destination} to device {link}"))
            }),
            &[Errno::EEXIST],
        )
    }
}

/// Whether a message is about a default route, or a route of IPv4 multicast or of IPv6 link-local
/// addresses.
pub(crate) fn is_of_interest(frame: &Frame<'_>) -> bool {
    match frame.attributes(HEADER).find(RTA_DST).and_then(Attribute::ip) {
        Some(IpAddr::V4(destination)) => destination.is_multicast(),
        Some(IpAddr::V6(destination)) => destination.is_unicast_link_local(),
        None => frame.octet(1) == 0,
    }
}

pub(crate) fn parse(frame: &Frame<'_>) -> Option<IpRoute> {
    let is_plain = frame.kind == libc::RTM_NEWROUTE
        && frame.octet(4) == libc::RT_TABLE_MAIN
        && frame.octet(7) == libc::RTN_UNICAST;
    if !is_plain {
        return None;
    }
    let attributes = frame.attributes(HEADER);
    let any: IpAddr = if i32::from(frame.octet(0)) == libc::AF_INET {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let destination = attributes.find(RTA_DST).and_then(Attribute::ip).unwrap_or(any);
    Some(IpRoute {
        destination: IpNet::new(destination, frame.octet(1)).ok()?,
        link: attributes.find(RTA_OIF).and_then(Attribute::u32)?,
        connected: attributes.find(RTA_GATEWAY).is_none() && attributes.find(RTA_VIA).is_none(),
        gateway: attributes.find(RTA_GATEWAY).and_then(Attribute::ip),
    })
}
