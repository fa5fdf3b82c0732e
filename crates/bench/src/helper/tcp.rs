//! One TCP connection.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddrV4, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::READY;

/// How long a sender may take to connect, and how long it may pause.
const PATIENCE: Duration = Duration::from_secs(15);

/// Bytes per write to the kernel.
const PIECE: usize = 128 << 10;

/// Takes one connection and reads it to its end.
pub(super) fn receive(at: SocketAddrV4) -> Result<()> {
    let listener = TcpListener::bind(at).with_context(|| format!("bind to {at}"))?;
    listener.set_nonblocking(true).context("set the socket's mode")?;
    println!("{READY}");
    let mut stream = accept(&listener)?;
    stream.set_nonblocking(false).context("set the socket's mode")?;
    stream.set_read_timeout(Some(PATIENCE)).context("set the socket's timeout")?;
    let mut buffer = vec![0; PIECE];
    let begin = Instant::now();
    let mut bytes: u64 = 0;
    while let length @ 1.. = stream.read(&mut buffer).context("read the stream")? {
        bytes += length as u64;
    }
    println!("{}", json!({ "bytes": bytes, "seconds": begin.elapsed().as_secs_f64() }));
    Ok(())
}

fn accept(listener: &TcpListener) -> Result<TcpStream> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match listener.accept() {
            Ok((stream, _)) => return Ok(stream),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error).context("accept a connection"),
        }
        if Instant::now() > deadline {
            bail!("no sender connected");
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Sends until `time` has passed.
pub(super) fn send(to: SocketAddrV4, time: Duration) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&to.into(), PATIENCE)
        .with_context(|| format!("connect to {to}"))?;
    stream.set_write_timeout(Some(PATIENCE)).context("set the socket's timeout")?;
    let piece = vec![0; PIECE];
    let begin = Instant::now();
    while begin.elapsed() < time {
        stream.write_all(&piece).context("write to the stream")?;
    }
    println!("{}", json!({ "seconds": begin.elapsed().as_secs_f64() }));
    Ok(())
}
