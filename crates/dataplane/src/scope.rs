//! What somebody waits for.

use shoutd_core::Vni;
use shoutd_core::plane::{Action, Change, DeviceName};

use crate::reconcile::port_of;
use crate::replicator::ForwardingFailure;

/// Whose failures matter to somebody who waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// All; and everywhere also what is not wanted any more is gone.
    Everything,
    /// Those of what other hosts announce of one segment: that what is sent there goes to whom it
    /// should. Neither its ports and containers' interfaces are waited for, nor a look at any
    /// device, unless the segment's hosts changed.
    Announced {
        /// The segment.
        vni: Vni,
    },
    /// Those of one segment: its devices, flood entries, pinned addresses and multicast. Groups may
    /// still go to where they are not wanted any more.
    Segment {
        /// The segment.
        vni: Vni,
    },
    /// Those of one port, and of the segment's bridge and tunnel that it depends on; not of other
    /// ports.
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
            Self::Announced { vni } => {
                action.vni() == Some(*vni)
                    && port_of(action).is_none()
                    && !matches!(action, Action::RemoveFlood { .. })
            }
            Self::Segment { vni } => action.vni() == Some(*vni),
            Self::Port { vni, name } => {
                action.vni() == Some(*vni) && port_of(action).is_none_or(|port| port == *name)
            }
        }
    }

    /// Whether it matters that it cannot be read what a segment has.
    pub(crate) fn concerns_segment(&self, segment: Vni) -> bool {
        match self {
            Self::Everything => true,
            // What others announce goes into tables that are read by themselves.
            Self::Announced { .. } => false,
            Self::Segment { vni } | Self::Port { vni, .. } => *vni == segment,
        }
    }

    pub(crate) fn concerns_forwarding(&self, failure: &ForwardingFailure) -> bool {
        match self {
            Self::Everything => true,
            Self::Announced { vni } => {
                let is_local = |change: &Change| matches!(change, Change::PinPort { port, .. } if *port != DeviceName::tunnel());
                failure.vni == *vni
                    && !failure
                        .change
                        .as_ref()
                        .is_some_and(|change| is_local(change) || !change.adds())
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
    fn who_announces_does_not_wait_for_containers_interfaces() {
        let vni = Vni::new(7).unwrap();
        let (remote, port) = (Ipv4Addr::new(192, 0, 2, 2).into(), DeviceName::tunnel());
        let scope = Scope::Announced { vni };
        assert!(scope.concerns(&Action::AddFlood { vni, remote }));
        assert!(scope.concerns(&Action::DeleteTunnel { vni }));
        assert!(!scope.concerns(&Action::RemoveFlood { vni, remote }));
        assert!(!scope.concerns(&Action::DeletePort { vni, name: port.clone() }));
        assert!(!scope.concerns(&Action::AddFlood { vni: Vni::new(8).unwrap(), remote }));

        let failure = |change| ForwardingFailure {
            vni,
            change,
            error: std::sync::Arc::new(crate::KernelError::Injected("refused")),
        };
        let (mac, other) = (MacAddress([2, 0, 0, 0, 0, 1]), "shp1".parse().unwrap());
        assert!(scope.concerns_forwarding(&failure(None)));
        assert!(scope.concerns_forwarding(&failure(Some(Change::PinRemote { mac, remote }))));
        assert!(scope.concerns_forwarding(&failure(Some(Change::PinPort { mac, port }))));
        assert!(!scope.concerns_forwarding(&failure(Some(Change::PinPort { mac, port: other }))));
        assert!(!scope.concerns_forwarding(&failure(Some(Change::UnpinRemote { mac, remote }))));
    }
}
