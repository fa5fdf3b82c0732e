//! Keeping out of Docker's way while it sets up a container's interface.
//!
//! Docker moves the interface into the container, names it, gives it its addresses, brings it up and adds its routes, one after the other; an
//! address or a route that is there already makes it give up and the container fail. So an interface that was newly found in a container
//! is left alone until it has once been seen complete, or so much time has passed that nobody can still be at it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use shoutd_core::Vni;
use shoutd_core::plane::{Action, DeviceName, Observed, Place};

use crate::reconcile::port_of;

/// How long Docker may take: fractions of a second usually, seconds on a machine that starts a hundred containers at once.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is known of the interfaces in containers.
#[derive(Debug, Default)]
pub(crate) struct Handover {
    ends: BTreeMap<(Vni, DeviceName), End>,
}

#[derive(Debug)]
struct End {
    place: Place,
    since: Instant,
    complete: bool,
}

impl Handover {
    /// Takes note of an observation, and of what is planned for it.
    pub(crate) fn note(&mut self, observed: &Observed, plan: &[Action], now: Instant) {
        let mut before = std::mem::take(&mut self.ends);
        for (&vni, segment) in &observed.segments {
            for (name, port) in &segment.ports {
                let Some(end) = port.container_end.as_ref().filter(|end| end.place != Place::Host) else {
                    continue;
                };
                let key = (vni, name.clone());
                let known = before.remove(&key).filter(|known| known.place == end.place);
                let mut known = known.unwrap_or_else(|| End { place: end.place.clone(), since: now, complete: false });
                known.complete |= !plan.iter().any(|action| is_about(action, &key));
                self.ends.insert(key, known);
            }
        }
    }

    /// Whether it is time for this action.
    pub(crate) fn permits(&self, action: &Action, now: Instant) -> bool {
        let Action::TuneContainerEnd { vni, .. } = action else {
            return true;
        };
        let known = port_of(action).and_then(|name| self.ends.get(&(*vni, name)));
        known.is_some_and(|end| end.complete || now.saturating_duration_since(end.since) >= PATIENCE)
    }
}

fn is_about(action: &Action, (vni, name): &(Vni, DeviceName)) -> bool {
    matches!(action, Action::TuneContainerEnd { vni: about, .. } if about == vni)
        && port_of(action).as_ref() == Some(name)
}
