//! Why a claim in an advertisement is not accepted, as text for users.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cluster::Cluster;
use crate::events::one_line;
use crate::limits::REJECTION_GRACE;
use crate::names::Name;
use crate::{EndpointId, HostId, MacAddress, NetworkId};

/// Why an address is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AddressRejection {
    /// It is not in a subnet of the network.
    Outside,
    /// No endpoint may have it.
    Reserved,
    /// It is leased to another host, or to no host.
    NotLeased(Option<HostId>),
    /// Two endpoints of the host have it.
    Twice,
}

/// A claim of a host on one network that is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rejection {
    /// An address of an endpoint.
    Address {
        /// The endpoint.
        endpoint: EndpointId,
        /// The address.
        address: IpAddr,
        /// Why it is not accepted.
        why: AddressRejection,
    },
    /// The MAC address of an endpoint, which another host's endpoint has.
    Mac {
        /// The endpoint.
        endpoint: EndpointId,
        /// The MAC address.
        mac: MacAddress,
        /// The host that has the MAC address; `None` if it is the one that rejects the claim.
        holder: Option<HostId>,
    },
    /// A name that every host uses for itself, such as `localhost`.
    NameOfHost(Name),
    /// A name that may exist in the public DNS.
    PublicName(Name),
}

impl Rejection {
    /// How long the rejection must last before it is reported.
    pub fn grace(&self) -> Duration {
        match self {
            Self::Address { why: AddressRejection::NotLeased(_), .. } | Self::Mac { .. } => {
                REJECTION_GRACE
            }
            Self::Address { .. } | Self::NameOfHost(_) | Self::PublicName(_) => Duration::ZERO,
        }
    }

    /// Whether the rejection is a fault. Otherwise it follows from the network's options, which the
    /// users may change.
    pub fn is_fault(&self) -> bool {
        !matches!(self, Self::NameOfHost(_) | Self::PublicName(_))
    }

    /// What is not accepted, why, and what to do.
    pub fn text(&self, network: &NetworkId, cluster: &Cluster) -> String {
        let title = cluster.network_title(network);
        let what = match self {
            Self::Address { endpoint, address, why } => {
                let why = match why {
                    AddressRejection::Outside => "is in no subnet of the network".to_owned(),
                    AddressRejection::Reserved => "is reserved".to_owned(),
                    AddressRejection::Twice => "also belongs to another endpoint".to_owned(),
                    AddressRejection::NotLeased(None) => "is not leased to it".to_owned(),
                    AddressRejection::NotLeased(Some(host)) => {
                        format!("is leased to host {}", cluster.host_name(*host))
                    }
                };
                format!("address {address} of endpoint {} {why}", endpoint.short())
            }
            Self::Mac { endpoint, mac, holder } => {
                let holder = holder.map_or_else(
                    || "the host that reports this".to_owned(),
                    |holder| format!("host {}", cluster.host_name(holder)),
                );
                format!(
                    "MAC address {mac} of endpoint {} belongs to a container on {holder}: set \
                     another one with --mac-address",
                    endpoint.short()
                )
            }
            Self::NameOfHost(name) => {
                format!(
                    "{name} is not usable as a container name, because every host uses it for \
                     itself; other hosts do not resolve it"
                )
            }
            Self::PublicName(name) => format!(
                "{name} may be a name in the public DNS, so other hosts do not resolve it; to \
                 resolve it, create the network with --opt shoutd.names=all"
            ),
        };
        format!("network {title}: {what}")
    }
}

/// A rejection, as it is reported to the host that advertised the claim.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ReportedRejection {
    /// From [`Rejection::text`].
    pub text: String,
    /// From [`Rejection::is_fault`].
    #[serde(default)]
    pub is_fault: bool,
}

impl ReportedRejection {
    /// The same with its text made safe to show: on one line and of bounded length, whatever the
    /// peer sent.
    #[must_use]
    pub fn bounded(self) -> Self {
        Self { text: one_line(&self.text), ..self }
    }
}
