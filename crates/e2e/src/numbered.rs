//! Streams of numbered datagrams that the test itself sends and receives, to several addresses at
//! once.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use shoutd_lab::wait_until;

use crate::{Container, GroupSocket, Sources};

/// The time between two datagrams to the same address.
const INTERVAL: Duration = Duration::from_millis(2);

/// How long any wait may take, on a busy machine.
const DEADLINE: Duration = Duration::from_secs(80);

/// A sender that sends each number to all addresses until it is ended.
#[derive(Debug)]
pub struct Numbered {
    sent: Arc<AtomicU32>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Numbered {
    /// Sends from a container to these addresses.
    pub fn begin(container: &Container, to: &[SocketAddr]) -> Result<Self> {
        let with_sockets =
            to.iter().map(|to| Ok((GroupSocket::open(container, to.is_ipv4(), 0)?, *to)));
        let sockets = with_sockets.collect::<Result<Vec<_>>>()?;
        let (sent, stop) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
        let (sending, ending) = (sent.clone(), stop.clone());
        let thread = thread::spawn(move || {
            while !ending.load(Ordering::Relaxed) {
                let number = sending.load(Ordering::Relaxed);
                sockets
                    .iter()
                    .try_for_each(|(socket, to)| socket.send(*to, &number.to_be_bytes()))?;
                sending.fetch_add(1, Ordering::Relaxed);
                thread::sleep(INTERVAL);
            }
            Ok(())
        });
        Ok(Self { sent, stop, thread: Some(thread) })
    }

    /// The number that is being sent or comes next.
    pub fn next(&self) -> u32 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Waits until `count` more were sent to each address.
    pub fn await_more(&self, count: u32) -> Result<()> {
        let wanted = self.next() + count;
        wait_until(&format!("datagram {wanted} to be sent"), DEADLINE, || {
            Ok((self.next() > wanted).then_some(()))
        })
    }

    /// Stops sending and returns the last number.
    pub fn end(mut self) -> Result<u32> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("a thread")?;
        thread
            .join()
            .map_err(|_| anyhow!("a thread panicked"))?
            .context("send numbered datagrams")?;
        self.next().checked_sub(1).context("nothing was sent")
    }
}

impl Drop for Numbered {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// A socket that receives numbered datagrams at one address.
#[derive(Debug)]
pub struct NumberedReceiver {
    socket: GroupSocket,
    name: String,
    received: Vec<u32>,
}

impl NumberedReceiver {
    /// Joins a group in a container, or receives at the container's own address.
    pub fn start(container: &Container, at: SocketAddr) -> Result<Self> {
        let socket = GroupSocket::open(container, at.is_ipv4(), at.port())?;
        if at.ip().is_multicast() {
            socket.join(at.ip(), Sources::All)?;
        }
        let name = format!("{} on {}, at {}", container.name, container.host.name(), at.ip());
        Ok(Self { socket, name, received: Vec::new() })
    }

    /// The numbers received so far.
    pub fn received(&mut self) -> Result<&[u32]> {
        let new = self.socket.received()?;
        self.received.extend(
            new.into_iter().filter_map(|(_, text)| Some(u32::from_be_bytes(text.try_into().ok()?))),
        );
        Ok(&self.received)
    }

    /// Waits for this number or a later one; returns the first one received at all.
    pub fn await_number(&mut self, number: u32) -> Result<u32> {
        let what = format!("datagram {number} to be received by {}", self.name);
        wait_until(&what, DEADLINE, || {
            Ok(self.received()?.iter().any(|received| *received >= number).then_some(()))
        })?;
        self.received.first().copied().context("a datagram")
    }

    /// Checks that all of these numbers were received, in order and once each, and nothing but
    /// these and earlier ones.
    pub fn ensure_all(&mut self, from: u32, to: u32) -> Result<()> {
        self.await_number(to)?;
        let received: Vec<u32> =
            self.received.iter().copied().filter(|number| (from..=to).contains(number)).collect();
        let (known, name): (BTreeSet<u32>, _) = (received.iter().copied().collect(), &self.name);
        let lost: Vec<u32> = (from..=to).filter(|number| !known.contains(number)).collect();
        let some: Vec<&u32> = lost.iter().take(10).collect();
        ensure!(
            lost.is_empty(),
            "{name} lost {} of the datagrams from {from} to {to}, such as {some:?}",
            lost.len()
        );
        ensure!(
            received.is_sorted_by(|one, next| one < next),
            "{name} received datagrams twice or out of order"
        );
        Ok(())
    }
}
