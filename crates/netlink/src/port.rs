//! Bridge ports: settings that a device has only while a bridge is its master.

use nix::libc;

use crate::error::Error;
use crate::route::Route;
use crate::wire::{Attribute, Attributes, Message, link_header};

// include/uapi/linux/if_link.h
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BRPORT_LEARNING: u16 = 8;
const IFLA_BRPORT_MULTICAST_ROUTER: u16 = 25;
const IFLA_BRPORT_ISOLATED: u16 = 33;
const IFLA_BRPORT_MCAST_MAX_GROUPS: u16 = 42;

/// The settings of a bridge port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortSettings {
    /// `mcast_router`.
    pub multicast_router: u8,
    /// Whether the bridge learns addresses from frames received on the port.
    pub learning: bool,
    /// Whether the bridge forwards nothing from this port to other isolated ports.
    pub isolated: bool,
    /// The limit on the port's MDB entries, zero for none; `None` where the kernel does not count
    /// them (before 6.3).
    pub groups_max: Option<u32>,
}

pub(crate) fn parse(information: Attributes<'_>) -> Option<PortSettings> {
    let is_bridge = information.find(IFLA_INFO_SLAVE_KIND)?.text() == "bridge";
    let data = information.find(IFLA_INFO_SLAVE_DATA).filter(|_| is_bridge)?.nested();
    Some(PortSettings {
        multicast_router: data
            .find(IFLA_BRPORT_MULTICAST_ROUTER)
            .and_then(Attribute::u8)
            .unwrap_or_default(),
        learning: data.find(IFLA_BRPORT_LEARNING).and_then(Attribute::u8).unwrap_or_default() != 0,
        isolated: data.find(IFLA_BRPORT_ISOLATED).and_then(Attribute::u8).unwrap_or_default() != 0,
        groups_max: data.find(IFLA_BRPORT_MCAST_MAX_GROUPS).and_then(Attribute::u32),
    })
}

impl Route {
    /// Sets learning and the limit on MDB entries of a port. Kernels without the limit ignore it.
    pub fn set_port(
        &mut self,
        index: u32,
        learning: bool,
        groups_max: Option<u32>,
    ) -> Result<(), Error> {
        let mut message = Message::new(libc::RTM_NEWLINK, 0, &link_header(0, index, 0, 0));
        message.nest(libc::IFLA_LINKINFO, |information| {
            information.text(IFLA_INFO_SLAVE_KIND, "bridge");
            information.nest(IFLA_INFO_SLAVE_DATA, |data| {
                data.u8(IFLA_BRPORT_LEARNING, u8::from(learning));
                if let Some(groups_max) = groups_max {
                    data.u32(IFLA_BRPORT_MCAST_MAX_GROUPS, groups_max);
                }
            });
        });
        self.socket.call(&message).map_err(|fault| {
            fault.during(format_args!("change the settings of bridge port {index}"))
        })
    }

    /// Isolates a port from the bridge's other isolated ports (Linux 4.18).
    pub fn isolate_port(&mut self, index: u32) -> Result<(), Error> {
        let mut message = Message::new(libc::RTM_NEWLINK, 0, &link_header(0, index, 0, 0));
        message.nest(libc::IFLA_LINKINFO, |information| {
            information.text(IFLA_INFO_SLAVE_KIND, "bridge");
            information.nest(IFLA_INFO_SLAVE_DATA, |data| data.u8(IFLA_BRPORT_ISOLATED, 1));
        });
        self.socket
            .call(&message)
            .map_err(|fault| fault.during(format_args!("isolate bridge port {index}")))
    }

    /// Sets `mcast_router` of a bridge port: 0 never a router port, 1 while the bridge detects a
    /// multicast router there, 2 always.
    pub fn set_multicast_router(&mut self, index: u32, value: u8) -> Result<(), Error> {
        let mut message = Message::new(libc::RTM_NEWLINK, 0, &link_header(0, index, 0, 0));
        message.nest(libc::IFLA_LINKINFO, |information| {
            information.text(IFLA_INFO_SLAVE_KIND, "bridge");
            information
                .nest(IFLA_INFO_SLAVE_DATA, |data| data.u8(IFLA_BRPORT_MULTICAST_ROUTER, value));
        });
        self.socket.call(&message).map_err(|fault| {
            fault.during(format_args!("set mcast_router {value} on bridge port {index}"))
        })
    }
}
