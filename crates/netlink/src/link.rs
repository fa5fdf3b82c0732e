//! Network devices: reading, changing and deleting them.

use std::fmt;

use nix::errno::Errno;
use nix::libc;

use crate::bridge::BridgeSettings;
use crate::error::{Error, Fault};
use crate::port::{self, PortSettings};
use crate::route::{Route, unless};
use crate::vxlan::VxlanSettings;
use crate::wire::{Attribute, Attributes, Frame, Message, link_header, read_array};

/// An Ethernet address.
pub type Mac = [u8; 6];

/// `AF_INET6`, as the kind of an attribute in `IFLA_AF_SPEC`.
const AF_INET6: u16 = 10;
/// The settings in `ipv6/conf/` of a device, by the numbers of `linux/ipv6.h`.
const IFLA_INET6_CONF: u16 = 2;
/// `DEVCONF_ACCEPT_DAD`.
const ACCEPT_DAD: usize = 27;
/// Octets of `struct ifinfomsg`.
pub(crate) const HEADER: usize = 16;
/// `RTEXT_FILTER_SKIP_STATS`: counters are half of an answer, and nobody here reads them.
const SKIP_STATISTICS: u32 = 1 << 3;

/// A network device as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its index, unique in its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Its alias, a free text.
    pub alias: Option<String>,
    /// The group of devices it was put into; 0 unless somebody did.
    pub group: u32,
    /// In octets.
    pub mtu: u32,
    /// Whether it was brought up (`IFF_UP`), whatever its carrier.
    pub up: bool,
    /// Index of its master, such as the bridge it is a port of.
    pub master: Option<u32>,
    /// Its address, if that is an Ethernet one.
    pub mac: Option<Mac>,
    /// The device at its other end, or below it.
    pub peer: Option<Peer>,
    /// Whether the kernel looks for duplicates of the IPv6 addresses that it gets from now on
    /// (`accept_dad`).
    pub detects_duplicates: bool,
    /// What its bridge has noted of it, if it is a bridge's port.
    pub port: Option<PortSettings>,
}

/// What a device is (`IFLA_INFO_KIND`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A bridge.
    Bridge(BridgeSettings),
    /// A VXLAN device.
    Vxlan(VxlanSettings),
    /// One end of a veth.
    Veth,
    /// Another kind, by the kernel's name for it.
    Other(String),
    /// One without a kind: loopback, and what hardware drivers make.
    Plain,
}

/// The device that another refers to (`IFLA_LINK`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer {
    /// Its index in its namespace.
    pub index: u32,
    /// Its namespace, as [`Route::namespace_number`] gives it; `None` is the same one.
    pub namespace: Option<i32>,
}

/// What to change about a device; `None` leaves it as it is.
#[derive(Debug, Clone, Default)]
pub struct LinkChange<'a> {
    /// Index of the new master.
    pub master: Option<u32>,
    /// In octets.
    pub mtu: Option<u32>,
    /// The address.
    pub mac: Option<Mac>,
    /// The alias, at most 255 octets.
    pub alias: Option<&'a str>,
    /// Up or down.
    pub up: Option<bool>,
}

impl fmt::Display for LinkChange<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            self.master.map(|master| format!("master {master}")),
            self.mtu.map(|mtu| format!("MTU {mtu}")),
            self.mac.map(|mac| format!("address {mac:02x?}")),
            self.alias.map(|alias| format!("alias {alias:?}")),
            self.up.map(|up| if up { "up" } else { "down" }.to_owned()),
        ];
        f.write_str(&parts.into_iter().flatten().collect::<Vec<_>>().join(", "))
    }
}

impl Route {
    /// All devices of the namespace.
    pub fn links(&mut self) -> Result<Vec<Link>, Error> {
        let mut message = Message::new(libc::RTM_GETLINK, 0, &link_header(0, 0, 0, 0));
        message.u32(libc::IFLA_EXT_MASK, SKIP_STATISTICS);
        self.socket.dump(&message, parse).map_err(|fault| fault.during("list network devices"))
    }

    /// The device of this name, if there is one.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>, Error> {
        let mut message = Message::new(libc::RTM_GETLINK, 0, &link_header(0, 0, 0, 0));
        message.text(libc::IFLA_IFNAME, name);
        self.one_link(message).map_err(|fault| fault.during(format_args!("read device {name}")))
    }

    /// The device with this index, if there is one.
    pub fn link_at(&mut self, index: u32) -> Result<Option<Link>, Error> {
        let message = Message::new(libc::RTM_GETLINK, 0, &link_header(0, index, 0, 0));
        self.one_link(message).map_err(|fault| fault.during(format_args!("read device {index}")))
    }

    fn one_link(&mut self, message: Message) -> Result<Option<Link>, Fault> {
        self.of_one_link(message, parse)
    }

    /// What is read of the one device that is asked for, if there is such a device.
    pub(crate) fn of_one_link<T>(
        &mut self,
        mut message: Message,
        read: impl Fn(&Frame<'_>) -> Option<T>,
    ) -> Result<Option<T>, Fault> {
        message.u32(libc::IFLA_EXT_MASK, SKIP_STATISTICS);
        let mut found = None;
        match self.socket.get(&message, |frame| found = read(&frame)) {
            Err(fault) if fault.errno() == Some(Errno::ENODEV) => Ok(None),
            Err(fault) => Err(fault),
            Ok(()) => Ok(found),
        }
    }

    /// Changes a device, all in one go; what was changed before something failed stays changed.
    pub fn change_link(&mut self, index: u32, change: &LinkChange<'_>) -> Result<(), Error> {
        let up = libc::IFF_UP.cast_unsigned();
        let flags = if change.up == Some(true) { up } else { 0 };
        let mask = if change.up.is_some() { up } else { 0 };
        let mut message = Message::new(libc::RTM_SETLINK, 0, &link_header(0, index, flags, mask));
        if let Some(master) = change.master {
            message.u32(libc::IFLA_MASTER, master);
        }
        if let Some(mtu) = change.mtu {
            message.u32(libc::IFLA_MTU, mtu);
        }
        if let Some(mac) = change.mac {
            message.bytes(libc::IFLA_ADDRESS, &mac);
        }
        if let Some(alias) = change.alias {
            message.bytes(libc::IFLA_IFALIAS, alias.as_bytes());
        }
        self.socket
            .call(&message)
            .map_err(|fault| fault.during(format_args!("change device {index} ({change})")))
    }

    /// Deletes a device. One that is not there is no error.
    pub fn delete_link(&mut self, index: u32) -> Result<(), Error> {
        let message = Message::new(libc::RTM_DELLINK, 0, &link_header(0, index, 0, 0));
        let result = self
            .socket
            .call(&message)
            .map_err(|fault| fault.during(format_args!("delete device {index}")));
        unless(result, &[Errno::ENODEV])
    }
}

pub(crate) fn parse(frame: &Frame<'_>) -> Option<Link> {
    if frame.kind != libc::RTM_NEWLINK {
        return None;
    }
    let attributes = frame.attributes(HEADER);
    let number = |kind| attributes.find(kind).and_then(Attribute::u32);
    let information =
        attributes.find(libc::IFLA_LINKINFO).map(Attribute::nested).unwrap_or(Attributes(&[]));
    Some(Link {
        index: frame.word(4),
        name: attributes.find(libc::IFLA_IFNAME)?.text(),
        kind: parse_kind(information),
        alias: attributes.find(libc::IFLA_IFALIAS).map(Attribute::text),
        group: number(libc::IFLA_GROUP).unwrap_or_default(),
        mtu: number(libc::IFLA_MTU).unwrap_or_default(),
        up: frame.word(8) & libc::IFF_UP.cast_unsigned() != 0,
        master: number(libc::IFLA_MASTER),
        mac: attributes.find(libc::IFLA_ADDRESS).and_then(Attribute::mac),
        peer: number(libc::IFLA_LINK).map(|index| Peer {
            index,
            namespace: attributes.find(libc::IFLA_LINK_NETNSID).and_then(Attribute::i32),
        }),
        detects_duplicates: ipv6_setting(attributes, ACCEPT_DAD).is_some_and(|accepts| accepts > 0),
        port: port::parse(information),
    })
}

/// One of a device's IPv6 settings; `None` if it has no IPv6, or the kernel not this setting.
fn ipv6_setting(attributes: Attributes<'_>, number: usize) -> Option<i32> {
    let families = attributes.find(libc::IFLA_AF_SPEC)?.nested();
    let ipv6 = families.find(AF_INET6)?.nested();
    let settings = ipv6.find(IFLA_INET6_CONF)?;
    read_array(settings.value, number * size_of::<i32>()).map(i32::from_ne_bytes)
}

fn parse_kind(information: Attributes<'_>) -> Kind {
    let Some(name) = information.find(libc::IFLA_INFO_KIND).map(Attribute::text) else {
        return Kind::Plain;
    };
    let data =
        information.find(libc::IFLA_INFO_DATA).map(Attribute::nested).unwrap_or(Attributes(&[]));
    match name.as_str() {
        "bridge" => Kind::Bridge(BridgeSettings::parse(data)),
        "vxlan" => Kind::Vxlan(VxlanSettings::parse(data)),
        "veth" => Kind::Veth,
        _ => Kind::Other(name),
    }
}
