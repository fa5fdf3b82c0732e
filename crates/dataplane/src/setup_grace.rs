//! The setup grace: the time in which only Docker may touch a container's new interface.
//!
//! Docker moves the interface into the container, renames it, adds its addresses, brings it up and
//! adds its routes, in this order. If an address or route already exists, Docker fails and so does
//! the container. So shoutd does not touch a new interface in a container until it has once seen it
//! complete, or until so much time has passed that Docker cannot still be working on it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use shoutd_core::Vni;
use shoutd_core::plane::{Action, DeviceName, Observed, Place};

use crate::reconcile::port_of;

/// How long Docker may take. It usually takes fractions of a second, and seconds on a machine that
/// starts a hundred containers at once.
const PATIENCE: Duration = Duration::from_secs(30);

/// The interfaces in containers.
#[derive(Debug, Default)]
pub(crate) struct SetupGrace {
    ends: BTreeMap<(Vni, DeviceName), End>,
}

/// The container's end of a veth pair.
#[derive(Debug)]
struct End {
    place: Place,
    /// When it was first seen in this place.
    since: Instant,
    /// Whether it has been complete here.
    complete: bool,
}

impl SetupGrace {
    /// Records an observation and the plan that was made for it.
    pub(crate) fn note(&mut self, observed: &Observed, plan: &[Action], now: Instant) {
        let mut before = std::mem::take(&mut self.ends);
        // The ends in unreadable segments stay as they were.
        self.ends.extend(
            before.extract_if(.., |(vni, _), _| observed.unreadable_segments.contains_key(vni)),
        );
        for (&vni, segment) in &observed.segments {
            for (name, port) in &segment.ports {
                let Some(end) = port.container_end.as_ref().filter(|end| end.place != Place::Host)
                else {
                    continue;
                };
                let key = (vni, name.clone());
                let known = before.remove(&key).filter(|known| known.place == end.place);
                let mut known = known.unwrap_or_else(|| End {
                    place: end.place.clone(),
                    since: now,
                    complete: false,
                });
                // An interface that is down has yet to be brought up, and may be incomplete
                // afterwards.
                known.complete |= end.up && !plan.iter().any(|action| is_about(action, &key));
                self.ends.insert(key, known);
            }
        }
    }

    /// Whether the action may be executed now.
    pub(crate) fn permits(&self, action: &Action, now: Instant) -> bool {
        let Action::TuneContainerEnd { vni, .. } = action else {
            return true;
        };
        let known = port_of(action).and_then(|name| self.ends.get(&(*vni, name)));
        known
            .is_some_and(|end| end.complete || now.saturating_duration_since(end.since) >= PATIENCE)
    }
}

fn is_about(action: &Action, (vni, name): &(Vni, DeviceName)) -> bool {
    matches!(action, Action::TuneContainerEnd { vni: about, .. } if about == vni)
        && port_of(action).as_ref() == Some(name)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use shoutd_core::plane::{
        ALL_MULTICAST, ContainerEnd, INTERFACE_PREFIX, InterfaceName, ObservedPort,
        ObservedSegment, OwnerTag, Port,
    };
    use shoutd_core::{EndpointId, MacAddress};

    use super::*;

    fn vni() -> Vni {
        Vni::new(7).unwrap()
    }

    fn endpoint() -> EndpointId {
        "e".repeat(64).parse().unwrap()
    }

    fn observed(place: Place) -> Observed {
        let end = ContainerEnd {
            place,
            name: "eth0".parse().unwrap(),
            mac: MacAddress([2; 6]),
            mtu: 1450,
            up: true,
            detects_duplicates: false,
            addresses: BTreeSet::new(),
            multicast_routes: BTreeSet::new(),
        };
        let mark = Some(OwnerTag::Endpoint(endpoint()));
        let port = ObservedPort {
            mark,
            mtu: 1450,
            up: true,
            enslaved: true,
            learning: true,
            groups_max: None,
            container_end: Some(end),
        };
        let ports = BTreeMap::from([(DeviceName::port(&endpoint()), port)]);
        let segment = ObservedSegment { ports, ..ObservedSegment::default() };
        Observed { segments: BTreeMap::from([(vni(), segment)]), ..Observed::default() }
    }

    fn tune() -> Action {
        let port = Port {
            endpoint: endpoint(),
            container_name: DeviceName::container(&endpoint()),
            mac: MacAddress([2; 6]),
            addresses: BTreeSet::new(),
            multicast_routes: BTreeSet::from([ALL_MULTICAST]),
            default_route: None,
            name: InterfaceName::numbered(INTERFACE_PREFIX),
            sandbox: Some("/sandbox".into()),
        };
        Action::TuneContainerEnd {
            vni: vni(),
            port,
            mtu: 1450,
            sandbox: "/sandbox".into(),
            name: "eth0".parse().unwrap(),
        }
    }

    #[test]
    fn an_interface_is_not_touched_until_it_was_complete() {
        let start = Instant::now();
        let sandbox = Place::Sandbox("/sandbox".into());
        let mut setup_grace = SetupGrace::default();
        setup_grace.note(&observed(sandbox.clone()), &[tune()], start);
        assert!(!setup_grace.permits(&tune(), start));
        assert!(setup_grace.permits(
            &Action::InstallIgmpMldFilter { vni: vni(), max_rate: None, gateways: BTreeSet::new() },
            start
        ));

        let complete = start + Duration::from_secs(1);
        setup_grace.note(&observed(sandbox.clone()), &[], complete);
        setup_grace.note(&observed(sandbox.clone()), &[tune()], complete);
        assert!(setup_grace.permits(&tune(), complete));

        // Docker has it again, so a new grace begins.
        setup_grace.note(&observed(Place::Host), &[], complete);
        setup_grace.note(&observed(sandbox), &[tune()], complete);
        assert!(!setup_grace.permits(&tune(), complete));
    }

    #[test]
    fn an_interface_that_is_never_complete_is_configured_after_the_grace() {
        let start = Instant::now();
        let mut setup_grace = SetupGrace::default();
        for elapsed in [Duration::ZERO, PATIENCE / 2, PATIENCE] {
            setup_grace.note(
                &observed(Place::Sandbox("/sandbox".into())),
                &[tune()],
                start + elapsed,
            );
            assert_eq!(setup_grace.permits(&tune(), start + elapsed), elapsed == PATIENCE);
        }
    }
}
