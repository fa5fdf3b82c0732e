//! Lookup of the sources that containers' sockets select in SSM groups.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use shoutd_netlink::{Error, Namespace, NamespaceId, Peer, Route};
use tracing::debug;

use super::rate_limiter::RateLimiter;
use super::registry::Registry;

/// Microseconds per second spent on lookups in one network. A lookup takes a few hundred, and more
/// if a container has many sources.
const TIME_PER_SECOND: usize = 100_000;

/// Looks up sources in the sandboxes of the registry.
#[derive(Debug)]
pub(super) struct SourceFilters {
    registry: Arc<Registry>,
    /// Other namespaces by the ids that the segment's has for them (`NETNSA_NSID`).
    numbers: BTreeMap<i32, NamespaceId>,
    rate_limiter: RateLimiter,
}

impl SourceFilters {
    pub(super) fn new(registry: Arc<Registry>) -> Self {
        Self { registry, numbers: BTreeMap::new(), rate_limiter: RateLimiter::new(TIME_PER_SECOND) }
    }

    /// The included sources of each group on this container interface. Empty if its container is
    /// unknown, the lookup fails, or the time limit is exceeded.
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
        // A container can cause this.
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
        // Namespace ids are reused.
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
