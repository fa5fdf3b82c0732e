//! What bridges and VXLAN devices learnt from traffic, and the all-zero entries among it: read only
//! as far as there is a use for it. The kernel walks a table from its beginning for each part of a
//! dump (`br_fdb_dump`, `vxlan_fdb_dump`) with the lock held that every change of a device needs,
//! so that to read 160,000 entries stops the whole host for seconds.

use std::collections::BTreeMap;
use std::net::IpAddr;

use nix::errno::Errno;
use nix::libc;

use crate::error::Error;
use crate::fdb::{HEADER, NDA_DST, NDA_LLADDR, NDA_MASTER, is_learned, neighbour_header, parse};
use crate::link::Mac;
use crate::route::Route;
use crate::wire::{Attribute, Frame, Message};

/// What was found in forwarding tables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LearnedEntry {
    /// The VTEPs in the all-zero entries of the VXLAN device; some of them only, if it is not
    /// `whole`.
    pub flood: Vec<IpAddr>,
    /// How many addresses were learnt from each VTEP; from other ports of the bridge where this is
    /// `None`.
    pub sources: BTreeMap<Option<IpAddr>, usize>,
    /// Whether all was read; else there are more that were learnt than were asked for.
    pub whole: bool,
}

/// An entry that was learnt.
#[derive(Debug, Clone, Copy)]
struct Entry {
    /// The VXLAN device, or the port of the bridge.
    device: u32,
    mac: Mac,
    /// In a VXLAN device's table.
    remote: Option<IpAddr>,
}

impl Route {
    /// Reads the forwarding table of a VXLAN device, and those of all bridges of the namespace if
    /// `bridges` says so, until more than this many entries were found that were learnt.
    pub fn learnt(
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
            // What a bridge learnt behind the VXLAN device, that has learnt too.
            let counts =
                |entry: &Entry| entry.remote.is_some() || bridges && entry.device != tunnel;
            if let Some(entry) = learned(&frame).filter(counts) {
                *found.sources.entry(entry.remote).or_default() += 1;
                count += 1;
            }
            count <= learned_max
        });
        let end = end.map_err(|fault| {
            fault.during(format_args!("list the forwarding table of device {tunnel}"))
        })?;
        found.whole = end.is_whole;
        Ok(found)
    }

    /// Takes entries that were learnt, but not more than this many, out of all forwarding tables of
    /// the namespace. Returns how many there were.
    pub fn forget_learnt(&mut self, most: usize) -> Result<usize, Error> {
        let mut entries = Vec::new();
        let message = Message::new(libc::RTM_GETNEIGH, 0, &neighbour_header(0, 0, 0));
        let read = self.socket.dump_while(&message, |frame| {
            entries.extend(learned(&frame));
            entries.len() < most
        });
        let during = "forget the MAC addresses that were learnt";
        read.map_err(|fault| fault.during(during))?;
        let messages: Vec<Message> = entries.iter().map(Entry::removal).collect();
        let refused =
            self.socket.call_each(&messages, |_| false).map_err(|fault| fault.during(during))?;
        // What went by itself meanwhile, with its device or as it was old, is gone as well.
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

/// The entry of a forwarding table that a message is about, if it was learnt.
fn learned(frame: &Frame<'_>) -> Option<Entry> {
    let attributes = frame.attributes(HEADER);
    let mac = attributes.find(NDA_LLADDR).filter(|_| is_learned(frame)).and_then(Attribute::mac)?;
    let remote = attributes.find(NDA_DST).and_then(Attribute::ip);
    let is_known = remote.is_some() || attributes.find(NDA_MASTER).is_some();
    is_known.then_some(Entry { device: frame.word(4), mac, remote })
}
