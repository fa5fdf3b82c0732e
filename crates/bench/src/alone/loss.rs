//! Packets that a stream loses while something happens elsewhere.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use shoutd_lab::{Host, wait_until};

use super::await_members;
use super::finding;
use crate::report::{Finding, Limit};
use crate::ways::{Ends, findings, number};

/// The groups of the stream, and the first of them. Each change is one of the membership of all of
/// them.
const GROUPS: u32 = 5;
const FIRST: Ipv4Addr = Ipv4Addr::new(239, 83, 0, 0);

/// Datagrams per second to all groups together, and their size in bytes: as much as the machine
/// carries to three hosts without a full queue.
const RATE: u32 = 20_000;
const SIZE: usize = 200;

/// How long the stream goes on after the event.
const AFTER: f64 = 1.5;

const PORT: u16 = 5020;

/// How long the others may take to elect a leader.
const ELECTION_DEADLINE: Duration = Duration::from_secs(10);

/// An event while host 1 sends to hosts 2 and 3.
#[derive(Debug, Clone, Copy)]
struct Event {
    name: &'static str,
    /// How long it may take, in seconds.
    seconds: f64,
    happen: Happening,
    /// Why it may lose packets all the same.
    because: &'static str,
}

/// Makes it happen, and returns the number of membership changes.
type Happening = fn(&Ends, f64) -> Result<f64>;

/// How long memberships are changed, in seconds.
const CHANGING: f64 = 24.0;
const QUICK_CHANGING: f64 = 8.0;

/// The page's remark on sources whose entries cannot be made at once.
const LIMIT_OF_KERNEL: &str = "; in each sample a source is selected for the first time in each \
                               group: only then the kernel's (S,G) entry is made, one host at a \
                               time, and shadows (*,G)";

const EVENTS: [Event; 7] = [
    Event {
        name: "receivers on another host join and leave",
        seconds: CHANGING,
        happen: |ends, seconds| changes(ends, "any", seconds),
        because: "",
    },
    Event {
        name: "receivers on another host join and leave for one source (INCLUDE)",
        seconds: CHANGING,
        happen: |ends, seconds| changes(ends, "only", seconds),
        because: LIMIT_OF_KERNEL,
    },
    Event {
        name: "receivers on another host block one source and no longer (EXCLUDE)",
        seconds: CHANGING,
        happen: |ends, seconds| changes(ends, "all-but", seconds),
        because: LIMIT_OF_KERNEL,
    },
    Event {
        name: "shoutd of another host is killed and starts",
        seconds: 4.0,
        happen: |ends, _| restart(&ends.on(4)?.host),
        because: "",
    },
    Event {
        name: "shoutd of a receiving host is killed and starts",
        seconds: 4.0,
        happen: |ends, _| restart(&ends.on(2)?.host),
        because: "",
    },
    Event {
        name: "shoutd of the sending host is killed and starts",
        seconds: 4.0,
        happen: |ends, _| restart(&ends.on(1)?.host),
        because: "",
    },
    Event {
        name: "the leader's shoutd dies and another host leads",
        seconds: 7.0,
        happen: |ends, _| leader_dies(ends),
        because: "",
    },
];

pub(super) fn measure(ends: &Ends, quick: bool) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for event in EVENTS {
        let seconds = if quick { event.seconds.min(QUICK_CHANGING) } else { event.seconds };
        findings.push(measure_one(ends, event, seconds, if quick { 1 } else { 3 })?);
    }
    Ok(findings)
}

/// Makes an event happen several times; none may lose anything.
fn measure_one(ends: &Ends, event: Event, seconds: f64, times: u32) -> Result<Finding> {
    let name = event.name;
    let mut all = Lost::default();
    let mut samples = Vec::new();
    for _ in 0..times {
        let lost = lost_while(ends, event, seconds).with_context(|| format!("while {name}"))?;
        samples.push(lost.packets);
        all.add(&lost);
    }
    let finding = finding(&format!("lost while {name}"), "packets", samples);
    Ok(Finding { most: Some(Limit::Each(0.0)), remark: all.remark() + event.because, ..finding })
}

/// The losses of the two receivers together.
#[derive(Debug, Default)]
struct Lost {
    sent: f64,
    packets: f64,
    again: f64,
    unread: f64,
    changes: f64,
    /// Frames that the machine's queues dropped.
    dropped: f64,
}

impl Lost {
    fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.packets += other.packets;
        self.again += other.again;
        self.unread += other.unread;
        self.changes += other.changes;
        self.dropped += other.dropped;
    }

    fn count(&mut self, heard: &Value) -> Result<()> {
        let (received, unread) = (number(heard, "received")?, number(heard, "unread")?);
        self.packets += (self.sent - received - unread).max(0.0);
        self.again += number(heard, "again")?;
        self.unread += unread;
        Ok(())
    }

    fn remark(&self) -> String {
        let Self { sent, again, unread, changes, packets, dropped } = self;
        let mut remark = format!(
            "of {sent} to each of two hosts; {again} came twice, {unread} were delivered but not \
             read in time"
        );
        if *changes > 0.0 {
            let (rate, each) = (f64::from(RATE) / f64::from(GROUPS), packets / changes);
            let silent = each / rate * 1e6;
            remark += &format!(
                "; {changes} changes, each of one group: {each:.3} packets lost per change at \
                 {rate} packets per second, or {silent:.1} µs"
            );
        }
        if *dropped > 0.0 {
            remark += &format!(
                "; the machine's own queues, which all hosts share, dropped {dropped} frames"
            );
        }
        remark
    }
}

fn lost_while(ends: &Ends, event: Event, seconds: f64) -> Result<Lost> {
    let near = ends.on(1)?;
    let to = SocketAddr::new(FIRST.into(), PORT);
    let streamed = seconds + AFTER;
    let limit = streamed + 10.0;
    let mut receivers = Vec::new();
    for host in [2, 3] {
        let far = ends.on(host)?;
        let receive = format!("receive {to} --groups {GROUPS} {} --seconds {limit}", far.place());
        receivers.push(far.ready_helper(&receive)?);
    }
    // Packets sent before the sender's host knows the memberships do not count.
    for group in (0..GROUPS).map(|index| Ipv4Addr::from_bits(FIRST.to_bits() + index)) {
        await_members(&near.host, group.into(), receivers.len())?;
    }
    let dropped = dropped_by_machine()?;
    let send = format!(
        "send {to} --groups {GROUPS} {} --size {SIZE} --rate {RATE} --seconds {streamed}",
        near.place()
    );
    let mut sender = near.helper(&send)?;
    let changes = (event.happen)(ends, seconds)?;
    ensure!(!sender.has_ended()?, "it took longer than the stream of {streamed} s");
    let sent = number(&findings(&mut sender, streamed)?, "sent")?;
    let mut lost = Lost { sent, changes, ..Lost::default() };
    receivers.iter_mut().try_for_each(|receiver| lost.count(&findings(receiver, limit)?))?;
    lost.dropped = dropped_by_machine()? - dropped;
    Ok(lost)
}

/// Frames that the queues of the machine's processors dropped: the second column of
/// `/proc/net/softnet_stat`, which covers all network namespaces.
fn dropped_by_machine() -> Result<f64> {
    let table =
        fs::read_to_string("/proc/net/softnet_stat").context("read /proc/net/softnet_stat")?;
    let dropped =
        table.lines().filter_map(|line| u32::from_str_radix(line.split(' ').nth(1)?, 16).ok());
    Ok(dropped.map(f64::from).sum())
}

/// Lets a container on host 4 change its membership again and again.
fn changes(ends: &Ends, how: &str, seconds: f64) -> Result<f64> {
    let (near, end) = (ends.on(1)?, ends.on(4)?);
    // The last change may take as long as a leave.
    let seconds = seconds - 3.0;
    let change = format!(
        "change {} --how {how} --source {} --first {FIRST} --count {GROUPS} --underlay eth0 \
         --seconds {seconds}",
        end.place(),
        near.address
    );
    let changes = number(&end.run_helper(&change, seconds + 15.0)?, "changes")?;
    ensure!(changes > 0.0, "nothing changed in {seconds} s");
    Ok(changes)
}

fn restart(host: &Host) -> Result<f64> {
    host.kill_shoutd()?;
    host.start_shoutd(&[])?;
    Ok(0.0)
}

fn leader_dies(ends: &Ends) -> Result<f64> {
    let mut leader = None;
    for host in ends.hosts() {
        if leads(host)? {
            leader = Some(host);
        }
    }
    let Some(leader) = leader else { bail!("no host leads") };
    leader.kill_shoutd()?;
    let others: Vec<&Host> = ends.hosts().filter(|host| host.number() != leader.number()).collect();
    wait_until("another leader", ELECTION_DEADLINE, || {
        for host in &others {
            if leads(host)? {
                return Ok(Some(()));
            }
        }
        Ok(None)
    })?;
    leader.start_shoutd(&[])?;
    Ok(0.0)
}

/// Whether a host is the leader.
fn leads(host: &Host) -> Result<bool> {
    let printed = host.run(["shoutdctl", "status", "--json"])?.stdout;
    let status: Value =
        serde_json::from_str(&printed).with_context(|| format!("the status of {}", host.name()))?;
    Ok(status.get("role").is_some_and(|role| role == "leader"))
}
