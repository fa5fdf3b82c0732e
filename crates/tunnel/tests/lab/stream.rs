//! Echoed datagrams at a constant rate, each with its number: a ping.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::Host;

/// How long an echo may take.
const GRACE: Duration = Duration::from_secs(3);

/// A ping that runs.
pub struct Stream {
    sender: JoinHandle<Vec<Instant>>,
    receiver: JoinHandle<Vec<(usize, Instant)>>,
    echo: JoinHandle<()>,
    is_done: Arc<AtomicBool>,
    is_over: Arc<AtomicBool>,
}

/// What a ping saw.
#[derive(Debug)]
pub struct Outcome {
    /// When each datagram was sent.
    pub sent: Vec<Instant>,
    /// When the echo of each came back.
    pub echoed: Vec<Option<Instant>>,
}

impl Outcome {
    pub fn lost(&self) -> usize {
        self.echoed.iter().filter(|echo| echo.is_none()).count()
    }

    /// The numbers of those that were lost.
    pub fn which(&self) -> Vec<usize> {
        (0..self.echoed.len()).filter(|number| self.echoed[*number].is_none()).collect()
    }

    /// When the first datagram was sent after `moment` whose echo came back.
    pub fn first_after(&self, moment: Instant) -> Option<Instant> {
        let answered = self.sent.iter().zip(&self.echoed).filter(|(_, echo)| echo.is_some());
        answered.map(|(sent, _)| *sent).find(|sent| *sent >= moment)
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

impl Stream {
    /// Begins to ping from one host to another, on this port.
    pub fn begin(from: &Host, to: &Host, port: u16, period: Duration) -> Self {
        let [near, far] = [from.udp(port), to.udp(port)];
        for socket in [&near, &far] {
            socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        }
        let destination = SocketAddr::new(to.inside(), port);
        let is_done = Arc::new(AtomicBool::new(false));
        let is_over = Arc::new(AtomicBool::new(false));
        let sending = near.try_clone().unwrap();
        let done = is_done.clone();
        let sender = thread::spawn(move || send(&sending, destination, period, &done));
        let over = is_over.clone();
        let receiver = thread::spawn(move || receive(&near, &over));
        let over = is_over.clone();
        let echo = thread::spawn(move || echo(&far, &over));
        Self { sender, receiver, echo, is_done, is_over }
    }

    /// Ends the ping.
    pub fn end(self) -> Outcome {
        self.is_done.store(true, Ordering::Relaxed);
        let sent = self.sender.join().unwrap();
        thread::sleep(GRACE);
        self.is_over.store(true, Ordering::Relaxed);
        let mut echoed = vec![None; sent.len()];
        for (number, moment) in self.receiver.join().unwrap() {
            echoed[number].get_or_insert(moment);
        }
        self.echo.join().unwrap();
        Outcome { sent, echoed }
    }
}

fn send(
    socket: &UdpSocket,
    to: SocketAddr,
    period: Duration,
    is_done: &AtomicBool,
) -> Vec<Instant> {
    let mut sent = Vec::new();
    let begin = Instant::now();
    while !is_done.load(Ordering::Relaxed) {
        let number = u32::try_from(sent.len()).unwrap();
        sent.push(Instant::now());
        // The kernel refuses it while the device has no carrier: then it is lost.
        let _ = socket.send_to(&number.to_be_bytes(), to);
        let next = begin + period * (number + 1);
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    sent
}

fn receive(socket: &UdpSocket, is_over: &AtomicBool) -> Vec<(usize, Instant)> {
    let (mut received, mut buffer) = (Vec::new(), [0; 4]);
    while !is_over.load(Ordering::Relaxed) {
        match socket.recv_from(&mut buffer) {
            Ok(_) => {
                let number = u32::from_be_bytes(buffer).try_into().unwrap();
                received.push((number, Instant::now()));
            }
            Err(error) => assert!(is_timeout(&error), "{error}"),
        }
    }
    received
}

fn echo(socket: &UdpSocket, is_over: &AtomicBool) {
    let mut buffer = [0; 2048];
    while !is_over.load(Ordering::Relaxed) {
        match socket.recv_from(&mut buffer) {
            Ok((length, from)) => {
                let _ = socket.send_to(&buffer[..length], from);
            }
            Err(error) => assert!(is_timeout(&error), "{error}"),
        }
    }
}

/// Whether one of several datagrams comes back within `patience`.
pub fn answers(from: &Host, to: &Host, port: u16, patience: Duration) -> bool {
    let stream = Stream::begin(from, to, port, Duration::from_millis(20));
    let begin = Instant::now();
    while begin.elapsed() < patience {
        thread::sleep(Duration::from_millis(50));
    }
    let outcome = stream.end();
    outcome.lost() < outcome.sent.len()
}
