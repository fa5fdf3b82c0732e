//! Asking containers which groups they want where a bridge does not: where it leaves that to
//! another, and in VLANs.
//!
//! A bridge is silent while somebody else queries behind it (`br_multicast_query_received`), as
//! multicast routers in containers do, and goes by what is answered to him. A container can query
//! so that nobody answers in time: with response times of hours, or so that others do not hear it.
//! Then memberships run out, and receivers of its host hear nothing any more. So where another
//! asks, shoutd asks as well, as often as the bridge would, out of each port by itself: past the
//! bridge, which would take it for one more that queries, and leave to it whatever there is to ask
//! of those who leave.
//!
//! A container may have interfaces of VLANs on the one it was given. The bridge takes what is
//! reported there for memberships of the port, as it does without a tag, but its queries have none,
//! and nobody answers them in a VLAN. So the guard notes where reports come from, and shoutd asks
//! there, and once more at once when a membership ended that a VLAN of the same container may still
//! have.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use shoutd_netlink::{Error, GroupQuerier, IgmpMldFilter, Namespace, Route};

/// Of whatever interval a bridge has, how often it is asked at the most.
const INTERVAL_MIN: Duration = Duration::from_secs(1);

/// VLANs of a network in which is asked, however many reports came from. Who made more of them up
/// is not served in them.
const VLANS_MAX: usize = 1024;

/// How long the answer may take of those who may have lost a membership that they still want.
const SOON: Duration = Duration::from_millis(200);

/// What is asked in one network.
#[derive(Debug)]
pub(super) struct BackupQuerier {
    namespace: Namespace,
    questioner: Option<GroupQuerier>,
    next: Instant,
    /// Where reports came from, when that was last looked up: the port, and the VLAN behind it.
    vlans: BTreeSet<(u32, u16)>,
    next_in_vlans: Instant,
    /// Ports at which memberships ended since.
    ended: BTreeSet<u32>,
    ended_asked_at: Option<Instant>,
}

impl BackupQuerier {
    pub(super) fn new(namespace: &Namespace) -> Self {
        Self {
            namespace: namespace.clone(),
            questioner: None,
            next: Instant::now(),
            vlans: BTreeSet::new(),
            next_in_vlans: Instant::now(),
            ended: BTreeSet::new(),
            ended_asked_at: None,
        }
    }

    /// A membership ended at this port.
    pub(super) fn note_end(&mut self, port: u32) {
        self.ended.insert(port);
    }

    /// Asks in VLANs, if it is time to.
    pub(super) fn follow_vlans(&mut self, route: &mut Route, bridge: u32) -> Result<(), Error> {
        let now = Instant::now();
        if now >= self.next_in_vlans {
            self.next_in_vlans = now + INTERVAL_MIN;
            let Some(querying) = route.querying(bridge)? else {
                return Ok(());
            };
            self.next_in_vlans = now + querying.interval.max(INTERVAL_MIN);
            self.vlans = IgmpMldFilter::open(&self.namespace)?.vlans()?;
            return self.ask_in_vlans(querying.response, |_| true);
        }
        let is_time = self.ended_asked_at.is_none_or(|at| at.elapsed() >= INTERVAL_MIN);
        if self.ended.is_empty() || !is_time {
            return Ok(());
        }
        self.ended_asked_at = Some(now);
        let ended = std::mem::take(&mut self.ended);
        // There may be new ones.
        self.vlans = IgmpMldFilter::open(&self.namespace)?.vlans()?;
        self.ask_in_vlans(SOON, |port| ended.contains(&port))
    }

    fn ask_in_vlans(&self, within: Duration, behind: impl Fn(u32) -> bool) -> Result<(), Error> {
        let vlans: Vec<_> =
            self.vlans.iter().filter(|(port, _)| behind(*port)).take(VLANS_MAX).collect();
        if vlans.is_empty() {
            return Ok(());
        }
        let questioner = GroupQuerier::open(&self.namespace)?;
        // A port may be gone by now.
        let asked = vlans
            .into_iter()
            .map(|(port, vlan)| questioner.ask_for_all(*port, Some(*vlan), within));
        asked.fold(Ok(()), Result::and)
    }

    /// Asks behind these ports if it is time to, and another than the bridge does; if it is not
    /// known, too. Whom one question does not reach, the next will: a membership lasts for several.
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
            None => GroupQuerier::open(&self.namespace)?,
        };
        let questioner = self.questioner.insert(questioner);
        ports
            .map(|port| questioner.ask_for_all(port, None, querying.response))
            .fold(Ok(()), Result::and)
    }
}
