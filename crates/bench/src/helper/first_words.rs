//! Whether a container can send and receive as soon as its program begins.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::membership::Place;
use super::{READY, monotonic_nanoseconds};

/// The number that marks the end.
pub(super) const END: u32 = u32::MAX;

/// The time between two beacons.
const INTERVAL: Duration = Duration::from_millis(1);

/// The port of beacons is the next one.
fn beacon_port(broadcast: SocketAddrV4) -> u16 {
    broadcast.port() + 1
}

/// Sends a number by broadcast and by multicast, before anything else. Then it receives beacons,
/// and prints for how long after its socket was opened beacons were lost.
pub(super) fn say(broadcast: SocketAddrV4, group: SocketAddrV4, number: u32) -> Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0").context("open a socket")?;
    socket.set_broadcast(true).context("allow broadcast")?;
    socket.send_to(&number.to_be_bytes(), broadcast).context("broadcast")?;
    socket.send_to(&number.to_be_bytes(), group).context("send to the group")?;
    if number == END {
        println!("{}", json!({}));
        return Ok(());
    }
    let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, beacon_port(broadcast));
    let hearing = UdpSocket::bind(any).with_context(|| format!("bind to {any}"))?;
    hearing.set_read_timeout(Some(Duration::from_secs(5))).context("set the socket's timeout")?;
    let begin = monotonic_nanoseconds()?;
    let mut buffer = [0; 8];
    loop {
        let length = hearing.recv(&mut buffer).context("hear a beacon")?;
        let sent = i64::from_be_bytes(buffer);
        // A beacon that was in flight before does not count.
        if length == buffer.len() && sent > begin {
            #[expect(clippy::cast_precision_loss, reason = "it is seconds")]
            let milliseconds = (sent - begin) as f64 / 1e6;
            println!(
                "{}",
                json!({ "deaf": (milliseconds - INTERVAL.as_secs_f64() * 1e3).max(0.0) })
            );
            return Ok(());
        }
    }
}

/// Receives the first datagrams of others, until the end marker.
pub(super) fn hear(
    broadcast: SocketAddrV4,
    group: SocketAddrV4,
    place: &Place,
    time: Duration,
) -> Result<()> {
    ensure!(broadcast.port() != group.port(), "both have port {}", group.port());
    let patience = Duration::from_millis(20);
    let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, broadcast.port());
    let sockets =
        [place.listen(any.into(), None, patience)?, place.listen(group.into(), None, patience)?];
    println!("{READY}");
    let mut heard = [BTreeSet::new(), BTreeSet::new()];
    let deadline = Instant::now() + time;
    while Instant::now() < deadline && !heard.iter().all(|numbers| numbers.contains(&END)) {
        for (socket, numbers) in sockets.iter().zip(&mut heard) {
            let mut buffer = [0; 4];
            match socket.recv(&mut buffer) {
                Ok(_) => _ = numbers.insert(u32::from_be_bytes(buffer)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).context("receive a datagram"),
            }
        }
    }
    let [broadcast, multicast] =
        heard.map(|numbers| numbers.into_iter().filter(|number| *number != END).count());
    println!("{}", json!({ "broadcast": broadcast, "multicast": multicast }));
    Ok(())
}

/// Broadcasts the time until `time` has passed.
pub(super) fn beacon(broadcast: SocketAddrV4, time: Duration) -> Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0").context("open a socket")?;
    socket.set_broadcast(true).context("allow broadcast")?;
    let to = SocketAddrV4::new(*broadcast.ip(), beacon_port(broadcast));
    println!("{READY}");
    let deadline = Instant::now() + time;
    while Instant::now() < deadline {
        socket.send_to(&monotonic_nanoseconds()?.to_be_bytes(), to).context("broadcast")?;
        thread::sleep(INTERVAL);
    }
    Ok(())
}
