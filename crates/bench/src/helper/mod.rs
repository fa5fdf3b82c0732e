//! The helpers at the ends of the measured networks: this same program, in their network
//! namespaces.
//!
//! Each ends by itself after the given seconds, and prints its findings as one line of JSON.

mod datagrams;
mod first_words;
mod joins;
mod membership;
mod round_trip;
mod silence;
mod tcp;
mod transitions;
mod wire;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use membership::{How, Place};
use nix::time::{ClockId, clock_gettime};

/// The line that a helper prints when it is ready.
pub(crate) const READY: &str = "ready";

/// The helpers' commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Send numbered datagrams, and print how many.
    Send {
        to: SocketAddr,
        /// The number of groups to send to in turn, from `to` on.
        #[arg(long, default_value_t = 1)]
        groups: u32,
        #[command(flatten)]
        place: Place,
        /// Bytes of payload.
        #[arg(long)]
        size: usize,
        #[arg(long)]
        seconds: f64,
        /// Datagrams per second; 0 is as many as possible.
        #[arg(long, default_value_t = 0)]
        rate: u32,
    },
    /// Receive numbered datagrams until their end, and print how many and how fast.
    Receive {
        at: SocketAddr,
        /// As in [`Command::Send`].
        #[arg(long, default_value_t = 1)]
        groups: u32,
        #[command(flatten)]
        place: Place,
        #[arg(long)]
        seconds: f64,
    },
    /// Send each datagram back, to its sender or to a group.
    Echo {
        at: SocketAddrV4,
        #[command(flatten)]
        place: Place,
        #[arg(long)]
        reply: Option<SocketAddrV4>,
        #[arg(long)]
        seconds: f64,
    },
    /// Measure round trips to an echo.
    Ping {
        to: SocketAddrV4,
        #[command(flatten)]
        place: Place,
        /// The group to which the answers come, if they do not come to the sender.
        #[arg(long)]
        from: Option<SocketAddrV4>,
        #[arg(long)]
        count: u32,
    },
    /// Send requests to an echo server, and print the longest time without an answer.
    Silence {
        echo: SocketAddrV4,
        #[arg(long)]
        seconds: f64,
    },
    /// Take one TCP connection, read it to its end, and print how fast it was.
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
        #[command(flatten)]
        place: Place,
        #[arg(long)]
        seconds: f64,
    },
    /// Join groups that are sent to, and measure the time to the first datagram of each.
    Join {
        server: SocketAddrV4,
        #[command(flatten)]
        place: Place,
        #[arg(long)]
        first: IpAddr,
        /// Join for this source only.
        #[arg(long)]
        source: Option<Ipv4Addr>,
        #[arg(long)]
        count: u32,
        /// How long the last group is still requested after the leave.
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
    /// Change the memberships of groups again and again; each time, wait until the host is sent
    /// them or not.
    Change {
        #[command(flatten)]
        place: Place,
        #[arg(long)]
        how: How,
        /// The sender.
        #[arg(long)]
        source: Ipv4Addr,
        #[arg(long)]
        first: Ipv4Addr,
        #[arg(long)]
        count: u32,
        /// The host's interface to the underlay.
        #[arg(long)]
        underlay: String,
        #[arg(long)]
        seconds: f64,
    },
    /// Send one broadcast and one multicast datagram first; then receive broadcasts.
    FirstWords {
        /// The network's broadcast address.
        broadcast: SocketAddrV4,
        group: SocketAddrV4,
        #[arg(long)]
        number: u32,
    },
    /// Count the first datagrams of others, until the end marker.
    HearFirstWords {
        /// The network's broadcast address.
        broadcast: SocketAddrV4,
        group: SocketAddrV4,
        #[command(flatten)]
        place: Place,
        #[arg(long)]
        seconds: f64,
    },
    /// Broadcast the time, again and again.
    Beacon {
        broadcast: SocketAddrV4,
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
/// Fails when the system does, and when an expected datagram did not arrive.
pub fn run(command: &Command) -> Result<ExitCode> {
    match command {
        Command::Send { to, groups, place, size, seconds, rate } => {
            datagrams::send(*to, *groups, place, *size, limit(*seconds)?, *rate)?;
        }
        Command::Receive { at, groups, place, seconds } => {
            datagrams::receive(*at, *groups, place, limit(*seconds)?)?;
        }
        Command::Echo { at, place, reply, seconds } => {
            round_trip::echo(*at, place, *reply, limit(*seconds)?)?;
        }
        Command::Ping { to, place, from, count } => round_trip::ping(*to, place, *from, *count)?,
        Command::Silence { echo, seconds } => silence::measure(*echo, limit(*seconds)?)?,
        Command::TcpReceive { at } => tcp::receive(*at)?,
        Command::TcpSend { to, seconds } => tcp::send(*to, limit(*seconds)?)?,
        Command::Serve { at, place, seconds } => joins::serve(*at, place, limit(*seconds)?)?,
        Command::Join { server, place, first, source, count, linger } => {
            joins::join(*server, place, (*first, *count), *source, limit(*linger)?)?;
        }
        Command::Churn { interface, first, rate, seconds } => {
            joins::churn(*interface, *first, *rate, limit(*seconds)?)?;
        }
        Command::Hold { interfaces, first, count, seconds } => {
            joins::hold(interfaces, *first, *count, limit(*seconds)?)?;
        }
        Command::Change { place, how, source, first, count, underlay, seconds } => {
            let groups: Vec<_> = (0..*count).map(|index| group_after(*first, index)).collect();
            transitions::change(place, *how, *source, &groups, underlay, limit(*seconds)?)?;
        }
        Command::FirstWords { broadcast, group, number } => {
            first_words::say(*broadcast, *group, *number)?;
        }
        Command::HearFirstWords { broadcast, group, place, seconds } => {
            first_words::hear(*broadcast, *group, place, limit(*seconds)?)?;
        }
        Command::Beacon { broadcast, seconds } => {
            first_words::beacon(*broadcast, limit(*seconds)?)?;
        }
        Command::Watch { interface, group, seconds } => {
            wire::watch(interface, *group, limit(*seconds)?)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The duration of a helper, within limits.
fn limit(seconds: f64) -> Result<Duration> {
    const LONGEST: f64 = 300.0;
    if !(0.0..=LONGEST).contains(&seconds) {
        bail!("{seconds} s is not between 0 and {LONGEST} s");
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// Nanoseconds of the monotonic clock, which all namespaces of the machine share.
fn monotonic_nanoseconds() -> Result<i64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).context("read the clock")?;
    Ok(now.tv_sec() * 1_000_000_000 + now.tv_nsec())
}

/// Datagrams that the kernel dropped at full sockets of this network namespace.
fn unread() -> Result<u64> {
    let table = fs::read_to_string("/proc/net/snmp").context("read /proc/net/snmp")?;
    let mut lines =
        table.lines().filter(|line| line.starts_with("Udp:")).map(str::split_whitespace);
    let (names, values) = (lines.next().context("no names")?, lines.next().context("no values")?);
    let column = names.zip(values).find(|(name, _)| *name == "RcvbufErrors");
    Ok(column.context("no RcvbufErrors in /proc/net/snmp")?.1.parse()?)
}

/// The group `index` after `first`.
fn group_after(first: Ipv4Addr, index: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(first.to_bits().wrapping_add(index))
}

/// The address `index` after `first`, of either family.
fn address_after(first: IpAddr, index: u32) -> IpAddr {
    match first {
        IpAddr::V4(first) => group_after(first, index).into(),
        IpAddr::V6(first) => Ipv6Addr::from_bits(first.to_bits().wrapping_add(index.into())).into(),
    }
}
