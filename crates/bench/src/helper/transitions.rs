//! Changes of membership; each must reach the kernel of the sender's host.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::membership::{How, Place};
use super::wire::Underlay;

/// How long a change may take to affect what the host is sent: a leave takes the two queries of one
/// second each of RFC 3376, section 8.8.
const PATIENCE: Duration = Duration::from_secs(10);

/// Silence after which groups count as no longer sent to the host: many times the interval between
/// two frames.
const SILENCE: Duration = Duration::from_millis(100);

/// Joins and leaves the groups in turn, until `time` has passed, and returns how often.
pub(super) fn change(
    place: &Place,
    how: How,
    source: Ipv4Addr,
    groups: &[Ipv4Addr],
    underlay: &str,
    time: Duration,
) -> Result<()> {
    let mut underlay = Underlay::open(underlay)?;
    let socket = UdpSocket::bind("0.0.0.0:0").context("open a socket")?;
    let mut is_member = false;
    let (mut changes, mut taken) = (0, 0.0);
    let begin = Instant::now();
    while begin.elapsed() < time {
        for wants in [true, false] {
            for group in groups {
                // Only a member can block a source.
                if how == How::AllBut && !is_member {
                    place.change(&socket, How::Any, source, *group, true)?;
                } else {
                    place.change(&socket, how, source, *group, wants)?;
                }
            }
            is_member = true;
            taken += await_change(&mut underlay, groups, wants)?.as_secs_f64();
            changes += groups.len();
        }
    }
    println!("{}", json!({ "changes": changes, "seconds": taken }));
    Ok(())
}

/// Waits until the host is sent all groups, or none of them. Returns how long that took.
fn await_change(underlay: &mut Underlay, groups: &[Ipv4Addr], wants: bool) -> Result<Duration> {
    let begin = Instant::now();
    let mut last = begin;
    let mut sent = BTreeSet::new();
    while if wants { sent.len() < groups.len() } else { last.elapsed() < SILENCE } {
        if let Some(group) = underlay.next(groups)? {
            sent.insert(group);
            last = Instant::now();
        }
        ensure!(
            begin.elapsed() < PATIENCE,
            "groups are sent to the host, {wants}: not after {PATIENCE:?}"
        );
    }
    Ok(if wants { begin.elapsed() } else { last.duration_since(begin) })
}
