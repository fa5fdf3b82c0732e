//! What containers' programs want of groups that are for chosen sources, looked up where they run.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use shoutd_netlink::{Error, Namespace, NamespaceId, Peer, Route};
use tracing::debug;

use super::rate_limiter::RateLimiter;
use super::registry::Registry;

/// Microseconds in a second that go into it in one network. A lookup takes some hundred, and more
/// where a container has chosen many sources.
const TIME_PER_SECOND: usize = 100_000;

/// Looks it up in the namespaces that the registry knows.
#[derive(Debug)]
pub(super) struct SourceFilters {
    registry: Arc<Registry>,
    /// Which namespaces the numbers stand for that a segment's knows others by.
    numbers: BTreeMap<i32, NamespaceId>,
    rate_limiter: RateLimiter,
}

impl SourceFilters {
    pub(super) fn new(registry: Arc<Registry>) -> Self {
        Self { registry, numbers: BTreeMap::new(), rate_limiter: RateLimiter::new(TIME_PER_SECOND) }
    }

    /// The sources that are wanted at this end of a veth, by their group; nothing, if it is in no
    /// container known, cannot be looked up, or too much time went into it.
    pub(super) fn at(
        &mut self,
        end: Peer,
        route: &mut Route,
    ) -> BTreeMap<IpAddr, BTreeSet<IpAddr>> {
        if self.rate_limiter.is_used_up() {
            return BTreeMap::new();
        }
        let begin = Instant::now();
        let chosen = self.look_up(end, route);
        self.rate_limiter
            .use_up(usize::try_from(begin.elapsed().as_micros()).unwrap_or(usize::MAX));
        // A container can make that of itself.
        chosen
            .inspect_err(|error| debug!("joins have to wait for their reports: {error}"))
            .unwrap_or_default()
    }

    fn look_up(
        &mut self,
        end: Peer,
        route: &mut Route,
    ) -> Result<BTreeMap<IpAddr, BTreeSet<IpAddr>>, Error> {
        let Some(sandbox) =
            end.namespace.map(|number| self.numbered(number, route)).transpose()?.flatten()
        else {
            return Ok(BTreeMap::new());
        };
        let chosen = sandbox.chosen_sources()?.into_iter();
        Ok(chosen
            .filter(|((index, _), _)| *index == end.index)
            .map(|((_, group), sources)| (group, sources))
            .collect())
    }

    fn numbered(&mut self, number: i32, route: &mut Route) -> Result<Option<Namespace>, Error> {
        let sandboxes = self.registry.sandboxes();
        let known = self
            .numbers
            .get(&number)
            .and_then(|id| sandboxes.iter().find(|sandbox| sandbox.id() == *id));
        // Numbers are used again.
        if let Some(known) = known
            && route.namespace_number(known)? == Some(number)
        {
            return Ok(Some(known.clone()));
        }
        self.numbers.clear();
        for sandbox in &*sandboxes {
            if let Some(number) = route.namespace_number(sandbox)? {
                self.numbers.insert(number, sandbox.id());
            }
        }
        let id = self.numbers.get(&number);
        Ok(sandboxes.iter().find(|sandbox| Some(&sandbox.id()) == id).cloned())
    }
}
