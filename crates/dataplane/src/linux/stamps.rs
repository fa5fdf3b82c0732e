//! Gives PTP daemons one transmit time stamp for each event message that they send by unicast.
//!
//! A PTP daemon asks its socket for transmit time stamps (`SO_TIMESTAMPING`), and each device that
//! its frame passes reports one. A clone of the frame belongs to no socket. The bridge forwards
//! clones of multicast, so the socket gets one time stamp. For unicast the underlay's device
//! reports a second one, which PTP daemons treat as a fault. An nf_tables rule makes the VXLAN
//! device send clones of these messages. It costs every frame 2 %, so it is installed only while a
//! container is in one of PTP's groups. PTP daemons join these groups in their unicast modes too.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use shoutd_core::multicast::Mdb;
use shoutd_core::plane::TUNNEL;
use shoutd_netlink::{Error, EventCopies, Namespace, Route};

/// How often the rule is installed again, as the device may have been replaced.
const AGE_MAX: Duration = Duration::from_secs(10);

/// PTP's primary group of IPv4, and the link-local one of IPv6 for peer delays (IEEE 1588-2019,
/// annexes C and D).
const GROUPS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(224, 0, 1, 129)),
    IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x6b)),
];

/// The scopes of the primary group of IPv6, `ff0X::181`.
const SCOPES: std::ops::RangeInclusive<u16> = 1..=15;

/// The time stamps of one network.
#[derive(Debug)]
pub(super) struct Stamps {
    namespace: Namespace,
    is_installed: bool,
    /// When the rule is installed or removed again. A daemon that starts does so at once, as it
    /// does not know what an earlier one left.
    next: Option<Instant>,
}

impl Stamps {
    pub(super) fn new(namespace: &Namespace) -> Self {
        Self { namespace: namespace.clone(), is_installed: false, next: Some(Instant::now()) }
    }

    /// Installs the rule if a container is in one of PTP's groups, and removes it if none is.
    pub(super) fn follow(&mut self, route: &mut Route, database: &Mdb) -> Result<(), Error> {
        let wanted = has_members(database);
        let is_time = self.next.is_some_and(|next| Instant::now() >= next);
        if wanted == self.is_installed && !is_time {
            return Ok(());
        }
        self.next = Some(Instant::now() + AGE_MAX);
        self.is_installed = wanted;
        let mut copies = EventCopies::open(&self.namespace)?;
        if !wanted {
            copies.remove()?;
            self.next = None;
            return Ok(());
        }
        route.link(TUNNEL)?.map_or(Ok(()), |tunnel| copies.install(TUNNEL, tunnel.index))
    }
}

fn has_members(database: &Mdb) -> bool {
    let of_scopes = SCOPES.map(|scope| Ipv6Addr::new(0xff00 | scope, 0, 0, 0, 0, 0, 0, 0x181));
    let mut groups = GROUPS.into_iter().chain(of_scopes.map(IpAddr::V6));
    groups.any(|group| database.has_members(group))
}
