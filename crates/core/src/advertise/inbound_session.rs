//! The advertisement that one peer sends us.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use super::delta::weight;
use super::{Content, Incarnation, InvalidAdvertisement, Message, PeerState, Reply};
use crate::NetworkId;
use crate::limits::{ADVERTISED_ITEMS_MAX, ADVERTISEMENTS_PER_HOST, HOLD_TIME, SILENCE_MAX};

/// How many earlier incarnations of a peer are remembered, so that a late snapshot of one of them
/// is not applied.
const RETIRED_MAX: usize = 8;

/// The advertisement of one peer, and how far we can rely on it. The caller passes all times, from
/// one monotonic clock.
#[derive(Debug, Clone)]
pub struct InboundSession {
    /// The peer's incarnation and last sequence number; `None` until its first snapshot.
    position: Option<(Incarnation, u64)>,
    /// The content as received so far.
    content: Content,
    /// Whether `content` is complete. If not, the rest follows.
    complete: bool,
    /// The last complete content.
    whole: Content,
    /// Networks that the peer withdrew. The peer has nothing on them, whereas any other network
    /// that is missing from `content` may still arrive.
    withdrawn: BTreeSet<NetworkId>,
    /// Whether the last message was valid, and nothing has suggested since that the peer is gone.
    /// Silence is checked in [`Self::peer_state`].
    trusted: bool,
    /// When the peer last sent a valid message, or when we began to expect one.
    last_received: Duration,
    /// When something last came from the peer through the tunnel.
    tunnelled: Duration,
    /// Whether the hold time has expired.
    expired: bool,
    retired: VecDeque<Incarnation>,
    /// A token bucket, stored as the time at which it will be full.
    full_at: Duration,
    /// Until when the peer was told to wait.
    waits_until: Duration,
    /// Whether the peer sent again before the time it was told to wait for.
    ignores_wait: bool,
}

impl InboundSession {
    /// For a peer that is expected to advertise something.
    pub fn new(now: Duration) -> Self {
        Self {
            position: None,
            content: Content::new(),
            complete: false,
            whole: Content::new(),
            withdrawn: BTreeSet::new(),
            trusted: false,
            last_received: now,
            tunnelled: now,
            expired: false,
            retired: VecDeque::new(),
            full_at: now,
            waits_until: now,
            ignores_wait: false,
        }
    }

    /// Processes a message.
    ///
    /// # Errors
    /// If the message is invalid. The peer is then not in sync.
    pub fn receive(
        &mut self,
        message: &Message,
        now: Duration,
    ) -> Result<Reply, InvalidAdvertisement> {
        if let Some(wait) = self.wait(now) {
            self.ignores_wait = now < self.waits_until;
            self.waits_until = self.waits_until.max(now + Duration::from_millis(wait.into()));
            return Ok(Reply::TooOften { wait });
        }
        self.ignores_wait = false;
        if let Err(invalid) = message.delta.check() {
            self.trusted = false;
            return Err(invalid);
        }
        let position = match self.position {
            Some((incarnation, sequence)) if incarnation == message.incarnation => Some(sequence),
            _ if self.retired.contains(&message.incarnation) => return Ok(Reply::Over),
            _ => None,
        };
        match (position, message.base) {
            // After the hold time there is no content that a delta could apply to. A snapshot with
            // an old sequence number was delayed on the way.
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
        self.last_received = now;
        self.trusted = true;
        self.expired = false;
        Ok(Reply::has(message.sequence))
    }

    fn take(&mut self, message: &Message, is_snapshot: bool) -> Result<(), InvalidAdvertisement> {
        let mut content = if is_snapshot { Content::new() } else { self.content.clone() };
        message.delta.apply(&mut content);
        let items = weight(&content);
        // In a change that comes in parts, additions precede the removals that make room for them.
        let most = if message.complete { ADVERTISED_ITEMS_MAX } else { 2 * ADVERTISED_ITEMS_MAX };
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

    /// How long the peer must wait, in milliseconds, if it exceeds its rate limit.
    fn wait(&mut self, now: Duration) -> Option<u32> {
        let (burst, interval) = ADVERTISEMENTS_PER_HOST;
        let full_at = self.full_at.max(now) + interval;
        let Some(wait) = full_at.checked_sub(now + interval * burst).filter(|wait| !wait.is_zero())
        else {
            self.full_at = full_at;
            return None;
        };
        u32::try_from(wait.as_millis()).ok().map(|wait| wait + 1)
    }

    /// Whether the peer does not wait although it was told to. Being told to wait is not a fault:
    /// when many containers start at once, a host exceeds its rate limit, and its next message
    /// includes the changes made in the meantime.
    pub fn ignores_wait(&self) -> bool {
        self.ignores_wait
    }

    /// Marks the peer as not in sync until its next message, because it may be gone.
    pub fn mark_not_in_sync(&mut self) {
        self.trusted = false;
    }

    /// Something came from the peer through the tunnel: its containers may still receive, though
    /// its messages do not arrive. So its hold time begins again.
    pub fn note_tunnelled(&mut self, now: Duration) {
        self.tunnelled = now;
    }

    /// When the hold time expires.
    fn held_until(&self) -> Duration {
        self.last_received.max(self.tunnelled) + HOLD_TIME
    }

    /// Withdraws the peer's advertisement if its hold time has expired.
    pub fn expire(&mut self, now: Duration) {
        if self.expired || now < self.held_until() {
            return;
        }
        let (position, retired) = (self.position, std::mem::take(&mut self.retired));
        *self = Self {
            position,
            retired,
            last_received: self.last_received,
            expired: true,
            full_at: self.full_at,
            ..Self::new(now)
        };
    }

    /// Forgets the withdrawals of networks that the peer does not have by agreed state either.
    pub fn prune(&mut self, agreed: Option<&BTreeSet<NetworkId>>) {
        self.withdrawn.retain(|network| agreed.is_some_and(|agreed| agreed.contains(network)));
    }

    /// The next time after `after` at which the state changes if the peer stays silent; `None` if
    /// it does not.
    pub fn wake(&self, after: Duration) -> Option<Duration> {
        let times = [self.last_received + SILENCE_MAX, self.held_until()];
        times.into_iter().find(|time| *time > after).filter(|_| !self.expired)
    }

    /// The peer's state. `agreed` are the networks that the peer has by agreed state and that this
    /// host has too. The peer has nothing on those that it withdrew. Once the hold time has
    /// expired, it counts as in sync and as having nothing on any of them.
    pub fn peer_state(&self, agreed: Option<&BTreeSet<NetworkId>>, now: Duration) -> PeerState {
        let is_fresh = self.trusted && self.complete && now < self.last_received + SILENCE_MAX;
        let mut networks = self.whole.clone();
        for network in agreed.into_iter().flatten() {
            if self.expired || self.withdrawn.contains(network) {
                networks.entry(network.clone()).or_default();
            }
        }
        PeerState { in_sync: self.expired || is_fresh, networks }
    }

    /// When the peer's last valid message arrived; `None` if there was none.
    pub fn last_received(&self) -> Option<Duration> {
        self.position.map(|_| self.last_received)
    }

    /// The peer's incarnation and sequence number, as far as we know.
    pub fn position(&self) -> Option<(Incarnation, u64)> {
        self.position
    }

    /// Whether we have received all that the peer had at the time of its last message.
    pub fn is_whole(&self) -> bool {
        self.complete
    }

    /// Whether the peer has advertised nothing.
    pub fn is_empty(&self) -> bool {
        self.content.is_empty() && self.whole.is_empty()
    }
}
