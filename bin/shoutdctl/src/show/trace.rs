//! `shoutdctl trace` and `shoutdctl capture`.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;
use shoutd_cli::{Directories, EXIT_PROBLEMS};
use shoutd_core::explain::{AskTrace, Trace as Traced, TraceProbe};

use super::why::{Way, print_cause};
use super::{Format, cell, pcapng, table};
use crate::control;

/// Count a group's packets at every place that they pass, on all hosts, and say where they stop
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  shoutdctl trace --network foo 224.1.1.1
  shoutdctl trace --network foo --from sender --to receiver --for 10s 224.1.1.1:5001
  shoutdctl trace --network foo --from sender --probe --size 1400 224.1.1.1

Exit codes: 0 if packets were sent and arrived, 3 if something is broken, 1 if shoutd does not \
                        answer or the network or container does not exist, 2 for a wrong command \
                        line.")]
pub struct Trace {
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    counted: Counted,
}

/// Count a group's packets, and write them to a file with an interface for each place, for
/// Wireshark
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  shoutdctl capture --network foo 224.1.1.1 -w foo.pcapng
  shoutdctl capture --network foo --from sender --probe --count 3 224.1.1.1 -w foo.pcapng
  shoutdctl capture --network foo 224.1.1.1 -w foo.pcapng --json

The file has the packets of all hosts, merged by the hosts' clocks, from the IP header on. VXLAN \
                        is at UDP port 7789: in Wireshark, decode that port as VXLAN. Packets of \
                        encrypted networks are in it as WireGuard gets them: not encrypted.

Exit codes: 0 if packets were sent and arrived, 3 if something is broken, 1 if shoutd does not \
                        answer, the network or container does not exist or the file cannot be \
                        written, 2 for a wrong command line.")]
pub struct Capture {
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    counted: Counted,
    /// The file, which must not exist
    #[arg(short = 'w', long = "write", value_name = "FILE")]
    file: PathBuf,
    /// Packets to keep at each place; a host keeps 1 MiB at most
    #[arg(long, value_name = "N", default_value_t = 1000,
          value_parser = clap::value_parser!(u16).range(1..=10_000))]
    packets: u16,
}

/// A file with packets.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Captured {
    /// The file.
    file: PathBuf,
    /// Number of packets in it.
    packets: usize,
    /// Number of places at which they were seen.
    places: usize,
    /// What was counted, also of packets that are not in the file.
    #[serde(flatten)]
    trace: Traced,
}

/// What to count, and for how long.
#[derive(Debug, Clone, Args)]
struct Counted {
    #[command(flatten)]
    way: Way,
    /// How long to count: 100ms to 20s [default: 5s; with --probe, as long as the probe takes]
    #[arg(long = "for", value_name = "TIME", value_parser = parse_time)]
    milliseconds: Option<u64>,
    /// Send UDP datagrams from the sender, instead of counting what its programs send; without a
    /// port in GROUP, they go to port 9 (discard), to which no program listens
    #[arg(long, requires = "from")]
    probe: bool,
    /// Octets in each datagram of the probe
    #[arg(long, value_name = "OCTETS", default_value_t = 64, requires = "probe",
          value_parser = clap::value_parser!(u16).range(0..=65_507))]
    size: u16,
    /// TTL of the probe
    #[arg(long, value_name = "TTL", default_value_t = 1, requires = "probe")]
    ttl: u8,
    /// How many datagrams the probe has; one is sent each 10 ms
    #[arg(long, value_name = "N", default_value_t = 100, requires = "probe",
          value_parser = clap::value_parser!(u16).range(1..=1000))]
    count: u16,
}

/// Parses `5s`, `500ms` or `5`.
fn parse_time(text: &str) -> Result<u64, String> {
    let (number, unit) = match text.strip_suffix("ms") {
        Some(number) => (number, 1),
        None => (text.strip_suffix('s').unwrap_or(text), 1000),
    };
    let milliseconds = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    milliseconds
        .filter(|milliseconds| (100..=20_000).contains(milliseconds))
        .ok_or_else(|| "give a time from 100ms to 20s, such as 5s".to_owned())
}

impl Counted {
    async fn ask(&self, directories: &Directories, kept: usize) -> Result<Traced> {
        let Self { size, ttl, count, .. } = *self;
        let probe = self.probe.then_some(TraceProbe { size, ttl, count });
        let asked = AskTrace { why: self.way.ask(), milliseconds: self.milliseconds, probe, kept };
        Ok(control::post(directories, "/v1/trace", &asked).await?)
    }

    fn print(&self, found: &Traced) -> ExitCode {
        print_cause(&found.explanation, || {
            format!("every packet of {} arrived, as far as shoutd counts", self.way.subject())
        });
        print(found);
        exit_code(found)
    }
}

fn exit_code(found: &Traced) -> ExitCode {
    if found.explanation.cause().is_none() { ExitCode::SUCCESS } else { EXIT_PROBLEMS.into() }
}

impl Trace {
    /// Has all hosts count, and prints where packets stop, then the way with the counts.
    ///
    /// # Errors
    /// The daemon does not answer, or the network or a container does not exist.
    pub async fn run(self, directories: &Directories) -> Result<ExitCode> {
        let found = self.counted.ask(directories, 0).await?;
        if self.format.json {
            println!("{}", serde_json::to_string_pretty(&found)?);
            return Ok(exit_code(&found));
        }
        Ok(self.counted.print(&found))
    }
}

impl Capture {
    /// The same as [`Trace::run`], and writes the packets.
    ///
    /// # Errors
    /// The same, or the file exists or cannot be written.
    pub async fn run(self, directories: &Directories) -> Result<ExitCode> {
        // Before the hosts count: a wrong name costs no time.
        let mut file = pcapng::create(&self.file)?;
        let found = self.counted.ask(directories, self.packets.into()).await;
        let written = found.and_then(|found| {
            let packets = pcapng::write(&mut file, &found.kept)
                .with_context(|| format!("cannot write {}", self.file.display()))?;
            Ok((found, packets))
        });
        let (mut found, packets) = written.inspect_err(|_| {
            // It was made by this command.
            let _ = fs::remove_file(&self.file);
        })?;
        if self.format.json {
            let code = exit_code(&found);
            let places = std::mem::take(&mut found.kept).len();
            let captured = Captured { file: self.file, packets, places, trace: found };
            println!("{}", serde_json::to_string_pretty(&captured)?);
            return Ok(code);
        }
        let code = self.counted.print(&found);
        println!(
            "\n{packets} packets of {} places are in {}",
            found.kept.len(),
            self.file.display()
        );
        Ok(code)
    }
}

fn print(found: &Traced) {
    let mut rows = table(["PACKETS", "STATION", "HOST", "PLACE"]);
    for count in &found.counts {
        rows.add_row([
            count.packets.to_string(),
            count.station.to_string(),
            cell(&count.host),
            cell(&count.place),
        ]);
    }
    if !found.counts.is_empty() {
        println!("\n{}", rows.trim_fmt());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit_or_are_seconds() {
        assert_eq!(parse_time("500ms"), Ok(500));
        assert_eq!(parse_time("5s"), Ok(5000));
        assert_eq!(parse_time("20"), Ok(20_000));
        for wrong in ["", "s", "0", "99ms", "21s", "-1s", "5m", "18446744073709551615s"] {
            assert!(parse_time(wrong).is_err(), "{wrong}");
        }
    }
}
