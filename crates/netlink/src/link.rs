//! Network devices: reading, changing and deleting them.

use std::fmt;

use nix::errno::Errno;
use nix::libc;

use crate::bridge::BridgeSettings;
use crate::error::{Error, Fault};
use crate::port::{self, PortSettings};
use crate::route::{Route, unless};
use crate::vxlan::VxlanSettings;
use crate::wire::{Attribute, Attributes, Frame, LINK_HEADER, Message, link_header, read_array};

/// An Ethernet address.
pub type Mac = [u8; 6];

/// `AF_INET`, as an attribute type in `IFLA_AF_SPEC`.
const AF_INET: u16 = 2;
/// The settings in `ipv4/conf/` of a device, in the order of `IPV4_DEVCONF_*` (`linux/ip.h`), which
/// begins with `forwarding`.
const IFLA_INET_CONF: u16 = 1;
/// `AF_INET6`, as an attribute type in `IFLA_AF_SPEC`.
const AF_INET6: u16 = 10;
/// The settings in `ipv6/conf/` of a device, indexed as in `linux/ipv6.h`.
const IFLA_INET6_CONF: u16 = 2;
/// `DEVCONF_ACCEPT_DAD`.
const ACCEPT_DAD: usize = 27;
/// `RTEXT_FILTER_SKIP_STATS`: counters are half of an answer, and we do not read them.
const SKIP_STATISTICS: u32 = 1 << 3;

/// A network device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The index, unique in its namespace.
    pub index: u32,
    /// The name.
    pub name: String,
    /// The kind.
    pub kind: Kind,
    /// The alias, free text.
    pub alias: Option<String>,
    /// The device group; 0 by default.
    pub group: u32,
    /// In octets.
    pub mtu: u32,
    /// Whether it is up (`IFF_UP`), whatever its carrier.
    pub up: bool,
    /// Index of its master, such as the bridge of a port.
    pub master: Option<u32>,
    /// The address, if it is an Ethernet address.
    pub mac: Option<Mac>,
    /// The other end, or the device below it.
    pub peer: Option<Peer>,
    /// Whether the kernel does duplicate address detection for new IPv6 addresses (`accept_dad`).
    pub detects_duplicates: bool,
    /// Whether the kernel routes IPv4 packets that come in by it (`ipv4/conf/*/forwarding`).
    pub forwards: bool,
    /// The port settings, if it is a port of a bridge.
    pub port: Option<PortSettings>,
}

/// The kind of a device (`IFLA_INFO_KIND`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A bridge.
    Bridge(BridgeSettings),
    /// A VXLAN device.
    Vxlan(VxlanSettings),
    /// One end of a veth.
    Veth,
    /// A WireGuard device.
    Wireguard,
    /// Another kind, by its name in the kernel.
    Other(String),
    /// A device without a kind: loopback, and devices of hardware drivers.
    Plain,
}

/// The device that another refers to (`IFLA_LINK`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer {
    /// The index in its namespace.
    pub index: u32,
    /// The namespace, as in [`Route::namespace_number`]; `None` for the same namespace.
    pub namespace: Option<i32>,
}

/// Changes to a device; `None` leaves a setting unchanged.
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
    /// Whether it is up.
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

    /// The device with this name, if it exists.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>, Error> {
        let mut message = Message::new(libc::RTM_GETLINK, 0, &link_header(0, 0, 0, 0));
        message.text(libc::IFLA_IFNAME, name);
        self.one_link(message).map_err(|fault| fault.during(format_args!("read device {name}")))
    }

    /// The device with this index, if it exists.
    pub fn link_at(&mut self, index: u32) -> Result<Option<Link>, Error> {
        let message = Message::new(libc::RTM_GETLINK, 0, &link_header(0, index, 0, 0));
        self.one_link(message).map_err(|fault| fault.during(format_args!("read device {index}")))
    }

    fn one_link(&mut self, message: Message) -> Result<Option<Link>, Fault> {
        self.of_one_link(message, parse)
    }

    /// Requests one device and parses the answer; `None` if it does not exist.
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

    /// Changes a device in one request. Settings changed before a failure stay changed.
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

    /// Deletes a device. A missing one is not an error.
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
    let attributes = frame.attributes(LINK_HEADER);
    let information =
        attributes.find(libc::IFLA_LINKINFO).map(Attribute::nested).unwrap_or(Attributes(&[]));
    Some(Link {
        index: frame.word(4),
        name: attributes.find(libc::IFLA_IFNAME)?.text(),
        kind: parse_kind(information),
        alias: attributes.find(libc::IFLA_IFALIAS).map(Attribute::text),
        group: attributes.find(libc::IFLA_GROUP).and_then(Attribute::u32).unwrap_or_default(),
        mtu: attributes.find(libc::IFLA_MTU).and_then(Attribute::u32).unwrap_or_default(),
        up: frame.word(8) & libc::IFF_UP.cast_unsigned() != 0,
        master: attributes.find(libc::IFLA_MASTER).and_then(Attribute::u32),
        mac: attributes.find(libc::IFLA_ADDRESS).and_then(Attribute::mac),
        peer: attributes.find(libc::IFLA_LINK).and_then(Attribute::u32).map(|index| Peer {
            index,
            namespace: attributes.find(libc::IFLA_LINK_NETNSID).and_then(Attribute::i32),
        }),
        detects_duplicates: ipv6_setting(attributes, ACCEPT_DAD).is_some_and(|accepts| accepts > 0),
        forwards: forwards(attributes).unwrap_or_default(),
        port: port::parse(information),
    })
}

fn forwards(attributes: Attributes<'_>) -> Option<bool> {
    let ipv4 = attributes.find(libc::IFLA_AF_SPEC)?.nested().find(AF_INET)?.nested();
    let settings = ipv4.find(IFLA_INET_CONF)?;
    read_array(settings.value, 0).map(|first| i32::from_ne_bytes(first) != 0)
}

/// One IPv6 setting of a device; `None` if the device has no IPv6 or the kernel no such setting.
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
        "wireguard" => Kind::Wireguard,
        _ => Kind::Other(name),
    }
}
