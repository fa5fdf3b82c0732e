//! Netlink, for shoutd: the only crate that knows how the kernel is spoken to.
//!
//! One verb per method, all of them blocking: a request is answered in microseconds, and every wait
//! has a deadline. [`Route`] speaks rtnetlink (devices, forwarding tables, addresses, routes),
//! [`IgmpMldFilter`], [`GroupFilter`] and [`UnderlayFilter`] keep nf_tables filters, [`Monitor`]
//! says when something changed, [`Namespace`] and [`NamedNamespaces`] are the network namespaces
//! all of them work in.
//!
//! The codec is its own: two hundred lines serve rtnetlink and nf_tables alike, the messages of
//! which no crate covers whole, and an attribute of some foreign device that nobody here has heard
//! of is passed over where a typed parser would refuse the whole dump.

mod address;
mod bridge;
mod chosen_sources;
mod error;
mod fdb;
#[cfg(test)]
mod fuzz;
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
mod port;
mod query;
mod report;
mod route;
mod socket;
mod underlay_filter;
mod veth;
mod vxlan;
mod wire;

pub use address::Address;
pub use bridge::{BridgeSettings, Querying};
pub use chosen_sources::ChosenSources;
pub use error::{Error, Fault};
pub use fdb::Pinned;
pub use group_filter::{Filtering, GroupFilter};
pub use group_querier::GroupQuerier;
pub use igmp_mld_filter::{IgmpMldFilter, Installed};
pub use ip_route::IpRoute;
pub use joins::{JoinMonitor, Joins};
pub use learned::LearnedEntry;
pub use link::{Kind, Link, LinkChange, Mac, Peer};
pub use mdb::{DatabaseChange, Join, Listing, Membership, TunnelGroup};
pub use monitor::{DatabaseMonitor, Monitor};
pub use named::NamedNamespaces;
pub use namespace::{Namespace, NamespaceId};
pub use port::PortSettings;
pub use query::{HeardQuery, QueryMonitor, QueryVersion};
pub use report::{GroupRecord, Reporter};
pub use route::Route;
pub use underlay_filter::{
    AGREEMENT_PORTS_MAX, DroppedPackets, Installed as InstalledUnderlayFilter, UnderlayAccess,
    UnderlayFilter,
};
pub use veth::{NewVeth, VethEnd};
pub use vxlan::{NewVxlan, VxlanSettings};
