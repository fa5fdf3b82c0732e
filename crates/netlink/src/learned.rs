//! Learned entries of FDBs, and flood entries. We read only as much as we need: for each part of a
//! dump the kernel walks the table from its beginning (`br_fdb_dump`, `vxlan_fdb_dump`) while it
//! holds the lock that every change of a device needs. Reading 160,000 entries stops the whole host
//! for seconds.

use std::collections::BTreeMap;
use std::net::IpAddr;

use nix::errno::Errno;
use nix::libc;

use crate::error::Error;
use crate::fdb::{HEADER, NDA_DST, NDA_LLADDR, NDA_MASTER, is_learned, neighbour_header, parse};
use crate::link::Mac;
use crate::route::Route;
use crate::wire::{Attribute, Frame, Message};

/// Flood entries and learned entries found in FDBs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LearnedEntry {
    /// The VTEPs in the flood entries of the VXLAN device; only some of them if not `whole`.
    pub flood: Vec<IpAddr>,
    /// The number of addresses learned from each VTEP, and, as `None`, from the bridge's ports.
    pub sources: BTreeMap<Option<IpAddr>, usize>,
    /// Whether all was read. If not, there are more learned entries than the caller's limit.
    pub whole: bool,
}

/// A learned entry.
#[derive(Debug, Clone, Copy)]
struct Entry {
    /// The VXLAN device or the bridge port.
    device: u32,
    mac: Mac,
    /// The VTEP, in the FDB of a VXLAN device.
    remote: Option<IpAddr>,
}

impl Route {
    /// Reads the FDB of a VXLAN device, and with `bridges` those of all bridges in the namespace,
    /// until more than `learned_max` learned entries were found.
    pub fn learned_entries(
        &mut self,
        tunnel: u32,
        bridges: bool,
        learned_max: usize,
    ) -> Result<LearnedEntry, Error> {
        let mut found = LearnedEntry::default();
        let mut count = 0;
        let device = if bridges { 0 } else { tunnel };
        let message = Message::new(libc::RTM_GETNEIGH, 0, &neighbour_header(device, 0, 0));
        let end = self.socket.dump_while(&message, |frame| {
            found.flood.extend(parse(&frame, tunnel));
            // A bridge's entry behind the VXLAN device repeats one of the device's.
            let counts =
                |entry: &Entry| entry.remote.is_some() || bridges && entry.device != tunnel;
            if let Some(entry) = learned(&frame).filter(counts) {
                *found.sources.entry(entry.remote).or_default() += 1;
                count += 1;
            }
            count <= learned_max
        });
        let end =
            end.map_err(|fault| fault.during(format_args!("list the FDB of device {tunnel}")))?;
        found.whole = end.is_whole;
        Ok(found)
    }

    /// Removes up to `most` learned entries from all FDBs of the namespace. Returns how many.
    pub fn remove_learned(&mut self, most: usize) -> Result<usize, Error> {
        let mut entries = Vec::new();
        let message = Message::new(libc::RTM_GETNEIGH, 0, &neighbour_header(0, 0, 0));
        let read = self.socket.dump_while(&message, |frame| {
            entries.extend(learned(&frame));
            entries.len() < most
        });
        let during = "remove learned MAC addresses";
        read.map_err(|fault| fault.during(during))?;
        let messages: Vec<Message> = entries.iter().map(Entry::removal).collect();
        let refused =
            self.socket.call_each(&messages, |_| false).map_err(|fault| fault.during(during))?;
        // An entry that aged out or lost its device in the meantime is gone as well.
        let failed = refused.into_iter().find(|(_, fault)| {
            !matches!(fault.errno(), Some(Errno::ENOENT | Errno::ENODEV | Errno::EINVAL))
        });
        failed.map_or(Ok(entries.len()), |(_, fault)| Err(fault.during(during)))
    }
}

impl Entry {
    fn removal(&self) -> Message {
        let flags = if self.remote.is_some() { libc::NTF_SELF } else { libc::NTF_MASTER };
        let mut message =
            Message::new(libc::RTM_DELNEIGH, 0, &neighbour_header(self.device, 0, flags));
        message.bytes(NDA_LLADDR, &self.mac);
        if let Some(remote) = self.remote {
            message.ip(NDA_DST, remote);
        }
        message
    }
}

/// The entry that a message is about, if it was learned.
fn learned(frame: &Frame<'_>) -> Option<Entry> {
    let attributes = frame.attributes(HEADER);
    let mac = attributes.find(NDA_LLADDR).filter(|_| is_learned(frame)).and_then(Attribute::mac)?;
    let remote = attributes.find(NDA_DST).and_then(Attribute::ip);
    let is_known = remote.is_some() || attributes.find(NDA_MASTER).is_some();
    is_known.then_some(Entry { device: frame.word(4), mac, remote })
}
