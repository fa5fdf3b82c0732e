//! Numbered datagrams from a sender to receivers.

use std::io::{Error, ErrorKind};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::membership::Place;
use super::{READY, address_after, unread};

/// The number of the end markers; the count of the datagrams before follows in them.
const END: u64 = u64::MAX;

/// How often the end marker is sent, as it may be lost too.
const ENDS: u32 = 5;

/// The greatest number that a receiver counts: more than can be sent in the time.
const MAX_NUMBER: u64 = 1 << 27;

/// How long a receiver waits for more after the first datagram.
const QUIET: Duration = Duration::from_secs(3);

/// Sleeps shorter than this take too long.
const SHORTEST_SLEEP: Duration = Duration::from_micros(100);

/// Sends until `time` has passed, to `groups` groups in turn.
pub(super) fn send(
    to: SocketAddr,
    groups: u32,
    place: &Place,
    size: usize,
    time: Duration,
    rate: u32,
) -> Result<()> {
    ensure!(
        (16..=65_507).contains(&size),
        "a datagram of {size} bytes cannot be sent here: use 16 to 65507"
    );
    let sockets = targets(to, groups).map(|to| {
        let socket = place.sender(to.ip())?;
        socket.connect(to).with_context(|| format!("connect to {to}"))?;
        Ok(socket)
    });
    let sockets = sockets.collect::<Result<Vec<_>>>()?;
    let mut turns = sockets.iter().cycle();
    let mut datagram = vec![0; size];
    let begin = Instant::now();
    let mut sent: u64 = 0;
    while begin.elapsed() < time && sent < MAX_NUMBER {
        if rate > 0 {
            await_turn(begin, sent, rate);
        }
        set_number(&mut datagram, 0, sent);
        let socket = turns.next().context("no groups")?;
        if offer(socket, &datagram)? {
            sent += 1;
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    set_number(&mut datagram, 0, END);
    set_number(&mut datagram, 8, sent);
    for _ in 0..ENDS {
        // Datagrams in flight arrive first, and a slow receiver catches up.
        thread::sleep(Duration::from_millis(20));
        offer(sockets.first().context("no groups")?, &datagram)?;
    }
    println!("{}", json!({ "sent": sent, "seconds": seconds }));
    Ok(())
}

/// The destinations of datagrams to `groups` groups.
fn targets(first: SocketAddr, groups: u32) -> impl Iterator<Item = SocketAddr> {
    (0..groups).map(move |index| SocketAddr::new(address_after(first.ip(), index), first.port()))
}

/// Waits until it is the turn of the datagram with this number.
fn await_turn(begin: Instant, number: u64, rate: u32) {
    #[expect(clippy::cast_precision_loss, reason = "numbers are far below 2^52")]
    let due = Duration::from_secs_f64(number as f64 / f64::from(rate));
    let early = due.saturating_sub(begin.elapsed());
    if early > SHORTEST_SLEEP {
        thread::sleep(early);
    }
}

/// Sends a datagram, unless the buffer is full or no socket receives; the kernel reports the
/// latter, from an ICMP message, on the next send.
fn offer(socket: &UdpSocket, datagram: &[u8]) -> Result<bool> {
    match socket.send(datagram) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused || is_no_room(&error) => {
            Ok(false)
        }
        Err(error) => Err(error).context("send a datagram"),
    }
}

fn is_no_room(error: &Error) -> bool {
    error.raw_os_error() == Some(nix::errno::Errno::ENOBUFS as i32)
}

/// Receives until the end marker, or until nothing comes.
pub(super) fn receive(at: SocketAddr, groups: u32, place: &Place, time: Duration) -> Result<()> {
    let socket = listen(at, groups, place)?;
    let unread_before = unread()?;
    println!("{READY}");
    let mut tally = Tally::default();
    let deadline = Instant::now() + time;
    let mut buffer = vec![0; 1 << 16];
    loop {
        match socket.recv(&mut buffer) {
            Ok(length) => {
                if tally.note(buffer.get(..length).unwrap_or_default()) {
                    break;
                }
            }
            Err(error)
                if error.kind() == ErrorKind::WouldBlock
                    || error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context("receive a datagram"),
        }
        let quiet = tally.last.is_some_and(|last| last.elapsed() > QUIET);
        if quiet || Instant::now() > deadline {
            break;
        }
    }
    let seconds =
        tally.first.zip(tally.last).map_or(0.0, |(first, last)| (last - first).as_secs_f64());
    println!(
        "{}",
        json!({
            "received": tally.received,
            "again": tally.again,
            "bytes": tally.bytes,
            "seconds": seconds,
            "sent": tally.sent,
            "unread": unread()?.saturating_sub(unread_before),
        })
    );
    Ok(())
}

/// One socket for all groups.
fn listen(at: SocketAddr, groups: u32, place: &Place) -> Result<UdpSocket> {
    const PATIENCE: Duration = Duration::from_millis(200);
    if groups == 1 {
        return place.listen(at, None, PATIENCE);
    }
    let any = if at.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0_u16; 8]) };
    let socket = place.listen(SocketAddr::new(any, at.port()), None, PATIENCE)?;
    targets(at, groups).try_for_each(|group| place.join(&socket, group.ip()))?;
    Ok(socket)
}

/// The datagrams received so far.
#[derive(Debug, Default)]
struct Tally {
    received: u64,
    again: u64,
    bytes: u64,
    sent: Option<u64>,
    first: Option<Instant>,
    last: Option<Instant>,
    /// A bit for each number.
    seen: Vec<u64>,
}

impl Tally {
    /// Takes a datagram; returns whether it is the end.
    fn note(&mut self, datagram: &[u8]) -> bool {
        let Some(number) = read_number(datagram, 0) else { return false };
        if number == END {
            self.sent = read_number(datagram, 8);
            return true;
        }
        if !self.is_new(number) {
            self.again += 1;
            return false;
        }
        let now = Instant::now();
        self.first.get_or_insert(now);
        self.last = Some(now);
        self.received += 1;
        self.bytes += datagram.len() as u64;
        false
    }

    fn is_new(&mut self, number: u64) -> bool {
        let Ok(word) = usize::try_from(number.min(MAX_NUMBER) / 64) else { return false };
        if word >= self.seen.len() {
            self.seen.resize((word + 1).next_power_of_two(), 0);
        }
        let Some(word) = self.seen.get_mut(word) else { return false };
        let bit = 1 << (number % 64);
        let new = *word & bit == 0;
        *word |= bit;
        new
    }
}

fn set_number(datagram: &mut [u8], at: usize, number: u64) {
    if let Some(place) = datagram.get_mut(at..at + 8) {
        place.copy_from_slice(&number.to_be_bytes());
    }
}

fn read_number(datagram: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(datagram.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_each_number_once_and_knows_the_end() {
        let mut tally = Tally::default();
        let mut datagram = vec![0; 32];
        for value in [0, 1, 1, 70, 3] {
            set_number(&mut datagram, 0, value);
            assert!(!tally.note(&datagram));
        }
        assert!(!tally.note(b"short"));
        set_number(&mut datagram, 0, END);
        set_number(&mut datagram, 8, 71);
        assert!(tally.note(&datagram));
        assert_eq!((tally.received, tally.again, tally.bytes, tally.sent), (4, 1, 128, Some(71)));
    }
}
