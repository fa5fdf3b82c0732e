//! Counters of network devices.

use nix::libc;

use crate::error::Error;
use crate::route::Route;
use crate::wire::{Attribute, Attributes, Frame, LINK_HEADER, Message, link_header, read_array};

/// The counters of a device since it was created (`struct rtnl_link_stats64`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LinkCounters {
    /// Packets received.
    pub received_packets: u64,
    /// Octets received.
    pub received_octets: u64,
    /// Packets received and dropped.
    pub received_dropped: u64,
    /// Packets sent.
    pub sent_packets: u64,
    /// Octets sent.
    pub sent_octets: u64,
    /// Packets that could not be sent, for any reason.
    pub sent_errors: u64,
    /// Those of them that were dropped, as for lack of memory.
    pub sent_dropped: u64,
    /// `collisions`: at a tunnel, packets that it would have sent to itself.
    pub collisions: u64,
    /// `tx_carrier_errors`: at a tunnel, packets without a route.
    pub carrier_errors: u64,
}

/// A device with its counters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CountedLink {
    /// The index, unique in its namespace.
    pub index: u32,
    /// The name.
    pub name: String,
    /// Whether it is one end of a veth.
    pub is_veth: bool,
    /// Its counters.
    pub counters: LinkCounters,
}

impl Route {
    /// The counters of all devices of the namespace.
    pub fn link_counters(&mut self) -> Result<Vec<CountedLink>, Error> {
        let message = Message::new(libc::RTM_GETLINK, 0, &link_header(0, 0, 0, 0));
        self.socket
            .dump(&message, parse)
            .map_err(|fault| fault.during("read the counters of network devices"))
    }
}

pub(crate) fn parse(frame: &Frame<'_>) -> Option<CountedLink> {
    if frame.kind != libc::RTM_NEWLINK {
        return None;
    }
    let attributes = frame.attributes(LINK_HEADER);
    let information =
        attributes.find(libc::IFLA_LINKINFO).map(Attribute::nested).unwrap_or(Attributes(&[]));
    let kind = information.find(libc::IFLA_INFO_KIND).map(Attribute::text);
    let statistics = attributes.find(libc::IFLA_STATS64)?.value;
    // By the position of each member in the structure.
    let member = |position: usize| {
        read_array(statistics, position * size_of::<u64>())
            .map(u64::from_ne_bytes)
            .unwrap_or_default()
    };
    Some(CountedLink {
        index: frame.word(4),
        name: attributes.find(libc::IFLA_IFNAME)?.text(),
        is_veth: kind.as_deref() == Some("veth"),
        counters: LinkCounters {
            received_packets: member(0),
            sent_packets: member(1),
            received_octets: member(2),
            sent_octets: member(3),
            sent_errors: member(5),
            received_dropped: member(6),
            sent_dropped: member(7),
            collisions: member(9),
            carrier_errors: member(17),
        },
    })
}
