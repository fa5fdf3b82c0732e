//! What a stream loses while something happens elsewhere.

use std::net::SocketAddrV4;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use shoutd_lab::{Host, wait_until};

use super::finding;
use crate::bench::report::Finding;
use crate::bench::ways::{Ends, Group, findings, number};

/// Datagrams a second, and their size in bytes.
const RATE: u32 = 2000;
const SIZE: usize = 200;

/// How long the stream is sent, in seconds; what happens has to be over by then.
const SECONDS: f64 = 12.0;
const QUICK_SECONDS: f64 = 7.0;

const PORT: u16 = 5020;

/// How long others may take to elect a leader.
const ELECTION_DEADLINE: Duration = Duration::from_secs(10);

/// Something that happens while host 1 sends to host 2.
type Event = fn(&Ends) -> Result<()>;

pub(super) fn measure(ends: &Ends, quick: bool) -> Result<Vec<Finding>> {
    let seconds = if quick { QUICK_SECONDS } else { SECONDS };
    let events: [(&str, Event); 5] = [
        ("receivers on a third host join and leave", |ends| joins_and_leaves(ends)),
        ("shoutd of a third host is killed and starts", |ends| restart(&ends.on(3)?.host)),
        ("shoutd of the receiving host is killed and starts", |ends| restart(&ends.on(2)?.host)),
        ("shoutd of the sending host is killed and starts", |ends| restart(&ends.on(1)?.host)),
        ("the leader's shoutd dies and another host leads", leader_dies),
    ];
    events.into_iter().map(|(name, event)| lost_while(ends, name, event, seconds)).collect()
}

fn lost_while(ends: &Ends, name: &str, event: Event, seconds: f64) -> Result<Finding> {
    let (near, far) = (ends.on(1)?, ends.on(2)?);
    let to = SocketAddrV4::new(Group::One.address(), PORT);
    let limit = seconds + 5.0;
    let mut receiver = far.ready_helper(&format!("receive {to} --interface {} --seconds {limit}", far.address))?;
    // What is sent before the others know of the membership is not what is asked about.
    std::thread::sleep(Duration::from_secs(1));
    let mut sender = near.helper(&format!("send {to} --size {SIZE} --rate {RATE} --seconds {seconds}"))?;
    event(ends).with_context(|| format!("while {name}"))?;
    ensure!(!sender.has_ended()?, "it took longer than the stream of {seconds} s: {name}");
    let sent = number(&findings(&mut sender, seconds)?, "sent")?;
    let heard = findings(&mut receiver, limit)?;
    let (received, unread, again) = (number(&heard, "received")?, number(&heard, "unread")?, number(&heard, "again")?);
    let lost = (sent - received - unread).max(0.0);
    let remark = format!("of {sent}; {again} came twice, {unread} were delivered but not read in time");
    Ok(Finding { most: Some(0.0), remark, ..finding(&format!("lost while {name}"), "packets", vec![lost]) })
}

fn joins_and_leaves(ends: &Ends) -> Result<()> {
    let end = ends.on(3)?;
    let at = SocketAddrV4::new(Group::One.address(), PORT);
    for _ in 0..6 {
        end.run_helper(&format!("receive {at} --interface {} --seconds 0.5", end.address), 1.0)?;
    }
    Ok(())
}

fn restart(host: &Host) -> Result<()> {
    host.kill_shoutd()?;
    host.start_shoutd(&[]).map(|_| ())
}

fn leader_dies(ends: &Ends) -> Result<()> {
    let hosts = [1, 2, 3].map(|number| ends.on(number).map(|end| end.host.clone()));
    let hosts = hosts.into_iter().collect::<Result<Vec<_>>>()?;
    let mut leader = None;
    for host in &hosts {
        if leads(host)? {
            leader = Some(host);
        }
    }
    let Some(leader) = leader else { bail!("no host leads") };
    leader.kill_shoutd()?;
    let others: Vec<&Host> = hosts.iter().filter(|host| host.number() != leader.number()).collect();
    wait_until("another leader", ELECTION_DEADLINE, || {
        for host in &others {
            if leads(host)? {
                return Ok(Some(()));
            }
        }
        Ok(None)
    })?;
    leader.start_shoutd(&[]).map(|_| ())
}

/// Whether a host says that it leads.
fn leads(host: &Host) -> Result<bool> {
    let printed = host.run(["shoutdctl", "status", "--json"])?.stdout;
    let status: Value = serde_json::from_str(&printed).with_context(|| format!("the status of {}", host.name()))?;
    Ok(status.get("role").is_some_and(|role| role == "leader"))
}
