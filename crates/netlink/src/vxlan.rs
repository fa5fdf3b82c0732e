//! VXLAN devices (RFC 7348).

use std::net::IpAddr;

use nix::libc;

use crate::error::Error;
use crate::namespace::Namespace;
use crate::route::Route;
use crate::socket::flag;
use crate::wire::{Attribute, Attributes, Message, link_header};

// `IFLA_VXLAN_*` (include/uapi/linux/if_link.h).
const ID: u16 = 1;
const LOCAL: u16 = 4;
const TTL: u16 = 5;
const LEARNING: u16 = 7;
const LIMIT: u16 = 9;
const PORT: u16 = 15;
const LOCAL6: u16 = 17;
const UDP_CHECKSUM: u16 = 18;

/// Settings of a VXLAN device as the kernel has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VxlanSettings {
    /// Its VNI.
    pub vni: u32,
    /// Source address of what it sends, if it has a fixed one.
    pub local: Option<IpAddr>,
    /// UDP port it sends to and receives on.
    pub port: u16,
    /// Whether it learns where MAC addresses are from what arrives.
    pub learning: bool,
}

impl VxlanSettings {
    pub(crate) fn parse(data: Attributes<'_>) -> Self {
        Self {
            vni: data.find(ID).and_then(Attribute::u32).unwrap_or_default(),
            local: data.find(LOCAL).or_else(|| data.find(LOCAL6)).and_then(Attribute::ip),
            port: data.find(PORT).and_then(Attribute::u16_be).unwrap_or_default(),
            learning: data.find(LEARNING).and_then(Attribute::u8).unwrap_or_default() != 0,
        }
    }
}

/// A VXLAN device to be made.
#[derive(Debug, Clone, Copy)]
pub struct NewVxlan<'a> {
    /// Its name.
    pub name: &'a str,
    /// The group of devices it is put into.
    pub group: u32,
    /// Its VNI.
    pub vni: u32,
    /// Source address of what it sends.
    pub local: IpAddr,
    /// UDP port it sends to and receives on.
    pub port: u16,
    /// Time to live of what it sends.
    pub ttl: u8,
    /// MAC addresses that its forwarding table has room for.
    pub addresses_max: u32,
}

impl Route {
    /// Makes a VXLAN device, down, that learns, in the namespace `into`. Its UDP socket is in the
    /// namespace that this socket is in, however often the device is moved: the kernel keeps the
    /// two apart (`vxlan_dev.net`).
    pub fn create_vxlan(&mut self, new: &NewVxlan<'_>, into: &Namespace) -> Result<(), Error> {
        let flags = flag(libc::NLM_F_CREATE | libc::NLM_F_EXCL);
        let mut message = Message::new(libc::RTM_NEWLINK, flags, &link_header(0, 0, 0, 0));
        message.text(libc::IFLA_IFNAME, new.name);
        message.u32(libc::IFLA_GROUP, new.group);
        message.i32(libc::IFLA_NET_NS_FD, into.raw());
        message.nest(libc::IFLA_LINKINFO, |information| {
            information.text(libc::IFLA_INFO_KIND, "vxlan");
            information.nest(libc::IFLA_INFO_DATA, |data| {
                data.u32(ID, new.vni);
                data.ip(if new.local.is_ipv4() { LOCAL } else { LOCAL6 }, new.local);
                data.u16_be(PORT, new.port);
                data.u8(TTL, new.ttl);
                data.u8(LEARNING, 1);
                // It cannot be changed later.
                data.u32(LIMIT, new.addresses_max);
                // "SHOULD be transmitted as zero" (RFC 7348, section 5): what is inside has its
                // own. IPv6 needs one (RFC 8200, section 8.1), as is the kernel's default.
                if new.local.is_ipv4() {
                    data.u8(UDP_CHECKSUM, 0);
                }
            });
        });
        self.socket.call(&message).map_err(|fault| {
            fault.during(format_args!(
                "create VXLAN device {} (VNI {}, {} port {})",
                new.name, new.vni, new.local, new.port
            ))
        })
    }

    /// Switches a VXLAN device's learning on or off.
    pub fn set_vxlan_learning(&mut self, index: u32, learning: bool) -> Result<(), Error> {
        let mut message = Message::new(libc::RTM_NEWLINK, 0, &link_header(0, index, 0, 0));
        message.nest(libc::IFLA_LINKINFO, |information| {
            information.text(libc::IFLA_INFO_KIND, "vxlan");
            information.nest(libc::IFLA_INFO_DATA, |data| data.u8(LEARNING, u8::from(learning)));
        });
        self.socket.call(&message).map_err(|fault| {
            fault.during(format_args!("set learning {learning} on VXLAN device {index}"))
        })
    }
}
