//! Why something that a host announces is not believed, in words for people.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cluster::Cluster;
use crate::events::one_line;
use crate::limits::DOUBT_GRACE;
use crate::names::Name;
use crate::{EndpointId, HostId, MacAddress, NetworkId};

/// What is wrong with an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AddressRejection {
    /// It is in none of the network's subnets.
    Outside,
    /// Nobody can have it.
    Reserved,
    /// It is leased to another host, or to none.
    NotLeased(Option<HostId>),
    /// Two endpoints of the host have it.
    Twice,
}

/// Something of one network that is not believed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rejection {
    /// An address of an endpoint.
    Address {
        /// Which endpoint.
        endpoint: EndpointId,
        /// The address.
        address: IpAddr,
        /// What is wrong with it.
        why: AddressRejection,
    },
    /// The MAC address of an endpoint, which is another's.
    Mac {
        /// Which endpoint.
        endpoint: EndpointId,
        /// The MAC address.
        mac: MacAddress,
        /// Whose it is; `None` if it is the host's that does not believe it.
        holder: Option<HostId>,
    },
    /// A name that the host of each container has for itself.
    NameOfHost(Name),
    /// A name that could be one of the public DNS.
    PublicName(Name),
}

impl Rejection {
    /// How long it may be there before anybody is told.
    pub fn grace(&self) -> Duration {
        match self {
            Self::Address { why: AddressRejection::NotLeased(_), .. } | Self::Mac { .. } => {
                DOUBT_GRACE
            }
            Self::Address { .. } | Self::NameOfHost(_) | Self::PublicName(_) => Duration::ZERO,
        }
    }

    /// Whether something is wrong. Else it is as the network's users want it, or may want it
    /// otherwise.
    pub fn is_fault(&self) -> bool {
        !matches!(self, Self::NameOfHost(_) | Self::PublicName(_))
    }

    /// What is not believed, why, and what can be done.
    pub fn text(&self, network: &NetworkId, cluster: &Cluster) -> String {
        let title = cluster.network_title(network);
        let what = match self {
            Self::Address { endpoint, address, why } => {
                let why = match why {
                    AddressRejection::Outside => "is in no subnet of the network".to_owned(),
                    AddressRejection::Reserved => "is reserved".to_owned(),
                    AddressRejection::Twice => "is that of another endpoint, too".to_owned(),
                    AddressRejection::NotLeased(None) => "is not leased to it".to_owned(),
                    AddressRejection::NotLeased(Some(host)) => {
                        format!("is leased to host {}", cluster.host_name(*host))
                    }
                };
                format!("address {address} of endpoint {} {why}", endpoint.short())
            }
            Self::Mac { endpoint, mac, holder } => {
                let holder = holder.map_or_else(
                    || "the host that says this".to_owned(),
                    |holder| format!("host {}", cluster.host_name(holder)),
                );
                format!(
                    "MAC address {mac} of endpoint {} is that of a container on {holder}: give \
                     another with --mac-address",
                    endpoint.short()
                )
            }
            Self::NameOfHost(name) => {
                format!(
                    "{name} is no name for a container, as every host has it; other hosts do not \
                     resolve it"
                )
            }
            Self::PublicName(name) => format!(
                "{name} could be a name of the public DNS, so other hosts do not resolve it; to \
                 have it, create the network with --opt shoutd.names=all"
            ),
        };
        format!("network {title}: {what}")
    }
}

/// A doubt as a host tells it to the one whose announcement it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ReportedRejection {
    /// See [`Rejection::text`].
    pub text: String,
    /// See [`Rejection::is_fault`].
    #[serde(default)]
    pub is_fault: bool,
}

impl ReportedRejection {
    /// As it may be shown, whoever told it: on one line, and not too long.
    #[must_use]
    pub fn bounded(self) -> Self {
        Self { text: one_line(&self.text), ..self }
    }
}
