//! Asking containers which groups they want where a bridge leaves that to another.
//!
//! A bridge is silent while somebody else queries behind it (`br_multicast_query_received`), as multicast routers in containers do, and goes by what is answered to him. A container can query so that nobody answers in time: with response times of
//! hours, or so that others do not hear it. Then memberships run out, and receivers of its host hear nothing any more. So where another asks, shoutd asks as well, as often as the bridge would, out of each port by itself: past the bridge, which
//! would take it for one more that queries, and leave to it whatever there is to ask of those who leave.

use std::time::{Duration, Instant};

use shoutd_netlink::{Error, Namespace, Questioner, Route};

/// Of whatever interval a bridge has, how often it is asked at the most.
const INTERVAL_MIN: Duration = Duration::from_secs(1);

/// What is asked in one network.
#[derive(Debug)]
pub(super) struct Queries {
    namespace: Namespace,
    questioner: Option<Questioner>,
    next: Instant,
}

impl Queries {
    pub(super) fn new(namespace: &Namespace) -> Self {
        Self { namespace: namespace.clone(), questioner: None, next: Instant::now() }
    }

    /// Asks behind these ports if it is time to, and another than the bridge does; if it is not known, too. Whom one question does not reach, the next will: a membership lasts for several.
    pub(super) fn follow(
        &mut self,
        route: &mut Route,
        bridge: u32,
        ports: impl Iterator<Item = u32>,
    ) -> Result<(), Error> {
        if Instant::now() < self.next {
            return Ok(());
        }
        self.next = Instant::now() + INTERVAL_MIN;
        let Some(querying) = route.querying(bridge)? else {
            return Ok(());
        };
        self.next = Instant::now() + querying.interval.max(INTERVAL_MIN);
        if querying.is_by_another == Some(false) {
            self.questioner = None;
            return Ok(());
        }
        let questioner = match self.questioner.take() {
            Some(questioner) => questioner,
            None => Questioner::open(&self.namespace)?,
        };
        let questioner = self.questioner.insert(questioner);
        ports.map(|port| questioner.ask_for_all(port, querying.response)).fold(Ok(()), Result::and)
    }
}
