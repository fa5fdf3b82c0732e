//! What one peer announced.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use super::delta::weight;
use super::{Content, Incarnation, InvalidAdvertisement, Message, PeerState, Reply};
use crate::NetworkId;
use crate::limits::{ANNOUNCED_ITEMS_MAX, ANNOUNCEMENTS_PER_HOST, HOLD_TIME, SILENCE_MAX};

/// Incarnations of a peer that are remembered as over: a snapshot of one of them that comes late is
/// not taken for news.
const RETIRED_MAX: usize = 8;

/// What one peer announced, and how far it can be relied upon. All times are on one clock of the
/// caller's that never goes back.
#[derive(Debug, Clone)]
pub struct InboundSession {
    /// Where the peer is: which incarnation, and which number; `None` until its first snapshot.
    position: Option<(Incarnation, u64)>,
    /// What it has, as far as it was told.
    content: Content,
    /// Whether that is all; if not, the rest is on its way.
    complete: bool,
    /// What it last had in full.
    whole: Content,
    /// Networks that it said it does not have any more, so that their absence is known to be no
    /// delay.
    withdrawn: BTreeSet<NetworkId>,
    /// Whether there is no reason to doubt it but time.
    trusted: bool,
    /// When it was last heard, or first expected.
    heard: Duration,
    /// Whether the hold time is over.
    expired: bool,
    retired: VecDeque<Incarnation>,
    /// A token bucket, kept as the time at which it is full again.
    full_at: Duration,
    /// Until when it was told to wait.
    waits_until: Duration,
    /// Whether it did not wait when it was last told to.
    is_impatient: bool,
}

impl InboundSession {
    /// For a peer that is expected to announce something.
    pub fn new(now: Duration) -> Self {
        Self {
            position: None,
            content: Content::new(),
            complete: false,
            whole: Content::new(),
            withdrawn: BTreeSet::new(),
            trusted: false,
            heard: now,
            expired: false,
            retired: VecDeque::new(),
            full_at: now,
            waits_until: now,
            is_impatient: false,
        }
    }

    /// Takes a message.
    ///
    /// # Errors
    /// If it is none that a host would send. The peer is not in sync then.
    pub fn hear(
        &mut self,
        message: &Message,
        now: Duration,
    ) -> Result<Reply, InvalidAdvertisement> {
        if let Some(wait) = self.wait(now) {
            self.is_impatient = now < self.waits_until;
            self.waits_until = self.waits_until.max(now + Duration::from_millis(wait.into()));
            return Ok(Reply::TooOften { wait });
        }
        self.is_impatient = false;
        if let Err(unsound) = message.delta.check() {
            self.trusted = false;
            return Err(unsound);
        }
        let position = match self.position {
            Some((incarnation, sequence)) if incarnation == message.incarnation => Some(sequence),
            _ if self.retired.contains(&message.incarnation) => return Ok(Reply::Over),
            _ => None,
        };
        match (position, message.base) {
            // Nothing is left of what a change could be a change to. A snapshot that comes so late
            // is an old one.
            (has, base)
                if self.expired
                    && (base.is_some() || has.is_some_and(|has| message.sequence <= has)) =>
            {
                return Ok(Reply::WantSnapshot);
            }
            (Some(has), _) if message.sequence < has => return Ok(Reply::has(has)),
            (Some(has), _) if message.sequence == has => {}
            (Some(has), Some(base)) if has == base => self.take(message, false)?,
            (_, None) => self.take(message, true)?,
            (Some(_), Some(_)) => {
                self.trusted = false;
                return Ok(Reply::WantSnapshot);
            }
            (None, Some(_)) => return Ok(Reply::WantSnapshot),
        }
        self.heard = now;
        self.trusted = true;
        self.expired = false;
        Ok(Reply::has(message.sequence))
    }

    fn take(&mut self, message: &Message, is_snapshot: bool) -> Result<(), InvalidAdvertisement> {
        let mut content = if is_snapshot { Content::new() } else { self.content.clone() };
        message.delta.apply(&mut content);
        let items = weight(&content);
        // Of a change that comes in parts what is new comes first, beside what it is to replace.
        let most = if message.complete { ANNOUNCED_ITEMS_MAX } else { 2 * ANNOUNCED_ITEMS_MAX };
        if items > most {
            self.trusted = false;
            return Err(InvalidAdvertisement::TooMuch { items, most });
        }
        if let Some((before, _)) =
            self.position.filter(|(before, _)| *before != message.incarnation)
        {
            self.retired.truncate(RETIRED_MAX - 1);
            self.retired.push_front(before);
        }
        self.position = Some((message.incarnation, message.sequence));
        self.complete = message.complete;
        self.withdrawn.extend(message.delta.withdrawn().cloned());
        self.withdrawn.retain(|network| !content.contains_key(network));
        self.content = content;
        if self.complete {
            self.whole = self.content.clone();
        }
        Ok(())
    }

    /// How long the peer has to wait, in milliseconds, if it announces too often.
    fn wait(&mut self, now: Duration) -> Option<u32> {
        let (burst, interval) = ANNOUNCEMENTS_PER_HOST;
        let full_at = self.full_at.max(now) + interval;
        let Some(wait) = full_at.checked_sub(now + interval * burst).filter(|wait| !wait.is_zero())
        else {
            self.full_at = full_at;
            return None;
        };
        u32::try_from(wait.as_millis()).ok().map(|wait| wait + 1)
    }

    /// Whether the peer announces although it was told to wait. To be told so is no fault: many
    /// containers that start at once lead there, and what changes meanwhile goes along.
    pub fn is_impatient(&self) -> bool {
        self.is_impatient
    }

    /// The peer may be gone: it counts as not in sync until it is heard again.
    pub fn doubt(&mut self) {
        self.trusted = false;
    }

    /// Withdraws what it announced, if it has been silent for too long.
    pub fn expire(&mut self, now: Duration) {
        if self.expired || now < self.heard + HOLD_TIME {
            return;
        }
        let (position, retired) = (self.position, std::mem::take(&mut self.retired));
        *self = Self {
            position,
            retired,
            heard: self.heard,
            expired: true,
            full_at: self.full_at,
            ..Self::new(now)
        };
    }

    /// Forgets that the peer said it does not have networks any more which it is not agreed to have
    /// either.
    pub fn prune(&mut self, agreed: Option<&BTreeSet<NetworkId>>) {
        self.withdrawn.retain(|network| agreed.is_some_and(|agreed| agreed.contains(network)));
    }

    /// When, without a word from it, its state changes next after this time; `None` if never.
    pub fn wake(&self, after: Duration) -> Option<Duration> {
        let times = [self.heard + SILENCE_MAX, self.heard + HOLD_TIME];
        times.into_iter().find(|time| *time > after).filter(|_| !self.expired)
    }

    /// What is to be made of it. `agreed` are the networks that it is agreed to have and this host
    /// has too: of those that it does not have any more, as it said itself or because its
    /// announcements were withdrawn after the hold time, it is known to have nothing.
    pub fn heard(&self, agreed: Option<&BTreeSet<NetworkId>>, now: Duration) -> PeerState {
        let is_fresh = self.trusted && self.complete && now < self.heard + SILENCE_MAX;
        let mut networks = self.whole.clone();
        for network in agreed.into_iter().flatten() {
            if self.expired || self.withdrawn.contains(network) {
                networks.entry(network.clone()).or_default();
            }
        }
        PeerState { in_sync: self.expired || is_fresh, networks }
    }

    /// When it was last heard; `None` if never.
    pub fn last_heard(&self) -> Option<Duration> {
        self.position.map(|_| self.heard)
    }

    /// Where the peer is, as far as this host knows: which of its incarnations, and which number.
    pub fn position(&self) -> Option<(Incarnation, u64)> {
        self.position
    }

    /// Whether all was heard that the peer had to say at the time.
    pub fn is_whole(&self) -> bool {
        self.complete
    }

    /// Whether it announces nothing that would be missed.
    pub fn is_empty(&self) -> bool {
        self.content.is_empty() && self.whole.is_empty()
    }
}
