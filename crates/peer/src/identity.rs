//! The headers that identify a request's sender, and how a server checks them.

use std::fmt::Display;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use shoutd_core::{ClusterId, HostId};

use crate::{Peer, PublicKey, Rejection};

/// The protocol of this build. A host answers no other.
pub const PROTOCOL: u32 = 1;

/// The path by which a host asks to be admitted. It is open to strangers; all others are for
/// members.
pub const ENROLL: &str = "/v1/enroll";

/// Header with the protocol of the sender.
pub const HEADER_PROTOCOL: HeaderName = HeaderName::from_static("shoutd-protocol");
/// Header with the host id of the sender.
pub const HEADER_HOST: HeaderName = HeaderName::from_static("shoutd-host");
/// Header with the cluster id of the sender; absent while it belongs to no cluster.
pub const HEADER_CLUSTER: HeaderName = HeaderName::from_static("shoutd-cluster");
/// Header with the host id that the request is meant for; absent if any host may answer.
pub const HEADER_TO: HeaderName = HeaderName::from_static("shoutd-to");

/// This host's id and its cluster's. Clones share the cluster id, which is set once, when the host
/// founds or joins its cluster.
#[derive(Debug, Clone)]
pub struct Identity {
    host: HostId,
    cluster: Arc<OnceLock<ClusterId>>,
}

impl Identity {
    /// The identity of a host, and of its cluster if it belongs to one.
    pub fn new(host: HostId, cluster: Option<ClusterId>) -> Self {
        Self { host, cluster: Arc::new(cluster.map_or_else(OnceLock::new, OnceLock::from)) }
    }

    /// This host.
    pub fn host(&self) -> HostId {
        self.host
    }

    /// The cluster that this host belongs to.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.cluster.get().copied()
    }

    /// Sets the cluster that this host belongs to.
    ///
    /// # Errors
    /// The cluster that this host already belongs to, if it is another one.
    pub fn join(&self, cluster: ClusterId) -> Result<(), ClusterId> {
        let has = *self.cluster.get_or_init(|| cluster);
        if has == cluster { Ok(()) } else { Err(has) }
    }

    pub(crate) fn write_headers(&self, to: Option<HostId>, headers: &mut HeaderMap) {
        headers.insert(HEADER_PROTOCOL, HeaderValue::from(PROTOCOL));
        insert(headers, HEADER_HOST, self.host);
        if let Some(cluster) = self.cluster() {
            insert(headers, HEADER_CLUSTER, cluster);
        }
        if let Some(to) = to {
            insert(headers, HEADER_TO, to);
        }
    }

    /// Reads the sender from a request's headers; checks them against its key, and that the request
    /// is meant for this host.
    pub(crate) fn check(
        &self,
        headers: &HeaderMap,
        path: &str,
        peer: &Peer,
        address: SocketAddr,
    ) -> Result<Caller, Rejection> {
        let caller = required(headers, &HEADER_PROTOCOL)?;
        if caller != PROTOCOL {
            return Err(Rejection::OtherProtocol { speaks: PROTOCOL, caller });
        }
        let host = required(headers, &HEADER_HOST)?;
        if host != peer.host {
            let reason =
                format!("it claims to be host {host}, but has the key of host {}", peer.host);
            return Err(Rejection::Unauthenticated { reason });
        }
        if let Some(distrust) = peer.membership.as_ref().err().filter(|_| path != ENROLL) {
            return Err(Rejection::Unauthenticated { reason: distrust.to_string() });
        }
        let to = optional(headers, &HEADER_TO)?;
        if let Some(wanted) = to.filter(|wanted| *wanted != self.host) {
            return Err(Rejection::OtherHost { is: self.host, wanted });
        }
        let cluster = optional(headers, &HEADER_CLUSTER)?;
        match (self.cluster(), cluster) {
            (Some(has), Some(caller)) if has != caller => {
                Err(Rejection::OtherCluster { has, caller })
            }
            _ => Ok(Caller {
                host,
                key: peer.key,
                cluster,
                address,
                is_member: peer.membership.is_ok(),
                names_this_host: to.is_some(),
            }),
        }
    }
}

/// The sender of a request. Handlers get it as an `axum::Extension`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// Its host id.
    pub host: HostId,
    /// The key of which it proved possession.
    pub key: PublicKey,
    /// Its cluster: this host's, unless one of the two belongs to no cluster.
    pub cluster: Option<ClusterId>,
    /// The source address of its connection.
    pub address: SocketAddr,
    /// Whether it proved to belong to this host's cluster.
    pub is_member: bool,
    /// Whether it called this host by its id, and not just the host at this address.
    pub names_this_host: bool,
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: impl Display) {
    // Ids are hexadecimal digits, which are valid in any header.
    if let Ok(value) = HeaderValue::try_from(value.to_string()) {
        headers.insert(name, value);
    }
}

fn optional<T: FromStr<Err: Display>>(
    headers: &HeaderMap,
    name: &HeaderName,
) -> Result<Option<T>, Rejection> {
    let Some(value) = headers.get(name) else {
        return Ok(None);
    };
    let malformed =
        |reason: &dyn Display| Rejection::Malformed { reason: format!("header {name}: {reason}") };
    let text = value.to_str().map_err(|error| malformed(&error))?;
    text.parse().map(Some).map_err(|error| malformed(&error))
}

fn required<T: FromStr<Err: Display>>(
    headers: &HeaderMap,
    name: &HeaderName,
) -> Result<T, Rejection> {
    optional(headers, name)?
        .ok_or_else(|| Rejection::Malformed { reason: format!("header {name} is missing") })
}
