//! Netlink: the only crate that talks to the kernel's network configuration.
//!
//! Each method does one thing and blocks: the kernel answers a request in microseconds, and every
//! wait has a deadline.
//!
//! * [`Route`] is rtnetlink: devices, FDBs and MDBs, addresses, routes.
//! * [`IgmpMldFilter`], [`GroupFilter`], [`UnderlayFilter`] and [`WayOutFilter`] are nf_tables
//!   filters.
//! * [`EventCopies`] is an nf_tables rule that sends clones.
//! * [`wireguard`] is the kernel's WireGuard: its devices, their keys and peers.
//! * [`Monitor`] reports that something changed.
//! * [`Namespace`] and [`NamedNamespaces`] are the network namespaces in which all of them work.
//!
//! The codec is our own. Two hundred lines serve rtnetlink and nf_tables, and no crate covers all
//! of their messages that we use. An unknown attribute of a foreign device is skipped, where a
//! typed parser would refuse the whole dump.

mod address;
mod bridge;
mod chosen_sources;
mod datagrams;
mod drops;
mod echo;
mod error;
mod event_copies;
mod fdb;
mod filter_counts;
#[cfg(test)]
mod fuzz;
mod gateway_rules;
mod generic;
mod group_filter;
mod group_querier;
mod igmp_mld_filter;
mod ip_route;
mod joins;
mod learned;
mod link;
mod mdb;
mod monitor;
mod named;
mod namespace;
mod nftables;
mod packet;
mod packet_count;
mod packet_filter;
mod packet_samples;
mod port;
mod probe_socket;
mod proc_net;
mod query;
mod report;
mod route;
mod send_options;
mod socket;
mod statistics;
mod underlay_filter;
mod veth;
mod vxlan;
mod way_out;
mod wire;
pub mod wireguard;

pub use address::Address;
pub use bridge::{BridgeSettings, QuerierState};
pub use chosen_sources::ChosenSources;
pub use datagrams::GroupSender;
pub use drops::{Dropper, dropped};
pub use echo::{ECHO_HEADER, EchoAnswer, EchoSocket};
pub use error::{Error, Fault};
pub use event_copies::EventCopies;
pub use fdb::Pinned;
pub use filter_counts::FilteredPackets;
pub use gateway_rules::Gateways;
pub use group_filter::{Filtering, GroupFilter};
pub use group_querier::GroupQuerier;
pub use igmp_mld_filter::{IgmpMldFilter, SegmentRules};
pub use ip_route::IpRoute;
pub use joins::{JoinMonitor, Joins};
pub use learned::LearnedEntry;
pub use link::{Kind, Link, LinkChange, Mac, Peer};
pub use mdb::{DatabaseChange, Join, MdbEntry, Membership, TunnelGroup};
pub use monitor::{DatabaseMonitor, Monitor};
pub use named::NamedNamespaces;
pub use namespace::{Namespace, NamespaceId};
pub use packet_count::{CountedPlace, KeptPacket, PacketCounter};
pub use packet_filter::{Direction, GroupPackets, InTunnel};
pub use packet_samples::{PacketSample, PacketSampler};
pub use port::PortSettings;
pub use probe_socket::{ProbeSocket, ProbeUse};
pub use proc_net::{JoinedGroup, ListedSocket};
pub use query::{QueryMonitor, QueryVersion, ReceivedQuery};
pub use report::{GroupRecord, Reporter};
pub use route::Route;
pub use send_options::{SelectedInterface, SendOptions, send_options};
pub use statistics::{CountedLink, LinkCounters};
pub use underlay_filter::{
    AGREEMENT_PORTS_MAX, DroppedPackets, Installed as InstalledUnderlayFilter, UnderlayAccess,
    UnderlayFilter,
};
pub use veth::{NewVeth, VethEnd};
pub use vxlan::{NewVxlan, VxlanSettings};
pub use way_out::{WayOut, WayOutFilter};
