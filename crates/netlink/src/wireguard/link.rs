//! Creating WireGuard devices.

use nix::libc;

use crate::error::Error;
use crate::namespace::Namespace;
use crate::route::Route;
use crate::socket::flag;
use crate::wire::{Message, link_header};

/// A WireGuard device to create.
#[derive(Debug, Clone, Copy)]
pub struct NewWireguard<'a> {
    /// The name.
    pub name: &'a str,
    /// The device group.
    pub group: u32,
    /// In octets. Below 1280 the device has no IPv6 (`IPV6_MIN_MTU`).
    pub mtu: u32,
}

impl Route {
    /// Creates a WireGuard device, down and without keys, in the namespace `into`. Its UDP sockets
    /// are in the namespace of our socket, wherever the device is moved: the kernel keeps the two
    /// apart (`wg_device.creating_net`).
    ///
    /// # Errors
    ///
    /// Fails if the name exists there (`EEXIST`), and if the kernel has no WireGuard and cannot
    /// load it (`EOPNOTSUPP`).
    pub fn create_wireguard(
        &mut self,
        new: &NewWireguard<'_>,
        into: &Namespace,
    ) -> Result<(), Error> {
        let flags = flag(libc::NLM_F_CREATE | libc::NLM_F_EXCL);
        let mut message = Message::new(libc::RTM_NEWLINK, flags, &link_header(0, 0, 0, 0));
        message.text(libc::IFLA_IFNAME, new.name);
        message.u32(libc::IFLA_GROUP, new.group);
        message.u32(libc::IFLA_MTU, new.mtu);
        message.i32(libc::IFLA_NET_NS_FD, into.raw());
        message.nest(libc::IFLA_LINKINFO, |information| {
            information.text(libc::IFLA_INFO_KIND, "wireguard");
        });
        self.socket.call(&message).map_err(|fault| {
            fault.during(format_args!("create WireGuard device {} (MTU {})", new.name, new.mtu))
        })
    }
}
