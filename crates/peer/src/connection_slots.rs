//! Slots for connections: strangers cannot take them from members, nor one member from another.
//!
//! Every connection starts as a stranger's, and becomes a member's once it has authenticated. When
//! all strangers' slots are taken, the oldest stranger is closed and not the new one. A member
//! needs a few milliseconds to authenticate, so it gets in however many silent connections there
//! are.

use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use shoutd_core::HostId;
use tokio::sync::oneshot;

use crate::limits::{
    CONNECTIONS_MAX, CONNECTIONS_PER_HOST_MAX, STRANGERS_MAX, STRANGERS_PER_ADDRESS_MAX,
};

/// The connection slots of one server.
#[derive(Debug, Default)]
pub(crate) struct ConnectionSlots(Mutex<Taken>);

#[derive(Debug, Default)]
struct Taken {
    /// Oldest first.
    entries: Vec<Entry>,
    next: u64,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    address: IpAddr,
    /// `None` for a stranger.
    host: Option<HostId>,
    /// Dropped to close the connection.
    _open: oneshot::Sender<()>,
}

impl Entry {
    fn is_stranger(&self) -> bool {
        self.host.is_none()
    }
}

impl Taken {
    fn count(&self, select: impl Fn(&Entry) -> bool) -> usize {
        self.entries.iter().filter(|entry| select(entry)).count()
    }

    fn close_oldest(&mut self, select: impl Fn(&Entry) -> bool) {
        let oldest = self.entries.iter().position(select);
        oldest.map(|index| self.entries.remove(index));
    }
}

impl ConnectionSlots {
    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.lock()
    }

    /// A slot for a new connection, and a receiver that resolves when the connection must close.
    pub fn admit(self: &Arc<Self>, address: IpAddr) -> (Slot, oneshot::Receiver<()>) {
        let mut taken = self.taken();
        let from_there = |entry: &Entry| entry.is_stranger() && entry.address == address;
        if taken.count(from_there) >= STRANGERS_PER_ADDRESS_MAX {
            taken.close_oldest(from_there);
        } else if taken.count(Entry::is_stranger) >= STRANGERS_MAX {
            taken.close_oldest(Entry::is_stranger);
        }
        let (open, closed) = oneshot::channel();
        let number = taken.next;
        taken.next += 1;
        taken.entries.push(Entry { number, address, host: None, _open: open });
        (Slot { connection_slots: Arc::clone(self), number }, closed)
    }
}

/// The slot of one connection; dropping it frees the slot.
#[derive(Debug)]
pub(crate) struct Slot {
    connection_slots: Arc<ConnectionSlots>,
    number: u64,
}

impl Slot {
    /// Makes this a member's slot. `false` if members have all their slots, or if this connection
    /// was already told to close.
    pub fn belongs_to(&self, host: HostId) -> bool {
        let mut taken = self.connection_slots.taken();
        if taken.count(|entry| entry.host == Some(host)) >= CONNECTIONS_PER_HOST_MAX {
            // The oldest is likely one that a restart or a partition left behind.
            taken.close_oldest(|entry| entry.host == Some(host));
        } else if taken.count(|entry| !entry.is_stranger()) >= CONNECTIONS_MAX {
            return false;
        }
        let own = taken.entries.iter_mut().find(|entry| entry.number == self.number);
        own.map(|own| own.host = Some(host)).is_some()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.connection_slots.taken().entries.retain(|entry| entry.number != self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: usize) -> IpAddr {
        IpAddr::from(u32::try_from(number).unwrap().to_be_bytes())
    }

    fn host(number: usize) -> HostId {
        HostId::new(number as u64 + 1).unwrap()
    }

    fn is_open(closed: &mut oneshot::Receiver<()>) -> bool {
        closed.try_recv() == Err(oneshot::error::TryRecvError::Empty)
    }

    #[test]
    fn the_oldest_stranger_goes_and_hosts_stay() {
        let connection_slots = Arc::new(ConnectionSlots::default());
        let (member, mut member_closed) = connection_slots.admit(address(1));
        assert!(member.belongs_to(host(1)));
        let mut strangers: Vec<_> =
            (0..=STRANGERS_MAX).map(|number| connection_slots.admit(address(number))).collect();
        let open: Vec<_> = strangers.iter_mut().map(|(_, closed)| is_open(closed)).collect();
        assert!(!open[0] && open[1..].iter().all(|open| *open));
        assert!(!strangers[0].0.belongs_to(host(2)), "it was told to close");
        assert!(strangers[1].0.belongs_to(host(2)));
        assert!(is_open(&mut member_closed));
    }

    #[test]
    fn one_address_takes_only_its_own_slots() {
        let connection_slots = Arc::new(ConnectionSlots::default());
        let (_other, mut other_closed) = connection_slots.admit(address(1));
        let mut flood: Vec<_> = (0..10 * STRANGERS_PER_ADDRESS_MAX)
            .map(|_| connection_slots.admit(address(2)))
            .collect();
        assert!(is_open(&mut other_closed));
        let open = flood.iter_mut().filter_map(|(_, closed)| is_open(closed).then_some(())).count();
        assert_eq!(open, STRANGERS_PER_ADDRESS_MAX);
        drop(flood);
        assert_eq!(connection_slots.taken().entries.len(), 1);
    }

    #[test]
    fn one_host_takes_only_its_own_slots_and_all_slots_are_bounded() {
        let connection_slots = Arc::new(ConnectionSlots::default());
        let mut first = Vec::new();
        for _ in 0..=CONNECTIONS_PER_HOST_MAX {
            let (slot, closed) = connection_slots.admit(address(0));
            assert!(slot.belongs_to(host(0)));
            first.push((slot, closed));
        }
        let open: Vec<_> = first.iter_mut().map(|(_, closed)| is_open(closed)).collect();
        assert!(!open[0] && open[1..].iter().all(|open| *open));
        let rest = CONNECTIONS_MAX - CONNECTIONS_PER_HOST_MAX;
        let mut others = Vec::new();
        for number in 1..=rest + 1 {
            let (slot, closed) = connection_slots.admit(address(number));
            assert_eq!(slot.belongs_to(host(number)), number <= rest, "host {number}");
            others.push((slot, closed));
        }
    }
}
