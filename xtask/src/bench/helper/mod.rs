//! What the benchmark runs at the ends of the networks it measures: this same program, in their network namespaces.
//!
//! Everything ends by itself after the seconds it is given, and prints its findings as one line of JSON.

mod datagrams;
mod joins;
mod round_trip;
mod silence;
mod tcp;
mod wire;

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::RcvBufForce;
use nix::time::{ClockId, clock_gettime};

/// Room in a receiver's socket, in bytes: what it may not have read yet when others have the processor.
const BUFFER: usize = 64 << 20;

/// What a helper that is waited for prints when it can be used.
pub(crate) const READY: &str = "ready";

/// The parts that are played at the ends of a network.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Send numbered datagrams, and say how many.
    Send {
        to: SocketAddrV4,
        /// Bytes of payload.
        #[arg(long)]
        size: usize,
        #[arg(long)]
        seconds: f64,
        /// Datagrams per second; 0 is as many as can be.
        #[arg(long, default_value_t = 0)]
        rate: u32,
    },
    /// Receive numbered datagrams until their end, and say how many and how fast.
    Receive {
        at: SocketAddrV4,
        #[arg(long)]
        interface: Ipv4Addr,
        #[arg(long)]
        seconds: f64,
    },
    /// Send each datagram back, to its sender or to a group.
    Echo {
        at: SocketAddrV4,
        #[arg(long)]
        interface: Ipv4Addr,
        #[arg(long)]
        reply: Option<SocketAddrV4>,
        #[arg(long)]
        seconds: f64,
    },
    /// Measure round trips to an echo.
    Ping {
        to: SocketAddrV4,
        #[arg(long)]
        interface: Ipv4Addr,
        /// The group in which the answers come, if they do not come to the sender.
        #[arg(long)]
        from: Option<SocketAddrV4>,
        #[arg(long)]
        count: u32,
    },
    /// Ask an echo again and again, and say how long it did not answer at the most.
    Silence {
        echo: SocketAddrV4,
        #[arg(long)]
        seconds: f64,
    },
    /// Take one TCP connection, read it to its end, and say how fast it was.
    TcpReceive { at: SocketAddrV4 },
    /// Send over one TCP connection.
    TcpSend {
        to: SocketAddrV4,
        #[arg(long)]
        seconds: f64,
    },
    /// Send to the group that a joiner asks for.
    Serve {
        at: SocketAddrV4,
        #[arg(long)]
        seconds: f64,
    },
    /// Join groups that are sent to, and measure the time to the first datagram of each.
    Join {
        server: SocketAddrV4,
        #[arg(long)]
        interface: Ipv4Addr,
        #[arg(long)]
        first: Ipv4Addr,
        #[arg(long)]
        count: u32,
        /// How long the last group is still asked for after it was left.
        #[arg(long, default_value_t = 0.0)]
        linger: f64,
    },
    /// Join and leave groups at a rate.
    Churn {
        #[arg(long)]
        interface: Ipv4Addr,
        #[arg(long)]
        first: Ipv4Addr,
        /// Joins per second.
        #[arg(long)]
        rate: u32,
        #[arg(long)]
        seconds: f64,
    },
    /// Join groups on each of some interfaces, and stay in them.
    Hold {
        /// The interfaces' addresses.
        #[arg(long, value_delimiter = ',')]
        interfaces: Vec<Ipv4Addr>,
        #[arg(long)]
        first: Ipv4Addr,
        /// The groups on each.
        #[arg(long)]
        count: u32,
        #[arg(long)]
        seconds: f64,
    },
    /// Count the tunnelled frames to a group that reach an interface of the underlay.
    Watch {
        #[arg(long)]
        interface: String,
        #[arg(long)]
        group: Ipv4Addr,
        #[arg(long)]
        seconds: f64,
    },
}

/// # Errors
///
/// Fails when the system does, and when what was to be heard was not.
pub(crate) fn run(command: &Command) -> Result<ExitCode> {
    match command {
        Command::Send { to, size, seconds, rate } => datagrams::send(*to, *size, limit(*seconds)?, *rate)?,
        Command::Receive { at, interface, seconds } => datagrams::receive(*at, *interface, limit(*seconds)?)?,
        Command::Echo { at, interface, reply, seconds } => {
            round_trip::echo(*at, *interface, *reply, limit(*seconds)?)?;
        }
        Command::Ping { to, interface, from, count } => round_trip::ping(*to, *interface, *from, *count)?,
        Command::Silence { echo, seconds } => silence::measure(*echo, limit(*seconds)?)?,
        Command::TcpReceive { at } => tcp::receive(*at)?,
        Command::TcpSend { to, seconds } => tcp::send(*to, limit(*seconds)?)?,
        Command::Serve { at, seconds } => joins::serve(*at, limit(*seconds)?)?,
        Command::Join { server, interface, first, count, linger } => {
            joins::join(*server, *interface, *first, *count, limit(*linger)?)?;
        }
        Command::Churn { interface, first, rate, seconds } => {
            joins::churn(*interface, *first, *rate, limit(*seconds)?)?;
        }
        Command::Hold { interfaces, first, count, seconds } => {
            joins::hold(interfaces, *first, *count, limit(*seconds)?)?;
        }
        Command::Watch { interface, group, seconds } => wire::watch(interface, *group, limit(*seconds)?)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// A duration that no helper outlives by much.
fn limit(seconds: f64) -> Result<Duration> {
    const LONGEST: f64 = 300.0;
    if !(0.0..=LONGEST).contains(&seconds) {
        bail!("{seconds} s is not between 0 and {LONGEST} s");
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// A socket that receives what is sent to `at`, joining it if it is a group, on the interface with this address. Reads
/// give up after `patience`.
fn listen(at: SocketAddrV4, interface: Ipv4Addr, patience: Duration) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(at).with_context(|| format!("bind to {at}"))?;
    setsockopt(&socket, RcvBufForce, &BUFFER).context("enlarge the socket's buffer")?;
    socket.set_read_timeout(Some(patience)).context("set the socket's timeout")?;
    if at.ip().is_multicast() {
        socket.join_multicast_v4(at.ip(), &interface).with_context(|| format!("join {}", at.ip()))?;
    }
    Ok(socket)
}

/// Nanoseconds of the monotonic clock, which is one for all namespaces of the machine.
fn monotonic_nanoseconds() -> Result<i64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).context("read the clock")?;
    Ok(now.tv_sec() * 1_000_000_000 + now.tv_nsec())
}

/// How many datagrams the kernel could not put into a full socket of this network namespace.
fn unread() -> Result<u64> {
    let table = fs::read_to_string("/proc/net/snmp").context("read /proc/net/snmp")?;
    let mut lines = table.lines().filter(|line| line.starts_with("Udp:")).map(str::split_whitespace);
    let (names, values) = (lines.next().context("no names")?, lines.next().context("no values")?);
    let column = names.zip(values).find(|(name, _)| *name == "RcvbufErrors");
    Ok(column.context("no RcvbufErrors in /proc/net/snmp")?.1.parse()?)
}

/// The group that comes `index` after `first`.
fn group_after(first: Ipv4Addr, index: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(first.to_bits().wrapping_add(index))
}
