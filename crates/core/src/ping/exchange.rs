//! One host's part in a ping: it sends requests, answers those of other hosts, and counts what
//! arrives.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{AskEchoes, Echoes, Heard, Requests};
use crate::HostId;

/// Stands for the address that a host pings: no host of a cluster.
pub(super) const ADDRESSED: HostId = match HostId::new(u64::MAX) {
    Some(id) => id,
    None => unreachable!(),
};

/// A request or an answer: the content of one frame. Zeros may follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Echo {
    /// The exchange.
    pub session: u64,
    /// The host that sent it.
    pub from: HostId,
    /// In a request, the host that is to answer. In an answer, the host that asked.
    pub to: HostId,
    /// Counts the requests of a host, from 0. An answer has the request's number.
    pub number: u16,
    /// Octets of the request.
    pub size: u16,
    /// Whether it is an answer.
    pub answers: bool,
}

/// One host's part. Times are since its begin.
#[derive(Debug)]
pub struct Exchange {
    me: HostId,
    session: u64,
    requests: Requests,
    /// MTU of the network in octets.
    mtu: u16,
    /// The other hosts. Each answers every n-th request, so that answers are no more than requests.
    others: Vec<HostId>,
    /// When each request was sent.
    sent: Vec<Duration>,
    seen: BTreeMap<HostId, Seen>,
    unsent: Option<String>,
}

#[derive(Debug, Default)]
struct Seen {
    numbers: BTreeSet<u16>,
    answered: BTreeSet<u16>,
    heard: Heard,
}

impl Exchange {
    /// `lead` is the time until the first request, so that all hosts listen.
    pub fn new(me: HostId, asked: &AskEchoes, mtu: u16) -> Self {
        let others: Vec<HostId> = asked.hosts.iter().copied().filter(|host| *host != me).collect();
        let seen = others.iter().map(|host| (*host, Seen::default())).collect();
        let (session, requests) = (asked.session, asked.requests);
        Self { me, session, requests, mtu, others, sent: Vec::new(), seen, unsent: None }
    }

    /// A host's part if it pings an address.
    pub fn with_address(me: HostId, asked: &AskEchoes, mtu: u16) -> Self {
        Self::new(me, &AskEchoes { hosts: [me, ADDRESSED].into(), ..asked.clone() }, mtu)
    }

    /// The address has answered this request.
    pub fn answered(&mut self, number: u16, now: Duration) {
        let (session, size) = (self.session, self.size(number));
        let answer = Echo { session, from: ADDRESSED, to: self.me, number, size, answers: true };
        self.receive(&answer, now);
    }

    /// The random number of the exchange.
    pub fn session(&self) -> u64 {
        self.session
    }

    /// When the next request is due, after the first; `None` if all were sent.
    pub fn next(&self) -> Option<Duration> {
        let number = u16::try_from(self.sent.len()).ok()?;
        let is_due = number < self.requests.count && !self.others.is_empty();
        is_due.then(|| self.requests.interval() * number.into())
    }

    /// The next request.
    pub fn request(&mut self, now: Duration) -> Option<Echo> {
        self.next()?;
        let number = self.sent.len();
        let to = *self.others.get(number % self.others.len())?;
        let number = u16::try_from(number).ok()?;
        self.sent.push(now);
        let size = self.requests.size(number, self.mtu);
        Some(Echo { session: self.session, from: self.me, to, number, size, answers: false })
    }

    /// A request could not be sent.
    pub fn fail(&mut self, why: String) {
        self.unsent.get_or_insert(why);
    }

    /// An echo came. Returns the answer, if this host is to answer. One of another exchange or of
    /// an unknown host is ignored.
    pub fn receive(&mut self, echo: &Echo, now: Duration) -> Option<Echo> {
        let is_number = echo.number < self.requests.count;
        if echo.session != self.session || !is_number {
            return None;
        }
        let seen = self.seen.get_mut(&echo.from)?;
        if echo.answers {
            let sent = self.sent.get(usize::from(echo.number)).filter(|_| echo.to == self.me)?;
            if seen.answered.insert(echo.number) {
                seen.heard.largest_answered = seen.heard.largest_answered.max(echo.size);
                let took = now.saturating_sub(*sent).as_micros();
                seen.heard.round_trips.push(u32::try_from(took).unwrap_or(u32::MAX));
            }
            return None;
        }
        if !seen.numbers.insert(echo.number) {
            seen.heard.duplicates += 1;
            return None;
        }
        seen.heard.requests += 1;
        seen.heard.largest = seen.heard.largest.max(echo.size);
        (echo.to == self.me).then_some(Echo {
            from: self.me,
            to: echo.from,
            answers: true,
            ..*echo
        })
    }

    /// The octets of one of the requests that were sent.
    fn size(&self, number: u16) -> u16 {
        self.requests.size(number, self.mtu)
    }

    /// What was sent and received.
    pub fn finish(self) -> Echoes {
        let heard = self.seen.into_iter().map(|(host, seen)| (host, seen.heard)).collect();
        let sent = u16::try_from(self.sent.len()).unwrap_or(u16::MAX);
        Echoes { sent, mtu: self.mtu, unsent: self.unsent, heard }
    }
}
