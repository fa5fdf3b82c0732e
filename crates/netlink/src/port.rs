//! Ports of bridges: settings that a device has only while a bridge is its master.

use nix::libc;

use crate::error::Error;
use crate::route::Route;
use crate::wire::{Attribute, Attributes, Message, link_header};

// include/uapi/linux/if_link.h
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BRPORT_MULTICAST_ROUTER: u16 = 25;

pub(crate) fn parse_multicast_router(information: Attributes<'_>) -> Option<u8> {
    let is_bridge = information.find(IFLA_INFO_SLAVE_KIND)?.text() == "bridge";
    let data = information.find(IFLA_INFO_SLAVE_DATA).filter(|_| is_bridge)?.nested();
    data.find(IFLA_BRPORT_MULTICAST_ROUTER).and_then(Attribute::u8)
}

impl Route {
    /// Sets `mcast_router` of a bridge's port: 0 never a router port, 1 when a multicast router is heard there, 2 always.
    pub fn set_multicast_router(&mut self, index: u32, value: u8) -> Result<(), Error> {
        let mut message = Message::new(libc::RTM_NEWLINK, 0, &link_header(0, index, 0, 0));
        message.nest(libc::IFLA_LINKINFO, |information| {
            information.text(IFLA_INFO_SLAVE_KIND, "bridge");
            information.nest(IFLA_INFO_SLAVE_DATA, |data| data.u8(IFLA_BRPORT_MULTICAST_ROUTER, value));
        });
        self.socket
            .call(&message)
            .map_err(|fault| fault.during(format_args!("set mcast_router {value} on bridge port {index}")))
    }
}
