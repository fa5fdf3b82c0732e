//! How long an address is silent.

use std::io::ErrorKind;
use std::net::{SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::READY;

/// The interval between two requests, which is the precision.
const INTERVAL: Duration = Duration::from_millis(2);

/// Sends requests to an echo server until `time` has passed since its first answer, and prints the
/// longest time without an answer between the first one and the last.
pub(super) fn measure(echo: SocketAddrV4, time: Duration) -> Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0").context("open a socket")?;
    socket.set_read_timeout(Some(INTERVAL)).context("set the socket's timeout")?;
    let mut deadline = Instant::now() + time;
    let mut answered: Option<Instant> = None;
    let mut longest = Duration::ZERO;
    while Instant::now() < deadline {
        // If no host has the address, the kernel reports an error.
        _ = socket.send_to(&[0], echo);
        match socket.recv(&mut [0; 64]) {
            Ok(_) => {
                let now = Instant::now();
                match answered.replace(now) {
                    Some(before) => longest = longest.max(now - before),
                    None => {
                        deadline = now + time;
                        println!("{READY}");
                    }
                }
                std::thread::sleep(INTERVAL);
            }
            Err(error)
                if [
                    ErrorKind::WouldBlock,
                    ErrorKind::ConnectionRefused,
                    ErrorKind::HostUnreachable,
                ]
                .contains(&error.kind()) => {}
            Err(error) => return Err(error).context("receive an answer"),
        }
    }
    let last = answered.with_context(|| format!("{echo} never answered"))?;
    ensure!(last + Duration::from_secs(1) > deadline, "{echo} did not answer in the end");
    println!("{}", json!({ "silent": longest.as_secs_f64() }));
    Ok(())
}
