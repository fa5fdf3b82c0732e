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

/// The settings of a VXLAN device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VxlanSettings {
    /// The VNI.
    pub vni: u32,
    /// The source address of its packets, if it is fixed.
    pub local: Option<IpAddr>,
    /// The UDP port for both directions.
    pub port: u16,
    /// Whether it learns the VTEPs of MAC addresses from received packets.
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

/// A VXLAN device to create.
#[derive(Debug, Clone, Copy)]
pub struct NewVxlan<'a> {
    /// The name.
    pub name: &'a str,
    /// The device group.
    pub group: u32,
    /// The VNI.
    pub vni: u32,
    /// The source address of its packets.
    pub local: IpAddr,
    /// The UDP port for both directions.
    pub port: u16,
    /// The TTL of its packets.
    pub ttl: u8,
    /// The maximum number of learned MAC addresses.
    pub addresses_max: u32,
}

impl Route {
    /// Creates a VXLAN device, down and learning, in the namespace `into`. Its UDP socket is in the
    /// namespace of our socket, wherever the device is moved: the kernel keeps the two apart
    /// (`vxlan_dev.net`).
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
                // "SHOULD be transmitted as zero" (RFC 7348, section 5): the inner packets have
                // their own checksums. IPv6 requires one (RFC 8200, section 8.1), which is the
                // kernel's default.
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

    /// Enables or disables learning on a VXLAN device.
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
