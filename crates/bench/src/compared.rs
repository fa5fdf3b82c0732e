//! The compared figures of all ways, measured in turn.

use std::net::{SocketAddr, SocketAddrV4};

use anyhow::{Context, Result, ensure};

use super::Options;
use super::report::{Bar, Comparison};
use super::statistics::percentile;
use super::ways::{End, Ends, Group, Way, findings, number};

/// Bytes of a datagram that fills a frame on every way, and of a small one.
const LARGE: usize = 1400;
const SMALL: usize = 64;

/// Runs per round, each with new processes, and round trips per run. Their duration depends on the
/// processors that they run on, and a single run has one of two usual values.
const RUNS: usize = 5;
const PINGS: u32 = 300;

/// UDP and TCP port of the receivers.
const PORT: u16 = 5000;

/// Port of answers in a group.
const BACK_PORT: u16 = 5001;

/// What is measured of multicast at full speed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stream {
    Throughput,
    PacketRate,
}

/// One figure, or several that are measured at once.
#[derive(Debug, Clone, Copy)]
enum Measure {
    Multicast(Stream, Group),
    Tcp,
    UnicastRoundTrip,
    MulticastRoundTrip,
}

/// A kind of measurement, with the figures that it gives.
#[derive(Debug)]
pub(super) struct Measurement {
    pub(super) name: String,
    pub(super) figures: Vec<Comparison>,
    measure: Measure,
}

impl Measurement {
    /// A measurement of multicast to a group, without samples. The kind precedes its name and
    /// title.
    pub(super) fn multicast(stream: Stream, group: Group, name: &str, title: &str) -> Self {
        let (what, unit) = match stream {
            Stream::Throughput => ("multicast throughput", "Mbit/s"),
            Stream::PacketRate => ("multicast packet rate", "packets/s"),
        };
        let figure = Comparison::new(format!("{what} {title}"), unit)
            .bar(Bar::at_least(Way::ByHand, 0.97))
            .bar(Bar::at_least(Way::EncryptedByHand, 0.97).of(Way::Encrypted));
        Self {
            name: format!("{what} {name}"),
            figures: vec![figure],
            measure: Measure::Multicast(stream, group),
        }
    }

    /// All wanted measurements, without samples.
    pub(super) fn all(options: &Options) -> Vec<Self> {
        let all = vec![
            Self::multicast(Stream::Throughput, Group::One, "to one host", "1 → 1, 1400 B"),
            Self::multicast(Stream::PacketRate, Group::One, "to one host", "1 → 1, 64 B"),
            Self::multicast(
                Stream::Throughput,
                Group::Two,
                "to two hosts",
                "1 → 2, 1400 B, per receiver",
            ),
            Self::multicast(
                Stream::PacketRate,
                Group::Two,
                "to two hosts",
                "1 → 2, 64 B, per receiver",
            ),
            Self::multicast(
                Stream::Throughput,
                Group::OneOfIpv6,
                "to one host by IPv6",
                "1 → 1 by IPv6, 1400 B",
            ),
            Self::multicast(
                Stream::PacketRate,
                Group::OneOfIpv6,
                "to one host by IPv6",
                "1 → 1 by IPv6, 64 B",
            ),
            Self {
                name: "TCP throughput".to_owned(),
                figures: vec![
                    Comparison::new("TCP throughput", "Mbit/s")
                        .bar(Bar::at_least(Way::Overlay, 1.0)),
                ],
                measure: Measure::Tcp,
            },
            Self {
                name: "unicast round trip".to_owned(),
                figures: vec![
                    Comparison::new("unicast round trip p50", "µs")
                        .bar(Bar::at_most(Way::Overlay, 1.0)),
                    Comparison::new("unicast round trip p99", "µs")
                        .bar(Bar::at_most(Way::Overlay, 1.0)),
                ],
                measure: Measure::UnicastRoundTrip,
            },
            Self {
                name: "multicast round trip".to_owned(),
                figures: vec![
                    Comparison::new("multicast round trip p50", "µs"),
                    Comparison::new("multicast round trip p99", "µs"),
                ],
                measure: Measure::MulticastRoundTrip,
            },
        ];
        all.into_iter().filter(|measurement| options.wants(&measurement.name)).collect()
    }

    /// Measures each way once, for `seconds` where that applies; every other round backwards, so
    /// that none is always the later one. A failure is reported and has no sample.
    pub(super) fn round(
        &mut self,
        number: u32,
        ways: &[Ends],
        seconds: f64,
        mut complain: impl FnMut(&str),
    ) {
        let mut order = Way::ALL;
        if number.is_multiple_of(2) {
            order.reverse();
        }
        for way in order {
            let measured = ways
                .iter()
                .find(|ends| ends.way == way)
                .map(|ends| self.measure.samples(ends, seconds));
            let values = match measured.transpose() {
                Ok(values) => values.flatten().unwrap_or_default(),
                Err(error) => {
                    complain(&format!("{}, {way}: {error:#}", self.name));
                    Vec::new()
                }
            };
            for (index, figure) in self.figures.iter_mut().enumerate() {
                figure.add(way, values.get(index).copied());
            }
        }
    }
}

impl Measure {
    /// The samples of one way; `None` for a way without this figure.
    fn samples(self, ends: &Ends, seconds: f64) -> Result<Option<Vec<f64>>> {
        match self {
            Self::Multicast(Stream::Throughput, group) => throughput(ends, group, seconds),
            Self::Multicast(Stream::PacketRate, group) => packet_rate(ends, group, seconds),
            Self::Tcp => tcp(ends, seconds),
            Self::UnicastRoundTrip => unicast_round_trip(ends).map(Some),
            Self::MulticastRoundTrip => multicast_round_trip(ends),
        }
    }
}

fn throughput(ends: &Ends, group: Group, seconds: f64) -> Result<Option<Vec<f64>>> {
    let received = stream(ends, group, LARGE, seconds)?;
    Ok(received.map(|datagrams| vec![datagrams * LARGE as f64 * 8.0 / 1e6]))
}

fn packet_rate(ends: &Ends, group: Group, seconds: f64) -> Result<Option<Vec<f64>>> {
    Ok(stream(ends, group, SMALL, seconds)?.map(|datagrams| vec![datagrams]))
}

/// Sends at full speed from host 1; returns the datagrams per second of the receiver that got the
/// least. The underlay has no multicast: it is unicast there, to one host. Docker's overlay has
/// none to other hosts.
fn stream(ends: &Ends, group: Group, size: usize, seconds: f64) -> Result<Option<f64>> {
    let receivers = (2..=ends.count()).filter(|host| group.is_received_on(*host));
    let multicast = match ends.way {
        Way::Underlay if group == Group::One => false,
        Way::Underlay | Way::Overlay => return Ok(None),
        Way::ByHand | Way::Shoutd | Way::EncryptedByHand | Way::Encrypted => true,
    };
    let mut listening = Vec::new();
    let mut to = SocketAddr::new(group.address(), PORT);
    for host in receivers {
        let end = ends.on(host.into())?;
        if !multicast {
            to = SocketAddr::new(end.address.into(), PORT);
        }
        let limit = seconds + 5.0;
        listening
            .push(end.ready_helper(&format!("receive {to} {} --seconds {limit}", end.place()))?);
    }
    let near = ends.on(1)?;
    let sent = near.run_helper(
        &format!("send {to} {} --size {size} --seconds {seconds}", near.place()),
        seconds,
    )?;
    let mut least = f64::INFINITY;
    for process in &mut listening {
        let heard = findings(process, seconds + 5.0)?;
        let (received, time) = (number(&heard, "received")?, number(&heard, "seconds")?);
        ensure!(received > 1.0 && time > 0.0, "nothing was received by {}", process.what());
        // A slow receiver reads its buffer after the sender's end, so the sender's time is too
        // short then.
        least = least.min(received / time.max(number(&sent, "seconds")?));
    }
    Ok(Some(least))
}

fn tcp(ends: &Ends, seconds: f64) -> Result<Option<Vec<f64>>> {
    let at = SocketAddrV4::new(ends.on(2)?.address, PORT);
    let mut receiver = ends.on(2)?.ready_helper(&format!("tcp-receive {at}"))?;
    ends.on(1)?.run_helper(&format!("tcp-send {at} --seconds {seconds}"), seconds)?;
    let heard = findings(&mut receiver, seconds)?;
    Ok(Some(vec![number(&heard, "bytes")? * 8.0 / number(&heard, "seconds")? / 1e6]))
}

fn unicast_round_trip(ends: &Ends) -> Result<Vec<f64>> {
    let (near, far) = (ends.on(1)?, ends.on(2)?);
    let at = SocketAddrV4::new(far.address, PORT);
    let echo = format!("echo {at} {} --seconds 60", far.place());
    round_trips(near, &format!("ping {at} {} --count {PINGS}", near.place()), far, &echo)
}

/// There in one group, back in another.
fn multicast_round_trip(ends: &Ends) -> Result<Option<Vec<f64>>> {
    if matches!(ends.way, Way::Underlay | Way::Overlay) {
        return Ok(None);
    }
    let (near, far) = (ends.on(1)?, ends.on(2)?);
    let to = SocketAddr::new(Group::One.address(), PORT);
    let back = SocketAddr::new(Group::Back.address(), BACK_PORT);
    let echo = format!("echo {to} {} --reply {back} --seconds 60", far.place());
    let ping = format!("ping {to} {} --from {back} --count {PINGS}", near.place());
    round_trips(near, &ping, far, &echo).map(Some)
}

/// Percentiles of the round trips, each the median of several runs.
fn round_trips(near: &End, ping: &str, far: &End, echo: &str) -> Result<Vec<f64>> {
    let (mut p50, mut p99) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let mut echo = far.ready_helper(echo)?;
        let found = near.run_helper(ping, 30.0);
        echo.kill()?;
        let [median, tail] = percentiles(&found?)?;
        p50.push(median);
        p99.push(tail);
    }
    [p50, p99].iter().map(|times| percentile(times, 50.0).context("no runs")).collect()
}

fn percentiles(found: &serde_json::Value) -> Result<[f64; 2]> {
    let lost = number(found, "lost")?;
    ensure!(lost <= f64::from(PINGS) / 100.0, "{lost} of {PINGS} round trips were not completed");
    Ok([number(found, "p50")?, number(found, "p99")?])
}
