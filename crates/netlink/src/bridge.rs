//! Bridges.

use std::time::Duration;

use nix::libc;

use crate::error::Error;
use crate::route::Route;
use crate::socket::flag;
use crate::wire::{Attribute, Attributes, Frame, LINK_HEADER, Message, link_header};

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
// `BRIDGE_QUERIER_*` (include/uapi/linux/if_bridge.h): present while the querier is not the bridge.
const OTHER_OF_IPV4: u16 = 3;
const OTHER_OF_IPV6: u16 = 7;

/// The settings of a bridge that can change while it runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BridgeSettings {
    /// Whether it does multicast snooping: forwards multicast only to ports with members.
    pub snooping: bool,
    /// Whether it sends queries.
    pub querier: bool,
    /// Whether its IGMP queries have its own IPv4 address as source; otherwise 0.0.0.0.
    pub query_use_ifaddr: bool,
    /// Whether the bridge itself receives all groups, as a router does (`mcast_router`): 2 is
    /// always.
    pub multicast_router: u8,
    /// 2 or 3.
    pub igmp_version: u8,
    /// 1 or 2.
    pub mld_version: u8,
    /// The maximum number of groups, a power of two. One more switches snooping off.
    pub groups_max: u32,
    /// How long a membership lasts without a report, in hundredths of a second (`USER_HZ`); `None`
    /// leaves it unchanged.
    pub membership_interval: Option<u64>,
    /// The forward delay of a new port, in hundredths of a second (`USER_HZ`); it can be 0 without
    /// STP.
    pub forward_delay: u32,
    /// Whether it takes part in the spanning tree protocol.
    pub stp: bool,
    /// The maximum number of learned MAC addresses; `None` on kernels before 6.7, which have no
    /// limit.
    pub learned_max: Option<u32>,
}

impl BridgeSettings {
    pub(crate) fn parse(data: Attributes<'_>) -> Self {
        Self {
            snooping: octet(data, MCAST_SNOOPING) != 0,
            querier: octet(data, MCAST_QUERIER) != 0,
            query_use_ifaddr: octet(data, MCAST_QUERY_USE_IFADDR) != 0,
            multicast_router: octet(data, MCAST_ROUTER),
            igmp_version: octet(data, MCAST_IGMP_VERSION),
            mld_version: octet(data, MCAST_MLD_VERSION),
            groups_max: word(data, MCAST_HASH_MAX),
            membership_interval: data.find(MCAST_MEMBERSHIP_INTERVAL).and_then(Attribute::u64),
            forward_delay: word(data, FORWARD_DELAY),
            stp: word(data, STP_STATE) != 0,
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
        // Kernels that do not know the attribute ignore it.
        if let Some(most) = self.learned_max {
            data.u32(FDB_MAX_LEARNED, most);
        }
        data.u8(MCAST_IGMP_VERSION, self.igmp_version);
        data.u8(MCAST_MLD_VERSION, self.mld_version);
        // Last, so that the first queries have the right version.
        data.u8(MCAST_QUERIER, u8::from(self.querier));
    }
}

/// The state of the querier of a bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuerierState {
    /// The bridge's query interval.
    pub interval: Duration,
    /// The maximum response time of its queries.
    pub response: Duration,
    /// Whether another querier, of IPv4 or IPv6, silences the bridge; `None` on kernels before
    /// 5.15, which do not report it.
    pub is_by_another: Option<bool>,
}

impl QuerierState {
    fn parse(frame: &Frame<'_>) -> Option<Self> {
        let information = frame.attributes(LINK_HEADER).find(libc::IFLA_LINKINFO)?.nested();
        let data = information.find(libc::IFLA_INFO_DATA)?.nested();
        let state = data.find(MCAST_QUERIER_STATE).map(Attribute::nested);
        Some(Self {
            interval: interval(data, MCAST_QUERY_INTERVAL),
            response: interval(data, MCAST_QUERY_RESPONSE_INTERVAL),
            is_by_another: state.map(|state| {
                state.find(OTHER_OF_IPV4).is_some() || state.find(OTHER_OF_IPV6).is_some()
            }),
        })
    }
}

fn octet(data: Attributes<'_>, kind: u16) -> u8 {
    data.find(kind).and_then(Attribute::u8).unwrap_or_default()
}

fn word(data: Attributes<'_>, kind: u16) -> u32 {
    data.find(kind).and_then(Attribute::u32).unwrap_or_default()
}

/// Reads an interval, which the kernel gives in hundredths of a second (`USER_HZ`).
fn interval(data: Attributes<'_>, kind: u16) -> Duration {
    let hundredths = data.find(kind).and_then(Attribute::u64).unwrap_or_default();
    Duration::from_millis(hundredths.saturating_mul(10))
}

impl Route {
    /// Creates a bridge, down, in this device group.
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

    /// The querier state of the bridge with this index; `None` if it does not exist.
    pub fn querier_state(&mut self, bridge: u32) -> Result<Option<QuerierState>, Error> {
        let message = Message::new(libc::RTM_GETLINK, 0, &link_header(0, bridge, 0, 0));
        let read = self.of_one_link(message, QuerierState::parse);
        read.map_err(|fault| fault.during(format_args!("read the querier of bridge {bridge}")))
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
