//! Bridges.

use std::time::Duration;

use nix::libc;

use crate::error::Error;
use crate::link::HEADER;
use crate::route::Route;
use crate::socket::flag;
use crate::wire::{Attribute, Attributes, Frame, Message, link_header};

// `IFLA_BR_*` (include/uapi/linux/if_link.h).
const FORWARD_DELAY: u16 = 1;
const STP_STATE: u16 = 5;
const MCAST_ROUTER: u16 = 22;
const MCAST_SNOOPING: u16 = 23;
const MCAST_QUERY_USE_IFADDR: u16 = 24;
const MCAST_QUERIER: u16 = 25;
const MCAST_HASH_MAX: u16 = 27;
const MCAST_MEMBERSHIP_INTERVAL: u16 = 31;
const MCAST_IGMP_VERSION: u16 = 43;
const MCAST_MLD_VERSION: u16 = 44;
const MCAST_QUERY_INTERVAL: u16 = 33;
const MCAST_QUERY_RESPONSE_INTERVAL: u16 = 34;
const MCAST_QUERIER_STATE: u16 = 47;
const FDB_MAX_LEARNED: u16 = 49;
// `BRIDGE_QUERIER_*` (include/uapi/linux/if_bridge.h): there while another than the bridge asks.
const OTHER_OF_IPV4: u16 = 3;
const OTHER_OF_IPV6: u16 = 7;

/// What can be set on a bridge that is running.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BridgeSettings {
    /// Whether it sends multicast only to ports behind which somebody wants it.
    pub snooping: bool,
    /// Whether it asks who wants what.
    pub querier: bool,
    /// Whether IGMP queries come from its own IPv4 address; else from 0.0.0.0.
    pub query_use_ifaddr: bool,
    /// Whether it is given multicast that others want, as a router is (`mcast_router`): 2 is
    /// always.
    pub multicast_router: u8,
    /// 2 or 3.
    pub igmp_version: u8,
    /// 1 or 2.
    pub mld_version: u8,
    /// Groups it keeps apart, a power of two; one more switches snooping off.
    pub groups_max: u32,
    /// How long a membership lasts that nobody confirms, in hundredths of a second (`USER_HZ`);
    /// `None` leaves it as it is.
    pub membership_interval: Option<u64>,
    /// How long a new port only listens, in hundredths of a second (`USER_HZ`); without STP it can
    /// be 0.
    pub forward_delay: u32,
    /// Whether it takes part in the spanning tree protocol.
    pub stp: bool,
    /// MAC addresses that it learns; `None` on kernels before 6.7, which set no limit.
    pub learned_max: Option<u32>,
}

impl BridgeSettings {
    pub(crate) fn parse(data: Attributes<'_>) -> Self {
        let octet = |kind| data.find(kind).and_then(Attribute::u8).unwrap_or_default();
        let word = |kind| data.find(kind).and_then(Attribute::u32).unwrap_or_default();
        Self {
            snooping: octet(MCAST_SNOOPING) != 0,
            querier: octet(MCAST_QUERIER) != 0,
            query_use_ifaddr: octet(MCAST_QUERY_USE_IFADDR) != 0,
            multicast_router: octet(MCAST_ROUTER),
            igmp_version: octet(MCAST_IGMP_VERSION),
            mld_version: octet(MCAST_MLD_VERSION),
            groups_max: word(MCAST_HASH_MAX),
            membership_interval: data.find(MCAST_MEMBERSHIP_INTERVAL).and_then(Attribute::u64),
            forward_delay: word(FORWARD_DELAY),
            stp: word(STP_STATE) != 0,
            learned_max: data.find(FDB_MAX_LEARNED).and_then(Attribute::u32),
        }
    }

    fn write(&self, data: &mut Message) {
        data.u32(STP_STATE, u32::from(self.stp));
        data.u32(FORWARD_DELAY, self.forward_delay);
        data.u8(MCAST_ROUTER, self.multicast_router);
        data.u8(MCAST_SNOOPING, u8::from(self.snooping));
        data.u8(MCAST_QUERY_USE_IFADDR, u8::from(self.query_use_ifaddr));
        data.u32(MCAST_HASH_MAX, self.groups_max);
        if let Some(interval) = self.membership_interval {
            data.bytes(MCAST_MEMBERSHIP_INTERVAL, &interval.to_ne_bytes());
        }
        // A kernel that does not know it passes it over.
        if let Some(most) = self.learned_max {
            data.u32(FDB_MAX_LEARNED, most);
        }
        data.u8(MCAST_IGMP_VERSION, self.igmp_version);
        data.u8(MCAST_MLD_VERSION, self.mld_version);
        // Last, so that the first queries are of the right version.
        data.u8(MCAST_QUERIER, u8::from(self.querier));
    }
}

/// Who asks behind a bridge which groups are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Querying {
    /// How often the bridge does where nobody else does.
    pub interval: Duration,
    /// How long the answers may take.
    pub response: Duration,
    /// Whether another does, of IPv4 or IPv6, for which the bridge is silent; `None` on kernels
    /// before 5.15, which do not tell.
    pub is_by_another: Option<bool>,
}

impl Querying {
    fn parse(frame: &Frame<'_>) -> Option<Self> {
        let information = frame.attributes(HEADER).find(libc::IFLA_LINKINFO)?.nested();
        let data = information.find(libc::IFLA_INFO_DATA)?.nested();
        // In hundredths of a second (`USER_HZ`).
        let time = |kind| {
            let hundredths = data.find(kind).and_then(Attribute::u64).unwrap_or_default();
            Duration::from_millis(hundredths.saturating_mul(10))
        };
        let is_there = |state: Attributes<'_>| {
            [OTHER_OF_IPV4, OTHER_OF_IPV6].into_iter().any(|kind| state.find(kind).is_some())
        };
        Some(Self {
            interval: time(MCAST_QUERY_INTERVAL),
            response: time(MCAST_QUERY_RESPONSE_INTERVAL),
            is_by_another: data.find(MCAST_QUERIER_STATE).map(Attribute::nested).map(is_there),
        })
    }
}

impl Route {
    /// Makes a bridge, down, in this group of devices.
    pub fn create_bridge(
        &mut self,
        name: &str,
        group: u32,
        settings: &BridgeSettings,
    ) -> Result<(), Error> {
        let flags = flag(libc::NLM_F_CREATE | libc::NLM_F_EXCL);
        let mut message = Message::new(libc::RTM_NEWLINK, flags, &link_header(0, 0, 0, 0));
        message.text(libc::IFLA_IFNAME, name);
        message.u32(libc::IFLA_GROUP, group);
        write_information(&mut message, settings);
        self.socket
            .call(&message)
            .map_err(|fault| fault.during(format_args!("create bridge {name}")))
    }

    /// Who asks behind the bridge with this index which groups are wanted; `None` if there is no
    /// such device.
    pub fn querying(&mut self, bridge: u32) -> Result<Option<Querying>, Error> {
        let message = Message::new(libc::RTM_GETLINK, 0, &link_header(0, bridge, 0, 0));
        let read = self.of_one_link(message, Querying::parse);
        read.map_err(|fault| fault.during(format_args!("read who queries behind bridge {bridge}")))
    }

    /// Changes the settings of a bridge.
    pub fn change_bridge(&mut self, index: u32, settings: &BridgeSettings) -> Result<(), Error> {
        let mut message = Message::new(libc::RTM_NEWLINK, 0, &link_header(0, index, 0, 0));
        write_information(&mut message, settings);
        self.socket
            .call(&message)
            .map_err(|fault| fault.during(format_args!("change the settings of bridge {index}")))
    }
}

fn write_information(message: &mut Message, settings: &BridgeSettings) {
    message.nest(libc::IFLA_LINKINFO, |information| {
        information.text(libc::IFLA_INFO_KIND, "bridge");
        information.nest(libc::IFLA_INFO_DATA, |data| settings.write(data));
    });
}
