//! The rate limiter for requests of strangers.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::limits::{STRANGER_REQUESTS_IN_ALL, STRANGER_REQUESTS_PER_ADDRESS};

/// Addresses with a bucket of their own. Beyond that the oldest bucket is dropped; the bucket for
/// all addresses still holds.
const ADDRESSES_MAX: usize = 1024;

/// Token buckets for strangers: one per address, and one for all.
#[derive(Debug)]
pub(crate) struct Rate(Mutex<Counts>);

#[derive(Debug)]
struct Counts {
    all: Bucket,
    addresses: HashMap<IpAddr, Bucket>,
}

/// A token bucket, kept as the time at which it is full again.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    full_at: Instant,
}

impl Bucket {
    /// The bucket after one more request; `None` if it is empty.
    fn after_one(self, (burst, interval): (u32, Duration), now: Instant) -> Option<Self> {
        let full_at = self.full_at.max(now) + interval;
        (full_at <= now + interval * burst).then_some(Self { full_at })
    }
}

impl Rate {
    pub fn new() -> Self {
        let all = Bucket { full_at: Instant::now() };
        Self(Mutex::new(Counts { all, addresses: HashMap::new() }))
    }

    /// Counts one more request from this address if the limits allow it; `false` if they do not.
    pub fn admits(&self, address: IpAddr, now: Instant) -> bool {
        let mut counts = self.0.lock();
        let full = Bucket { full_at: now };
        let bucket = counts.addresses.get(&address).copied().unwrap_or(full);
        let bucket = bucket.after_one(STRANGER_REQUESTS_PER_ADDRESS, now);
        // An address over its own limit takes nothing from the bucket for all.
        let Some((bucket, all)) = bucket.zip(counts.all.after_one(STRANGER_REQUESTS_IN_ALL, now))
        else {
            return false;
        };
        counts.all = all;
        if counts.addresses.len() >= ADDRESSES_MAX {
            counts.addresses.retain(|_, bucket| bucket.full_at > now);
        }
        if counts.addresses.len() >= ADDRESSES_MAX {
            let oldest = counts
                .addresses
                .iter()
                .min_by_key(|(_, bucket)| bucket.full_at)
                .map(|(address, _)| *address);
            oldest.map(|oldest| counts.addresses.remove(&oldest));
        }
        counts.addresses.insert(address, bucket);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(rate: &Rate, address: u32, count: u32, now: Instant) -> u32 {
        (0..count).map(|_| u32::from(rate.admits(IpAddr::from(address.to_be_bytes()), now))).sum()
    }

    #[test]
    fn an_address_may_ask_so_often_and_takes_nothing_from_others() {
        let (rate, start) = (Rate::new(), Instant::now());
        let (burst, interval) = STRANGER_REQUESTS_PER_ADDRESS;
        assert_eq!(admitted(&rate, 1, 1000, start), burst);
        assert_eq!(admitted(&rate, 2, 1000, start), burst);
        assert_eq!(admitted(&rate, 1, 10, start + interval), 1);
        assert_eq!(admitted(&rate, 1, 10, start + interval * 4), 3);
        assert_eq!(admitted(&rate, 1, 1000, start + interval * 1000), burst);
    }

    #[test]
    fn all_together_may_ask_so_often_and_memory_has_a_bound() {
        let (rate, start) = (Rate::new(), Instant::now());
        let (burst, interval) = STRANGER_REQUESTS_IN_ALL;
        assert_eq!(flood(&rate, start), burst);
        assert_eq!(flood(&rate, start + interval * 10), 10);
        for round in 0..20 {
            flood(&rate, start + interval * burst * round);
        }
        assert!(rate.0.lock().addresses.len() <= ADDRESSES_MAX);
    }

    /// How many requests of 5000 addresses are admitted.
    fn flood(rate: &Rate, now: Instant) -> u32 {
        (0..5000).map(|address| admitted(rate, address, 1, now)).sum()
    }
}
