//! Finds endpoints that this host remembers, but its engine no longer has.
//!
//! An engine reports only once that an endpoint is gone (`Leave`, `DeleteEndpoint`), and repeats a
//! call without an answer for 15 s. What it reports while shoutd is stopped is lost. So we compare
//! local state with the engine's own list of endpoints.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::local::{Endpoint, Local};
use crate::plane::{DeviceName, Observed, Place};
use crate::{DockerNetworkId, EndpointId, NetworkId, Vni};

/// How long an endpoint may be without a container. The engine lists an endpoint only once its
/// container has it.
const START_TIME_MAX: Duration = Duration::from_secs(120);

/// How long the engine may take to delete an endpoint that has left its container. It does both in
/// one step.
const END_TIME_MAX: Duration = Duration::from_secs(10);

/// How long an endpoint that was never listed must be missing from the engine's list. If a dying
/// daemon did not answer `Join`, the engine repeats the call for 15 s (moby
/// `pkg/plugins/client.go`, `callWithRetry`), and lists the endpoint only after the answer.
const REPETITION_TIME: Duration = Duration::from_secs(16);

/// Where an endpoint's interface is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interface {
    /// In its container.
    Inside,
    /// Elsewhere: not in a container yet, or no longer.
    Outside,
    /// Nowhere.
    Gone,
    /// The kernel could not be asked, or has not been asked yet.
    Unknown,
}

impl Interface {
    /// Where the interface of an endpoint is, according to the last observation. `vni` is that of
    /// its network, if the cluster has it.
    pub fn of(observed: &Observed, vni: Option<Vni>, id: &EndpointId, endpoint: &Endpoint) -> Self {
        let unreadable = &observed.unreadable_sandboxes;
        let sandbox = endpoint.sandbox.as_ref();
        if sandbox.is_some_and(|sandbox| unreadable.contains_key(sandbox))
            || vni.is_some_and(|vni| observed.unreadable_segments.contains_key(&vni))
        {
            return Self::Unknown;
        }
        let name = DeviceName::port(id);
        let mut ports = observed.segments.values().filter_map(|segment| segment.ports.get(&name));
        match ports.find_map(|port| port.container_end.as_ref()).map(|end| &end.place) {
            None => Self::Gone,
            Some(Place::Sandbox(place)) if sandbox == Some(place) => Self::Inside,
            Some(_) => Self::Outside,
        }
    }
}

/// The endpoints that an engine lists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// The networks for which the engine answered.
    pub networks: BTreeSet<NetworkId>,
    /// The endpoints on them.
    pub endpoints: BTreeSet<EndpointId>,
}

/// The times of one comparison.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// The wall clock, since 1970, as in [`Endpoint::created`]. It may jump.
    pub wall: Duration,
    /// A monotonic clock, since any instant.
    pub steady: Duration,
}

/// Since when endpoints that may be in creation are missing from the engine's list.
#[derive(Debug, Default)]
pub struct Unlisted {
    /// By the steady clock of [`Times`].
    since: BTreeMap<EndpointId, Duration>,
}

/// The endpoints that may be stale: those whose interface is not in their container.
pub fn suspects(
    local: &Local,
    interface: impl Fn(&EndpointId, &Endpoint) -> Interface,
) -> BTreeSet<EndpointId> {
    local
        .endpoints
        .iter()
        .filter(|(id, endpoint)| {
            matches!(interface(id, endpoint), Interface::Outside | Interface::Gone)
        })
        .map(|(id, _)| id.clone())
        .collect()
}

/// The networks of these endpoints, with the copies that the engine must be asked about.
pub fn copies_to_list(
    local: &Local,
    endpoints: &BTreeSet<EndpointId>,
) -> BTreeMap<NetworkId, Vec<DockerNetworkId>> {
    let known = endpoints.iter().filter_map(|id| local.endpoints.get(id));
    let networks: BTreeSet<_> = known.map(|endpoint| &endpoint.network).collect();
    let copies = networks.into_iter().map(|network| (network.clone(), local.copies_of(network)));
    copies.filter(|(_, copies)| !copies.is_empty()).collect()
}

impl Unlisted {
    /// The suspects that are stale, according to the engine's list. An endpoint is not stale if the
    /// engine did not answer for its network.
    pub fn stale(
        &mut self,
        local: &Local,
        suspects: &BTreeSet<EndpointId>,
        listing: &Listing,
        now: Times,
    ) -> Vec<EndpointId> {
        let known = suspects.iter().filter_map(|id| local.endpoints.get_key_value(id));
        let missing: BTreeMap<_, _> = known
            .filter(|(id, endpoint)| {
                listing.networks.contains(&endpoint.network) && !listing.endpoints.contains(*id)
            })
            .collect();
        self.since.retain(|id, _| missing.contains_key(id));
        let mut stale = Vec::new();
        for (id, endpoint) in missing {
            let since = *self.since.entry(id.clone()).or_insert(now.steady);
            if is_stale(endpoint, now.steady.saturating_sub(since), now.wall) {
                stale.push(id.clone());
            }
        }
        stale
    }
}

/// Whether an endpoint that has been missing from the engine's list for this long is stale.
fn is_stale(endpoint: &Endpoint, unlisted: Duration, wall: Duration) -> bool {
    // An engine never uses an id again, so an endpoint that is no longer listed is gone.
    let was_listed = endpoint.container.is_some();
    let was_left = endpoint.left.is_some_and(|left| wall.saturating_sub(left) > END_TIME_MAX);
    let is_old =
        wall.saturating_sub(endpoint.created) > START_TIME_MAX || unlisted > START_TIME_MAX;
    // Any other endpoint is still being created: its container does not have it yet.
    let was_begun = endpoint.sandbox.is_some() || endpoint.left.is_some() || is_old;
    was_listed || was_left || (was_begun && unlisted >= REPETITION_TIME)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MacAddress;
    use crate::names::EndpointContainer;
    use crate::plane::{ContainerEnd, ObservedPort, ObservedSegment};

    const NETWORK: &str = "aaaaaaaaaaaaaaaa";
    const NOW: u64 = 1_000_000;

    fn endpoint() -> Endpoint {
        Endpoint {
            network: NETWORK.parse().unwrap(),
            addresses: BTreeSet::new(),
            mac: MacAddress([2, 0, 0, 0, 0, 1]),
            sandbox: Some("/run/docker/netns/1".into()),
            multicast_routes: BTreeSet::new(),
            interface_name: None,
            default_route: None,
            created: Duration::from_secs(NOW - 1000),
            left: None,
            container: None,
        }
    }

    fn vni() -> Vni {
        Vni::new(7).unwrap()
    }

    /// The endpoint's port, with its container's end at this place.
    fn observed_end(place: Place) -> Observed {
        let end = ContainerEnd {
            place,
            name: DeviceName::container(&id()),
            mac: endpoint().mac,
            mtu: 1450,
            up: true,
            addresses: BTreeSet::new(),
            detects_duplicates: false,
            multicast_routes: BTreeSet::new(),
        };
        let port = ObservedPort {
            mark: None,
            mtu: 1450,
            up: true,
            enslaved: true,
            learning: false,
            groups_max: None,
            container_end: Some(end),
        };
        let ports = BTreeMap::from([(DeviceName::port(&id()), port)]);
        let segment = ObservedSegment { ports, ..ObservedSegment::default() };
        Observed { segments: BTreeMap::from([(vni(), segment)]), ..Observed::default() }
    }

    #[test]
    fn an_interface_is_unknown_where_the_kernel_cannot_be_read() {
        let (own, why) = (endpoint().sandbox.unwrap(), "refused".to_owned());
        let unreadable_sandboxes = BTreeMap::from([(own.clone(), why.clone())]);
        let unreadable_segments = BTreeMap::from([(vni(), why)]);
        for (observed, expected) in [
            (Observed::default(), Interface::Gone),
            (observed_end(Place::Sandbox(own)), Interface::Inside),
            (observed_end(Place::Sandbox("/elsewhere".into())), Interface::Outside),
            (Observed { unreadable_sandboxes, ..Observed::default() }, Interface::Unknown),
            (Observed { unreadable_segments, ..Observed::default() }, Interface::Unknown),
        ] {
            let found = Interface::of(&observed, Some(vni()), &id(), &endpoint());
            assert_eq!(found, expected, "{observed:?}");
        }
    }

    #[test]
    fn the_engine_is_asked_about_the_copies_of_the_suspects_networks_only() {
        let (suspect, other) = ("0123456789abcdef", "fedcba9876543210");
        let suspect: EndpointId = suspect.parse().unwrap();
        let elsewhere: NetworkId = "bbbbbbbbbbbbbbbb".parse().unwrap();
        let copy: DockerNetworkId = "cccccccccccccccc".parse().unwrap();
        let local = Local {
            bindings: BTreeMap::from([
                (copy.clone(), NETWORK.parse().unwrap()),
                ("dddddddddddddddd".parse().unwrap(), elsewhere.clone()),
            ]),
            endpoints: BTreeMap::from([
                (suspect.clone(), endpoint()),
                (other.parse().unwrap(), Endpoint { network: elsewhere, ..endpoint() }),
            ]),
            ..Local::default()
        };
        let expected = BTreeMap::from([(NETWORK.parse().unwrap(), vec![copy])]);
        assert_eq!(copies_to_list(&local, &BTreeSet::from([suspect])), expected);
    }

    fn container() -> EndpointContainer {
        EndpointContainer {
            id: "c".repeat(64),
            names: BTreeSet::new(),
            hosts_file: None,
            asks_resolver: false,
            engine: None,
        }
    }

    fn id() -> EndpointId {
        "e".repeat(16).parse().unwrap()
    }

    fn listing(listed: bool) -> Listing {
        let endpoints = listed.then(id).into_iter().collect();
        Listing { networks: BTreeSet::from([NETWORK.parse().unwrap()]), endpoints }
    }

    /// After how many seconds, with one look per second, an endpoint is stale that the engine does
    /// not list; `None` if it is not within 200 s.
    fn forgotten_after(endpoint: &Endpoint) -> Option<u64> {
        let local =
            Local { endpoints: BTreeMap::from([(id(), endpoint.clone())]), ..Local::default() };
        let (mut unlisted, suspects) = (Unlisted::default(), BTreeSet::from([id()]));
        (0..200).find(|seconds| {
            let now = Times {
                wall: Duration::from_secs(NOW + seconds),
                steady: Duration::from_secs(5 + seconds),
            };
            !unlisted.stale(&local, &suspects, &listing(false), now).is_empty()
        })
    }

    #[test]
    fn an_endpoint_whose_removal_was_missed_is_stale_unless_its_interface_is_in_the_container() {
        let listed_before = Endpoint { container: Some(container()), ..endpoint() };
        assert_eq!(forgotten_after(&listed_before), Some(0));
        assert_eq!(forgotten_after(&endpoint()), Some(16), "the engine may repeat Join");
        let local =
            Local { endpoints: BTreeMap::from([(id(), listed_before)]), ..Local::default() };
        for (interface, is_suspect) in [
            (Interface::Inside, false),
            (Interface::Unknown, false),
            (Interface::Outside, true),
            (Interface::Gone, true),
        ] {
            assert_eq!(
                suspects(&local, |_, _| interface).contains(&id()),
                is_suspect,
                "{interface:?}"
            );
        }
    }

    #[test]
    fn an_endpoint_in_creation_has_time_even_if_the_clock_jumps() {
        // A clock that jumped forward does not make it stale at once, and one that jumped back
        // does not keep it for ever.
        for (seconds, after) in [(NOW, 121), (0, 16), (NOW * 2, 121)] {
            let created = Duration::from_secs(seconds);
            let made = Endpoint { sandbox: None, created, ..endpoint() };
            assert_eq!(forgotten_after(&made), Some(after), "{made:?}");
        }
    }

    #[test]
    fn an_endpoint_that_left_its_container_is_stale_when_its_deletion_is_overdue() {
        // Also after the clock jumped back.
        for (seconds, after) in [(NOW, 11), (NOW * 2, 16)] {
            let left = Some(Duration::from_secs(seconds));
            let endpoint = Endpoint { sandbox: None, left, ..endpoint() };
            assert_eq!(forgotten_after(&endpoint), Some(after), "{endpoint:?}");
        }
    }

    #[test]
    fn an_endpoint_that_is_listed_or_of_an_unanswered_network_is_not_stale() {
        let known = Endpoint { container: Some(container()), ..endpoint() };
        let local = Local { endpoints: BTreeMap::from([(id(), known)]), ..Local::default() };
        let (mut unlisted, suspects) = (Unlisted::default(), BTreeSet::from([id()]));
        // The second time the engine did not answer for that network.
        for (listing, seconds, stale) in [
            (listing(true), 0, vec![]),
            (Listing::default(), 1000, vec![]),
            (listing(false), 2000, vec![id()]),
        ] {
            assert_eq!(unlisted.stale(&local, &suspects, &listing, at(seconds)), stale);
        }
    }

    /// These seconds after the start.
    fn at(seconds: u64) -> Times {
        Times { wall: Duration::from_secs(NOW), steady: Duration::from_secs(seconds) }
    }

    #[test]
    fn the_time_of_an_unlisted_endpoint_starts_again_after_it_was_listed() {
        let local = Local { endpoints: BTreeMap::from([(id(), endpoint())]), ..Local::default() };
        let (mut unlisted, suspects) = (Unlisted::default(), BTreeSet::from([id()]));
        for (listed, seconds, stale) in
            [(false, 0, vec![]), (true, 10, vec![]), (false, 20, vec![]), (false, 36, vec![id()])]
        {
            assert_eq!(unlisted.stale(&local, &suspects, &listing(listed), at(seconds)), stale);
        }
    }
}
