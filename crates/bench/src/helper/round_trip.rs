//! Round trips of small datagrams.

use std::io::ErrorKind;
use std::net::{SocketAddrV4, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::READY;
use super::membership::Place;
use crate::statistics::percentile;

/// How long an answer may take before the next request.
const PATIENCE: Duration = Duration::from_millis(500);

/// The time between two rounds.
const PAUSE: Duration = Duration::from_micros(200);

/// Rounds that are not counted: the first resolves addresses.
const WARM_UP: u32 = 20;

/// Payload of the datagrams, in bytes.
const SIZE: usize = 64;

/// Answers until `time` has passed.
pub(super) fn echo(
    at: SocketAddrV4,
    place: &Place,
    reply: Option<SocketAddrV4>,
    time: Duration,
) -> Result<()> {
    let socket = place.listen(at.into(), None, Duration::from_millis(200))?;
    let answering = UdpSocket::bind("0.0.0.0:0").context("open a socket")?;
    println!("{READY}");
    let deadline = Instant::now() + time;
    let mut buffer = [0; 2048];
    while Instant::now() < deadline {
        match socket.recv_from(&mut buffer) {
            Ok((length, sender)) => {
                let datagram = buffer.get(..length).unwrap_or_default();
                // The client may be gone already.
                _ = match reply {
                    Some(group) => answering.send_to(datagram, group),
                    None => socket.send_to(datagram, sender),
                };
            }
            Err(error)
                if error.kind() == ErrorKind::WouldBlock
                    || error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context("receive a datagram"),
        }
    }
    Ok(())
}

/// Sends `count` requests, one after the other.
pub(super) fn ping(
    to: SocketAddrV4,
    place: &Place,
    from: Option<SocketAddrV4>,
    count: u32,
) -> Result<()> {
    let asking = UdpSocket::bind("0.0.0.0:0").context("open a socket")?;
    asking.set_read_timeout(Some(PATIENCE)).context("set the socket's timeout")?;
    let hearing = from.map(|group| place.listen(group.into(), None, PATIENCE)).transpose()?;
    let hearing = hearing.as_ref().unwrap_or(&asking);
    let mut times = Vec::new();
    let mut lost = 0;
    for number in 0..count + WARM_UP {
        let begin = Instant::now();
        let mut datagram = [0; SIZE];
        if let Some(place) = datagram.get_mut(..4) {
            place.copy_from_slice(&number.to_be_bytes());
        }
        asking.send_to(&datagram, to).context("send a datagram")?;
        let answered = await_answer(hearing, number)?;
        if number >= WARM_UP {
            if answered {
                times.push(begin.elapsed().as_secs_f64() * 1e6);
            } else {
                lost += 1;
            }
        }
        thread::sleep(PAUSE);
    }
    ensure!(!times.is_empty(), "none of {count} datagrams to {to} was answered");
    let (p50, p99) = (percentile(&times, 50.0), percentile(&times, 99.0));
    println!("{}", json!({ "p50": p50, "p99": p99, "lost": lost }));
    Ok(())
}

/// Waits for the answer with this number, and ignores late ones.
fn await_answer(socket: &UdpSocket, number: u32) -> Result<bool> {
    let deadline = Instant::now() + PATIENCE;
    let mut buffer = [0; 2048];
    while Instant::now() < deadline {
        match socket.recv(&mut buffer) {
            Ok(_) if buffer.starts_with(&number.to_be_bytes()) => return Ok(true),
            Ok(_) => {}
            Err(error)
                if [ErrorKind::WouldBlock, ErrorKind::ConnectionRefused]
                    .contains(&error.kind()) =>
            {
                return Ok(false);
            }
            Err(error) => return Err(error).context("receive an answer"),
        }
    }
    Ok(false)
}
