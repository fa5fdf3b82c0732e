//! What hosts are sent, from join to leave.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use shoutd_lab::{Host, wait_until};

use super::finding;
use crate::report::{Finding, Limit};
use crate::statistics::percentile;
use crate::ways::{End, Ends, Group, findings, number};

/// Datagrams per second, and seconds, of the stream whose copies are counted.
const RATE: u32 = 2000;
const SECONDS: f64 = 2.0;

const PORT: u16 = 5030;

/// How long a host may take to learn of joins.
const MEMBERS_DEADLINE: Duration = Duration::from_secs(10);

/// The port where a joiner asks the sender for a group.
const SERVER_PORT: u16 = 5031;

/// How long a group is sent to after the leave, in seconds: more than the two queries of one second
/// each of RFC 3376, section 8.8.
const LINGER: f64 = 4.0;

/// The first of the groups that are joined one after the other; each run has its own.
const JOINED: Ipv4Addr = Ipv4Addr::new(239, 78, 0, 0);
const JOINED_IPV6: Ipv6Addr = Ipv6Addr::new(0xff15, 0, 0, 0, 0, 0, 0x78, 0);
const JOINED_FOR_SOURCE: Ipv4Addr = Ipv4Addr::new(232, 78, 0, 0);
const LEFT: Ipv4Addr = Ipv4Addr::new(239, 79, 0, 0);

/// The copies that reach a host with the network but without a receiver.
pub(super) fn copies(ends: &Ends, _quick: bool) -> Result<Vec<Finding>> {
    let (near, far, idle) = (ends.on(1)?, ends.on(2)?, &ends.on(3)?.host);
    let to = SocketAddr::new(Group::One.address(), PORT);
    let limit = SECONDS + 10.0;
    let mut receiver =
        far.ready_helper(&format!("receive {to} {} --seconds {limit}", far.place()))?;
    await_members(&near.host, to.ip(), 1)?;
    let watched = SECONDS + 1.0;
    let watch = format!("watch --interface eth0 --group {} --seconds {watched}", to.ip());
    let mut without = End::of_host(idle).ready_helper(&watch)?;
    let mut with = End::of_host(&far.host).ready_helper(&watch)?;
    let send = format!("send {to} {} --size 1000 --rate {RATE} --seconds {SECONDS}", near.place());
    let sent = near.run_helper(&send, SECONDS)?;
    let (without, with) = (findings(&mut without, watched)?, findings(&mut with, watched)?);
    findings(&mut receiver, limit)?;
    let remark = format!(
        "{} packets were sent; the host with a receiver was sent {} in {} bytes",
        number(&sent, "sent")?,
        number(&with, "frames")?,
        number(&with, "bytes")?
    );
    let frames = finding(
        "copies sent to a host without receivers",
        "packets",
        vec![number(&without, "frames")?],
    );
    let bytes = finding("the same on the underlay", "bytes", vec![number(&without, "bytes")?]);
    Ok(vec![
        Finding { most: Some(Limit::Each(0.0)), remark, ..frames },
        Finding { most: Some(Limit::Each(0.0)), ..bytes },
    ])
}

/// How a group is joined.
#[derive(Debug, Clone, Copy)]
struct Kind {
    name: &'static str,
    first: IpAddr,
    /// Whether the join is for the sender only.
    is_for_source: bool,
}

const KINDS: [Kind; 3] = [
    Kind { name: "join", first: IpAddr::V4(JOINED), is_for_source: false },
    Kind { name: "join by IPv6", first: IpAddr::V6(JOINED_IPV6), is_for_source: false },
    Kind { name: "join for one source", first: IpAddr::V4(JOINED_FOR_SOURCE), is_for_source: true },
];

/// The time from joining a group that another host sends to, until its first datagram.
pub(super) fn joins(ends: &Ends, quick: bool) -> Result<Vec<Finding>> {
    let kinds = KINDS.into_iter().map(|kind| joins_of(kind, ends, quick));
    Ok(kinds.collect::<Result<Vec<_>>>()?.concat())
}

fn joins_of(kind: Kind, ends: &Ends, quick: bool) -> Result<Vec<Finding>> {
    let (rounds, count) = if quick { (1, 50) } else { (3, 100) };
    let (mut p50, mut p99, mut unheard) = (Vec::new(), Vec::new(), 0.0);
    let mut reported = Vec::new();
    for round in 0..rounds {
        let first = match kind.first {
            IpAddr::V4(first) => Ipv4Addr::from_bits(first.to_bits() + round * 256).into(),
            IpAddr::V6(first) => {
                Ipv6Addr::from_bits(first.to_bits() + u128::from(round) * 256).into()
            }
        };
        let found = join(ends, first, count, kind.is_for_source, 0.0)?;
        let times = self::times(&found, "milliseconds")?;
        ensure!(!times.is_empty(), "no datagram of {count} joined groups was received");
        p50.extend(percentile(&times, 50.0));
        p99.extend(percentile(&times, 99.0));
        unheard += number(&found, "unheard")?;
        reported.extend(percentile(&self::times(&found, "reported")?, 50.0));
    }
    let name = kind.name;
    let remark = format!(
        "{count} joins per round; {unheard} in all got no datagram in 5 s; one is sent about \
         every 0.3 ms"
    );
    let own = "the receiver's kernel waits for 2 ticks of its clock or more; from Linux 6.14 on, \
               shoutd does not wait for it";
    let own = own.to_owned();
    let [first_p50, first_p99, report_p50] =
        ["first packet, p50", "first packet, p99", "the kernel's report, p50"]
            .map(|what| format!("{name} to {what}"));
    Ok(vec![
        Finding { most: Some(Limit::Median(5.0)), remark, ..finding(&first_p50, "ms", p50) },
        Finding { most: Some(Limit::Median(20.0)), ..finding(&first_p99, "ms", p99) },
        Finding { remark: own, ..finding(&report_p50, "ms", reported) },
    ])
}

/// Waits until a host knows that this many hosts are members of the group.
pub(crate) fn await_members(asked: &Host, group: IpAddr, hosts: usize) -> Result<()> {
    wait_until(
        &format!("{hosts} hosts to be members of {group}, as seen by {}", asked.name()),
        MEMBERS_DEADLINE,
        || {
            let printed = asked.run(["shoutdctl", "groups", "--json"])?.stdout;
            let rows: Value = serde_json::from_str(&printed)
                .with_context(|| format!("the groups of {}", asked.name()))?;
            let rows = rows.as_array().context("no list of groups")?;
            let of_group = rows
                .iter()
                .filter(|row| row.get("group").is_some_and(|known| *known == group.to_string()));
            let listening = of_group.filter_map(|row| row.get("hosts")?.as_array()).flatten();
            let in_sync =
                listening.filter(|host| host.get("in_sync").is_some_and(|known| known == true));
            Ok((in_sync.count() >= hosts).then_some(()))
        },
    )
}

fn times(found: &Value, name: &str) -> Result<Vec<f64>> {
    let times =
        found.get(name).and_then(Value::as_array).with_context(|| format!("no {name} of joins"))?;
    Ok(times.iter().filter_map(Value::as_f64).collect())
}

/// The time from leaving a group until its last copy reaches the host.
pub(super) fn leaves(ends: &Ends, quick: bool) -> Result<Vec<Finding>> {
    let host = End::of_host(&ends.on(2)?.host);
    let mut times = Vec::new();
    let mut endless = 0;
    let rounds = if quick { 1 } else { 5 };
    for round in 0..rounds {
        let group = Ipv4Addr::from_bits(LEFT.to_bits() + round);
        let seconds = LINGER + 2.0;
        let mut watch = host
            .ready_helper(&format!("watch --interface eth0 --group {group} --seconds {seconds}"))?;
        let found = join(ends, group.into(), 1, false, LINGER)?;
        let last = number(&findings(&mut watch, seconds)?, "last")?;
        let time = (last - number(&found, "left")?) / 1e6;
        if time > LINGER * 1e3 - 200.0 {
            endless += 1;
        }
        times.push(time.max(0.0));
    }
    let remark = match endless {
        0 => String::new(),
        _ => format!(
            "{endless} of {rounds} groups were still sent when the sender ended, {LINGER} s after \
             the leave"
        ),
    };
    Ok(vec![Finding { remark, ..finding("leave to last copy on the underlay", "ms", times) }])
}

/// Lets host 1 send to groups from `first` on that host 2 joins one after the other.
fn join(ends: &Ends, first: IpAddr, count: u32, is_for_source: bool, linger: f64) -> Result<Value> {
    let (near, far) = (ends.on(1)?, ends.on(2)?);
    let server = SocketAddrV4::new(near.address, SERVER_PORT);
    let mut serving =
        near.ready_helper(&format!("serve {server} {} --seconds 120", near.place()))?;
    let source = if is_for_source { format!(" --source {}", near.address) } else { String::new() };
    let place = far.place();
    let arguments =
        format!("join {server} {place} --first {first} --count {count} --linger {linger}{source}");
    let found = far.run_helper(&arguments, 60.0);
    serving.kill()?;
    found
}
