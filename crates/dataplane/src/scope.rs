//! What a caller waits for.

use shoutd_core::Vni;
use shoutd_core::plane::{Action, Change, DeviceName};

use crate::forwarding_failure::ForwardingFailure;
use crate::reconcile::port_of;

/// Which failures matter to a caller that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// All, and the removals must be done as well.
    Everything,
    /// Those of the remote hosts' advertisements in one segment: that replication and pins are
    /// programmed. They include neither ports and containers' interfaces nor an observation of the
    /// devices, unless the segment's remotes changed.
    Advertised {
        /// The segment.
        vni: Vni,
    },
    /// Those of one segment: its devices, flood entries, pins and replication. Removals may still
    /// be pending.
    Segment {
        /// The segment.
        vni: Vni,
    },
    /// Those of one port, and of the bridge and tunnel that it depends on; not those of other
    /// ports, nor of the way out: without it a container gets Docker's.
    Port {
        /// The segment.
        vni: Vni,
        /// The port.
        name: DeviceName,
    },
}

impl Scope {
    pub(crate) fn concerns(&self, action: &Action) -> bool {
        match self {
            Self::Everything => true,
            Self::Advertised { vni } => {
                action.vni() == Some(*vni)
                    && port_of(action).is_none()
                    && !action.is_of_way_out()
                    && !matches!(action, Action::RemoveFlood { .. })
            }
            Self::Segment { vni } => action.vni() == Some(*vni),
            Self::Port { vni, name } => {
                action.vni() == Some(*vni)
                    && port_of(action).is_none_or(|port| port == *name)
                    && !action.is_of_way_out()
            }
        }
    }

    /// Whether an unreadable segment matters.
    pub(crate) fn concerns_segment(&self, segment: Vni) -> bool {
        match self {
            Self::Everything => true,
            // Advertisements affect tables that the replicator reads itself.
            Self::Advertised { .. } => false,
            Self::Segment { vni } | Self::Port { vni, .. } => *vni == segment,
        }
    }

    pub(crate) fn concerns_forwarding(&self, failure: &ForwardingFailure) -> bool {
        match self {
            Self::Everything => true,
            Self::Advertised { vni } => {
                failure.vni == *vni
                    && failure.change.as_ref().is_none_or(|change| match change {
                        Change::PinPort { port, .. } => *port == DeviceName::tunnel(),
                        change => change.adds(),
                    })
            }
            Self::Segment { vni } => failure.vni == *vni,
            Self::Port { vni, name } => {
                let port = match &failure.change {
                    Some(Change::PinPort { port, .. }) => Some(port),
                    _ => None,
                };
                failure.vni == *vni && port == Some(name)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use shoutd_core::MacAddress;

    use super::*;

    #[test]
    fn waiting_for_advertisements_does_not_include_containers_interfaces() {
        let vni = Vni::new(7).unwrap();
        let (remote, port) = (Ipv4Addr::new(192, 0, 2, 2).into(), DeviceName::tunnel());
        let scope = Scope::Advertised { vni };
        assert!(scope.concerns(&Action::AddFlood { vni, remote }));
        assert!(scope.concerns(&Action::DeleteTunnel { vni }));
        assert!(!scope.concerns(&Action::RemoveFlood { vni, remote }));
        assert!(!scope.concerns(&Action::DeletePort { vni, name: port.clone() }));
        assert!(!scope.concerns(&Action::AddFlood { vni: Vni::new(8).unwrap(), remote }));

        let (mac, other) = (MacAddress([2, 0, 0, 0, 0, 1]), "shp1".parse().unwrap());
        for (change, is_concerned) in [
            (None, true),
            (Some(Change::PinRemote { mac, remote }), true),
            (Some(Change::PinPort { mac, port }), true),
            (Some(Change::PinPort { mac, port: other }), false),
            (Some(Change::UnpinRemote { mac, remote }), false),
        ] {
            let error = std::sync::Arc::new(crate::KernelError::Injected("refused"));
            let failure = ForwardingFailure { vni, change, error };
            assert_eq!(scope.concerns_forwarding(&failure), is_concerned, "{failure:?}");
        }
    }
}
