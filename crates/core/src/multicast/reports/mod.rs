//! IGMP and MLD reports of remote members, sent to multicast routers among this host's containers.
//! It decides what to report, when, and to which port. It is pure: the caller has the clock and the
//! sockets.
//!
//! To these routers, all remote members together are one host of the protocol (RFC 3376, section 5;
//! RFC 3810, section 6). It answers queries in time, reports changes at once, and uses the version
//! with which the routers query. Its reports go only to router ports and bypass the bridge, so that
//! the bridge does not take them for reports of local members.

mod record;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

pub use record::{Record, RecordKind};

use super::SourceFilter;
use crate::limits::QUESTIONS_MAX;

/// Groups that are reported to a port at once; the rest follows in steps.
const GROUPS_AT_ONCE: usize = 100;
/// Minimum time between two steps.
const STEP_MIN: Duration = Duration::from_millis(10);
/// Maximum duration of a report of all groups. One that no query asked for takes this long. One
/// that answers a query takes half of the maximum response time, which may be hours, but no longer
/// than this.
const WALK_MAX: Duration = Duration::from_secs(5);
/// How often all groups are reported without a query, for routers that leave querying to the
/// bridge: the query interval (RFC 3376, section 8.2).
const REFRESH: Duration = Duration::from_secs(125);
/// How long a query of an older version counts: twice the query interval plus the maximum response
/// time (RFC 3376, section 8.12).
const OLDER_PRESENT: Duration = Duration::from_secs(260);
/// How many times a change is reported, because a router can miss a report (RFC 3376, section 8.1).
const ROBUSTNESS: u8 = 2;
/// The interval between these reports (RFC 3376, section 8.11).
const UNSOLICITED_REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// A version of IGMP or MLD.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// IGMPv1: there are no leave messages.
    First,
    /// IGMPv2, MLDv1: there are no sources.
    Second,
    /// IGMPv3, MLDv2.
    Third,
}

/// A router's query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// The version of the query.
    pub version: Version,
    /// The group of a group-specific query; `None` in a general query.
    pub group: Option<IpAddr>,
    /// The sources of a group-and-source-specific query; otherwise empty.
    pub sources: BTreeSet<IpAddr>,
    /// The maximum response time.
    pub within: Duration,
}

/// A report to send to one port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The port's interface index.
    pub port: u32,
    /// The protocol version. Before version 3, each record is a message of its own.
    pub version: Version,
    /// The records.
    pub records: Vec<Record>,
}

/// A report of all groups to one port, in steps.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Walk {
    /// When the next step is due.
    at: Duration,
    /// The time between steps.
    step: Duration,
    /// The last group that was reported. The walk continues after it, and wraps around.
    after: Option<IpAddr>,
    /// The number of groups that are left. At 0 the next walk begins.
    left: usize,
}

/// A change that is being reported.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Change {
    /// What the routers know.
    before: Option<SourceFilter>,
    at: Duration,
    times_left: u8,
}

/// The reports of one network and address family. Times are since an instant that the caller chose.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reports {
    members: Arc<BTreeMap<IpAddr, SourceFilter>>,
    /// By port.
    routers: BTreeMap<u32, Walk>,
    changes: BTreeMap<IpAddr, Change>,
    /// The groups that were queried, with the queried sources; `None` for all sources.
    queried: BTreeMap<IpAddr, Option<BTreeSet<IpAddr>>>,
    /// Until when queries of version 1 and version 2 count.
    older_until: [Duration; 2],
}

impl Reports {
    /// Sets the ports that have routers. A new one gets a report of all groups.
    pub fn set_routers(&mut self, routers: &BTreeSet<u32>, now: Duration) {
        self.routers.retain(|port, _| routers.contains(port));
        for port in routers {
            let walk = Walk { at: now, step: Duration::ZERO, after: None, left: 0 };
            self.routers.entry(*port).or_insert(walk);
        }
        if self.routers.is_empty() {
            *self = Self { members: std::mem::take(&mut self.members), ..Self::default() };
        }
    }

    /// Sets the remote members, all of this address family.
    pub fn set_members(&mut self, members: Arc<BTreeMap<IpAddr, SourceFilter>>, now: Duration) {
        let before = std::mem::replace(&mut self.members, members);
        if self.routers.is_empty() {
            return;
        }
        for group in before.keys().chain(self.members.keys()) {
            if before.get(group) == self.members.get(group) {
                continue;
            }
            // If an earlier change is still unreported, the routers know the state before that one.
            let unreported =
                self.changes.remove(group).filter(|change| change.times_left == ROBUSTNESS);
            let before =
                unreported.map_or_else(|| before.get(group).cloned(), |change| change.before);
            self.changes.insert(*group, Change { before, at: now, times_left: ROBUSTNESS });
        }
    }

    /// Processes a query from one of the ports.
    pub fn receive_query(&mut self, query: Query, now: Duration) {
        let [first, second] = &mut self.older_until;
        match query.version {
            Version::First => *first = now + OLDER_PRESENT,
            Version::Second => *second = now + OLDER_PRESENT,
            Version::Third => {}
        }
        match query.group {
            Some(group)
                if self.queried.len() < QUESTIONS_MAX || self.queried.contains_key(&group) =>
            {
                if !self.members.contains_key(&group) {
                    return;
                }
                let sources = (!query.sources.is_empty()).then_some(query.sources);
                // Once all sources were queried, the answer covers later lists of sources too.
                let queried = self.queried.entry(group).or_insert_with(|| Some(BTreeSet::new()));
                *queried =
                    queried.take().zip(sources).map(|(queried, sources)| &queried | &sources);
            }
            // A general query, or queries for too many groups: report all.
            _ => {
                let within = (query.within / 2).min(WALK_MAX);
                self.routers
                    .values_mut()
                    .for_each(|walk| walk.begin(self.members.len(), within, now));
            }
        }
    }

    /// The version that the routers understand.
    pub fn version(&self, now: Duration) -> Version {
        match self.older_until {
            [first, _] if now < first => Version::First,
            [_, second] if now < second => Version::Second,
            _ => Version::Third,
        }
    }

    /// When something is due next; `None` if nothing is.
    pub fn wake(&self) -> Option<Duration> {
        if !self.queried.is_empty() {
            return Some(Duration::ZERO);
        }
        let walks = self.routers.values().map(|walk| walk.at);
        walks.chain(self.changes.values().map(|change| change.at)).min()
    }

    /// The reports to send now. Before version 3, a member that hears a report of its group
    /// suppresses its own (RFC 2236, section 3; RFC 2710, section 4). So a port that itself
    /// `is_member` of a group gets no such report: the member's own report tells the router the
    /// same, and the bridge needs it.
    pub fn take(&mut self, now: Duration, is_member: impl Fn(u32, IpAddr) -> bool) -> Vec<Report> {
        let version = self.version(now);
        let mut records: Vec<Record> = self.take_answers();
        records.extend(self.take_changes(now));
        let mut reports = Vec::new();
        for (port, walk) in &mut self.routers {
            let mut records = records.clone();
            if walk.at <= now {
                records.extend(walk.proceed(&self.members, now));
            }
            if version != Version::Third {
                records = record::of_older(records, version);
                records.retain(|record| !is_member(*port, record.group));
            }
            if !records.is_empty() {
                reports.push(Report { port: *port, version, records });
            }
        }
        reports
    }

    fn take_answers(&mut self) -> Vec<Record> {
        let queried = std::mem::take(&mut self.queried).into_iter();
        let answers = queried.filter_map(|(group, sources)| {
            let filter = self.members.get(&group)?;
            Some(match sources {
                Some(sources) => record::of_sources(group, filter, &sources),
                None => record::current(group, filter),
            })
        });
        answers.flatten().collect()
    }

    /// The changes that are due, up to [`GROUPS_AT_ONCE`].
    fn take_changes(&mut self, now: Duration) -> Vec<Record> {
        let due = self.changes.iter().filter(|(_, change)| change.at <= now);
        let due: Vec<IpAddr> = due.map(|(group, _)| *group).take(GROUPS_AT_ONCE).collect();
        let mut records = Vec::new();
        for group in due {
            let Some(change) = self.changes.get_mut(&group) else {
                continue;
            };
            records.extend(record::change(group, change.before.as_ref(), self.members.get(&group)));
            change.times_left -= 1;
            change.at = now + UNSOLICITED_REPORT_INTERVAL;
            if change.times_left == 0 {
                self.changes.remove(&group);
            }
        }
        records
    }
}

impl Walk {
    /// Starts a report of all groups within this time, from the current position. A walk in
    /// progress continues, so that frequent queries cannot keep it from reaching all groups.
    fn begin(&mut self, groups: usize, within: Duration, now: Duration) {
        let was_in_progress = self.left > 0;
        self.left = groups;
        self.step = step(groups, within);
        self.at = if was_in_progress { self.at.min(now + self.step) } else { now };
    }

    /// Makes the next step.
    fn proceed(&mut self, members: &BTreeMap<IpAddr, SourceFilter>, now: Duration) -> Vec<Record> {
        if self.left == 0 {
            self.left = members.len();
            self.step = step(members.len(), WALK_MAX);
        }
        let from = self.after.map_or(Bound::Unbounded, Bound::Excluded);
        let upto = self.after.map_or(Bound::Unbounded, Bound::Included);
        let rest = members.range((from, Bound::Unbounded));
        let first = members.range((Bound::Unbounded, upto)).filter(|_| self.after.is_some());
        let next: Vec<_> = rest.chain(first).take(self.left.min(GROUPS_AT_ONCE)).collect();
        self.left = self.left.saturating_sub(next.len());
        self.after = next.last().map(|(group, _)| **group).or(self.after);
        // There are fewer groups than when the walk began: it is complete.
        if next.len() < GROUPS_AT_ONCE {
            self.left = 0;
        }
        self.at = now + if self.left == 0 { REFRESH } else { self.step };
        next.into_iter().flat_map(|(group, filter)| record::current(*group, filter)).collect()
    }
}

/// The time between steps, for this many groups within this time.
fn step(groups: usize, within: Duration) -> Duration {
    let steps = u32::try_from(groups.div_ceil(GROUPS_AT_ONCE)).unwrap_or(u32::MAX);
    (within / steps.max(1)).max(STEP_MIN)
}
