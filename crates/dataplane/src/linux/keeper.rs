//! Keeps the packets that are counted, for a capture of all places.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use shoutd_core::explain::{Kept, KeptAt, KeptPacket};
use shoutd_core::limits::{KEPT_BYTES_MAX, KEPT_PACKETS_MAX};

use super::counts::Counting;

/// Reads packets from the counters of all places, up to a limit. What comes later is counted only.
#[derive(Debug)]
pub struct Keeper {
    most: usize,
    octets_left: usize,
    kept: BTreeMap<KeptAt, Vec<KeptPacket>>,
}

impl Keeper {
    /// Keeps at most this many packets of each place.
    pub fn new(most: usize) -> Self {
        let most = most.min(KEPT_PACKETS_MAX);
        Self { most, octets_left: KEPT_BYTES_MAX, kept: BTreeMap::new() }
    }

    /// Reads what has come. The kernel's buffers hold some hundred packets of each place.
    pub fn read(&mut self, counting: &Counting) {
        for (at, outbound, counter) in counting.places() {
            let packets = self.kept.entry(at).or_default();
            for packet in counter.kept(self.most.saturating_sub(packets.len())) {
                let Some(left) = self.octets_left.checked_sub(packet.octets.len()) else { return };
                self.octets_left = left;
                packets.push(KeptPacket {
                    at: u64::try_from(packet.at.as_nanos()).unwrap_or_default(),
                    outbound,
                    length: packet.length,
                    octets: STANDARD.encode(&packet.octets),
                });
            }
        }
    }

    /// What was kept, by place and time.
    pub fn finish(self) -> Vec<Kept> {
        let kept = self.kept.into_iter().filter(|(_, packets)| !packets.is_empty());
        let kept = kept.map(|(at, mut packets)| {
            packets.sort_by_key(|packet| packet.at);
            Kept { at, packets }
        });
        kept.collect()
    }
}
