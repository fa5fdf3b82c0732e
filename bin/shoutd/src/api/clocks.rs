//! The clocks of the other hosts, for `shoutdctl doctor`.

use std::time::Instant;

use futures::future::join_all;
use shoutd_core::doctor::ClockFacts;

use crate::api::views::{PEER_DEADLINE, Views};
use crate::app::clock::now;

/// Path at which peers ask for this host's time, in milliseconds since 1970.
pub const CLOCK: &str = "/v1/clock";

/// This host's time, in milliseconds since 1970.
pub fn milliseconds() -> u64 {
    now().as_millis().try_into().unwrap_or(u64::MAX)
}

impl Views {
    /// The clocks of the hosts that answer.
    pub async fn clocks(&self) -> Vec<ClockFacts> {
        let (cluster, me) = (self.services.agreement.cluster(), self.services.agreement.me);
        let others = cluster.hosts.iter().filter(|(id, _)| **id != me);
        let asked = others.map(async |(id, host)| {
            let (sent, begin) = (milliseconds(), Instant::now());
            let peers = &self.services.peers;
            let told = peers.call_host::<_, u64>(*id, host.address, CLOCK, &(), PEER_DEADLINE);
            let told = told.await.ok()?;
            let half = u64::try_from(begin.elapsed().as_millis() / 2).ok()?;
            // A peer may tell any time.
            let ahead = i128::from(told) - i128::from(sent) - i128::from(half);
            let ahead = i64::try_from(ahead).unwrap_or(i64::MAX);
            Some(ClockFacts { name: host.name.clone(), ahead, uncertain: half })
        });
        join_all(asked).await.into_iter().flatten().collect()
    }
}
