//! veth pairs.

use nix::libc;

use crate::error::Error;
use crate::link::Mac;
use crate::namespace::Namespace;
use crate::route::Route;
use crate::socket::flag;
use crate::wire::{Message, link_header};

/// A veth pair to create.
#[derive(Debug, Clone, Copy)]
pub struct NewVeth<'a> {
    /// The end in the namespace of the socket.
    pub near: VethEnd<'a>,
    /// Index of the near end's master.
    pub master: Option<u32>,
    /// The other end.
    pub far: VethEnd<'a>,
    /// The namespace of the far end.
    pub far_namespace: &'a Namespace,
}

/// One end of a veth pair.
#[derive(Debug, Clone, Copy)]
pub struct VethEnd<'a> {
    /// The name.
    pub name: &'a str,
    /// The device group.
    pub group: u32,
    /// In octets.
    pub mtu: u32,
    /// The MAC address; `None` for a random one.
    pub mac: Option<Mac>,
}

impl VethEnd<'_> {
    fn write(&self, message: &mut Message) {
        message.text(libc::IFLA_IFNAME, self.name);
        message.u32(libc::IFLA_GROUP, self.group);
        message.u32(libc::IFLA_MTU, self.mtu);
        if let Some(mac) = self.mac {
            message.bytes(libc::IFLA_ADDRESS, &mac);
        }
    }
}

impl Route {
    /// Creates a veth pair with both ends down and in their places, atomically.
    pub fn create_veth(&mut self, new: &NewVeth<'_>) -> Result<(), Error> {
        const VETH_INFO_PEER: u16 = 1;

        let flags = flag(libc::NLM_F_CREATE | libc::NLM_F_EXCL);
        let mut message = Message::new(libc::RTM_NEWLINK, flags, &link_header(0, 0, 0, 0));
        new.near.write(&mut message);
        if let Some(master) = new.master {
            message.u32(libc::IFLA_MASTER, master);
        }
        message.nest(libc::IFLA_LINKINFO, |information| {
            information.text(libc::IFLA_INFO_KIND, "veth");
            information.nest(libc::IFLA_INFO_DATA, |data| {
                data.nest(VETH_INFO_PEER, |peer| {
                    peer.raw(&link_header(0, 0, 0, 0));
                    new.far.write(peer);
                    peer.i32(libc::IFLA_NET_NS_FD, new.far_namespace.raw());
                });
            });
        });
        self.socket.call(&message).map_err(|fault| {
            fault.during(format_args!(
                "create veth {} with its other end {} in another namespace",
                new.near.name, new.far.name
            ))
        })
    }
}
