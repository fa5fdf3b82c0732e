//! Reports of IGMP and MLD to multicast routers among this host's containers, of members on other
//! hosts: which, when, to whom. Pure: the caller has the clock and the sockets.
//!
//! The hosts behind the tunnel are one host of the protocol for these routers (RFC 3376, section 5;
//! RFC 3810, section 6): it answers queries within their time, tells of changes at once, and speaks
//! the version that the routers query with. Its reports go to router ports alone, past the bridge,
//! so that nobody takes them for those of a member here.

mod record;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

pub use record::{Record, RecordKind};

use super::SourceFilter;
use crate::limits::QUESTIONS_MAX;

/// Groups that are reported at once to a port; the rest follows in steps.
const GROUPS_AT_ONCE: usize = 100;
/// The least time between two steps.
const STEP_MIN: Duration = Duration::from_millis(10);
/// How long a report of everything takes at the most: that nobody asked for, or that may take
/// hours.
const WALK_MAX: Duration = Duration::from_secs(5);
/// How often everything is reported though nobody asks, as to routers that leave it to the bridge
/// to ask: the query interval (RFC 3376, section 8.2).
const REFRESH: Duration = Duration::from_secs(125);
/// How long a query of an older version counts: twice the query interval, and the time to answer
/// (RFC 3376, section 8.12).
const OLDER_PRESENT: Duration = Duration::from_secs(260);
/// How often a change is told, as a router can miss a report (RFC 3376, section 8.1), and how long
/// after the first time.
const TIMES_TOLD: u8 = 2;
const TOLD_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Which version of IGMP or MLD is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// IGMPv1: nobody says that it leaves.
    First,
    /// IGMPv2, MLDv1: no sources.
    Second,
    /// IGMPv3, MLDv2.
    Third,
}

/// A router's query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// That of the router.
    pub version: Version,
    /// The group that is asked about; `None` for all.
    pub group: Option<IpAddr>,
    /// The sources of it that are asked about; none for all.
    pub sources: BTreeSet<IpAddr>,
    /// How long the answer may take.
    pub within: Duration,
}

/// What is to be sent to one port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Index of the port.
    pub port: u32,
    /// How to say it; of versions before the third each record is a message.
    pub version: Version,
    /// What to say.
    pub records: Vec<Record>,
}

/// A report of everything to one port, in steps.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Walk {
    /// When the next step is due.
    at: Duration,
    /// How long after it the one after that.
    step: Duration,
    /// The last group that was reported. It goes on behind it, and after the last group with the
    /// first.
    behind: Option<IpAddr>,
    /// Groups that are left of it; with none it begins again.
    left: usize,
}

/// A change that is being told.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Change {
    /// What routers know.
    before: Option<SourceFilter>,
    at: Duration,
    times_left: u8,
}

/// The reports of one network, of one address family. Times are since an instant of the caller's
/// choice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reports {
    members: Arc<BTreeMap<IpAddr, SourceFilter>>,
    /// By port.
    routers: BTreeMap<u32, Walk>,
    changes: BTreeMap<IpAddr, Change>,
    /// What is to be answered, with the sources that were asked about; `None` for all.
    asked: BTreeMap<IpAddr, Option<BTreeSet<IpAddr>>>,
    /// Until when queries of the first and of the second version count.
    older_until: [Duration; 2],
}

impl Reports {
    /// Takes in which ports have routers. A new one is told everything.
    pub fn set_routers(&mut self, routers: &BTreeSet<u32>, now: Duration) {
        self.routers.retain(|port, _| routers.contains(port));
        for port in routers {
            let begin = || Walk { at: now, step: Duration::ZERO, behind: None, left: 0 };
            self.routers.entry(*port).or_insert_with(begin);
        }
        if self.routers.is_empty() {
            *self = Self { members: std::mem::take(&mut self.members), ..Self::default() };
        }
    }

    /// Takes in what the members on other hosts listen to, all of this address family.
    pub fn set_members(&mut self, members: Arc<BTreeMap<IpAddr, SourceFilter>>, now: Duration) {
        let before = std::mem::replace(&mut self.members, members);
        if self.routers.is_empty() {
            return;
        }
        let differs = |group: &&IpAddr| before.get(*group) != self.members.get(*group);
        for group in before.keys().chain(self.members.keys()).filter(differs) {
            // Of one that is not told yet, routers know what was before it.
            let untold =
                self.changes.remove(group).filter(|change| change.times_left == TIMES_TOLD);
            let before = untold.map_or_else(|| before.get(group).cloned(), |change| change.before);
            self.changes.insert(*group, Change { before, at: now, times_left: TIMES_TOLD });
        }
    }

    /// Takes in a query that came from one of the ports.
    pub fn hear(&mut self, query: Query, now: Duration) {
        let [first, second] = &mut self.older_until;
        match query.version {
            Version::First => *first = now + OLDER_PRESENT,
            Version::Second => *second = now + OLDER_PRESENT,
            Version::Third => {}
        }
        match query.group {
            Some(group) if self.asked.len() < QUESTIONS_MAX || self.asked.contains_key(&group) => {
                if !self.members.contains_key(&group) {
                    return;
                }
                let sources = (!query.sources.is_empty()).then_some(query.sources);
                let asked = self.asked.entry(group).or_insert_with(|| Some(BTreeSet::new()));
                *asked = asked.take().zip(sources).map(|(asked, sources)| &asked | &sources);
            }
            // Who asks about too many is told everything.
            _ => {
                let within = (query.within / 2).min(WALK_MAX);
                self.routers
                    .values_mut()
                    .for_each(|walk| walk.begin(self.members.len(), within, now));
            }
        }
    }

    /// The version that routers understand by now.
    pub fn version(&self, now: Duration) -> Version {
        match self.older_until {
            [first, _] if now < first => Version::First,
            [_, second] if now < second => Version::Second,
            _ => Version::Third,
        }
    }

    /// When something is due next; `None` if nothing is.
    pub fn wake(&self) -> Option<Duration> {
        if !self.asked.is_empty() {
            return Some(Duration::ZERO);
        }
        let walks = self.routers.values().map(|walk| walk.at);
        walks.chain(self.changes.values().map(|change| change.at)).min()
    }

    /// What is to be sent now. A report of an older version can keep a member from reporting (RFC
    /// 2236, section 3; RFC 2710, section 4), so a port that `is_member` of a group by itself is
    /// not sent one: its own says the same.
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
        let asked = std::mem::take(&mut self.asked).into_iter();
        let answers = asked.filter_map(|(group, sources)| {
            let filter = self.members.get(&group)?;
            Some(match sources {
                Some(sources) => record::of_sources(group, filter, &sources),
                None => record::current(group, filter),
            })
        });
        answers.flatten().collect()
    }

    /// The changes that are due, as many as are told at once.
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
            change.at = now + TOLD_AGAIN_AFTER;
            if change.times_left == 0 {
                self.changes.remove(&group);
            }
        }
        records
    }
}

impl Walk {
    /// Has it report everything, from where it is, within this time. It goes on with what it is
    /// about if it is: whoever asks time and again is told all the same.
    fn begin(&mut self, groups: usize, within: Duration, now: Duration) {
        let was_under_way = self.left > 0;
        self.left = groups;
        self.step = step(groups, within);
        self.at = if was_under_way { self.at.min(now + self.step) } else { now };
    }

    /// Makes the next step.
    fn proceed(&mut self, members: &BTreeMap<IpAddr, SourceFilter>, now: Duration) -> Vec<Record> {
        if self.left == 0 {
            self.left = members.len();
            self.step = step(members.len(), WALK_MAX);
        }
        let from = self.behind.map_or(Bound::Unbounded, Bound::Excluded);
        let upto = self.behind.map_or(Bound::Unbounded, Bound::Included);
        let rest = members.range((from, Bound::Unbounded));
        let first = members.range((Bound::Unbounded, upto)).filter(|_| self.behind.is_some());
        let next: Vec<_> = rest.chain(first).take(self.left.min(GROUPS_AT_ONCE)).collect();
        self.left = self.left.saturating_sub(next.len());
        self.behind = next.last().map(|(group, _)| **group).or(self.behind);
        // Where there are fewer now than it was to report, it is done.
        if next.len() < GROUPS_AT_ONCE {
            self.left = 0;
        }
        self.at = now + if self.left == 0 { REFRESH } else { self.step };
        next.into_iter().flat_map(|(group, filter)| record::current(*group, filter)).collect()
    }
}

/// The time between the steps of a report of so many groups within this time.
fn step(groups: usize, within: Duration) -> Duration {
    let steps = u32::try_from(groups.div_ceil(GROUPS_AT_ONCE)).unwrap_or(u32::MAX);
    (within / steps.max(1)).max(STEP_MIN)
}
