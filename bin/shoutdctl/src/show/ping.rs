//! `shoutdctl ping`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use shoutd_cli::{Directories, EXIT_PROBLEMS};
use shoutd_core::limits::PING_REQUESTS_MAX;
use shoutd_core::ping::{AskPing, Ping as Pinged, PingPair, SIZE_MIN, Sizes};

use super::{Format, cell, table};
use crate::control;
use crate::style::{bold, red};

/// Hosts up to which the result is a matrix. With more, its columns are too narrow to read.
const MATRIX_MAX: usize = 5;

/// Ping between the segments of all hosts at the same time, through the tunnels
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  shoutdctl ping
  shoutdctl ping --network foo 224.1.1.1
  shoutdctl ping --network foo 10.9.0.7
  shoutdctl ping --network foo --sweep

Containers need nothing for it. Requests to a group come from one container of each host, go to \
                        UDP port 9 (discard), and count at the VXLAN devices of the hosts with \
                        members.

Exit codes: 0 if all requests arrived, 3 if not, 1 if shoutd does not answer or the network does \
                        not exist, 2 for a wrong command line.")]
pub struct Ping {
    #[command(flatten)]
    format: Format,
    /// The network (name or id) [default: the only one of the cluster]
    #[arg(long, value_name = "NETWORK")]
    network: Option<String>,
    /// How many requests each host sends; one is sent each 20 ms
    #[arg(long, value_name = "N", default_value_t = 100,
          value_parser = clap::value_parser!(u16).range(1..=i64::from(PING_REQUESTS_MAX)))]
    count: u16,
    /// Octets of each request, from the IP header on
    #[arg(long, value_name = "OCTETS", default_value_t = SIZE_MIN,
          value_parser = clap::value_parser!(u16).range(i64::from(SIZE_MIN)..))]
    size: u16,
    /// Send requests of all sizes up to the network's MTU, and find the largest that arrives
    #[arg(long, conflicts_with_all = ["size", "count"])]
    sweep: bool,
    /// Send to this group, which only hosts with members get, or have a container of each host ping
    /// this address [default: to all hosts]
    #[arg(value_name = "GROUP|ADDRESS")]
    to: Option<IpAddr>,
}

impl Ping {
    /// Has all hosts ping each other, and prints what did not arrive, then the matrix.
    ///
    /// # Errors
    /// The daemon does not answer, or the network does not exist.
    pub async fn run(self, directories: &Directories) -> Result<ExitCode> {
        let asked = AskPing {
            network: self.network,
            to: self.to,
            count: self.count,
            sizes: if self.sweep { Sizes::Sweep } else { Sizes::Fixed(self.size) },
        };
        let found: Pinged = control::post(directories, "/v1/ping", &asked).await?;
        if self.format.json {
            println!("{}", serde_json::to_string_pretty(&found)?);
        } else {
            print(&found, self.sweep);
        }
        Ok(if found.problems.is_empty() { ExitCode::SUCCESS } else { EXIT_PROBLEMS.into() })
    }
}

fn print(found: &Pinged, sweep: bool) {
    for problem in &found.problems {
        println!("{}", red(&cell(problem)));
    }
    if found.problems.is_empty() {
        println!("{}", bold(&summary(found)));
    }
    if found.pairs.is_empty() {
        return;
    }
    let size = if sweep { ", largest request of the MTU" } else { "" };
    let is_address = found.to.is_some_and(|to| !to.is_multicast());
    let shown = if found.hosts.len() <= MATRIX_MAX && !is_address {
        println!("\nrows send, columns receive: loss, round trip (half, 99 of 100){size}");
        matrix(found, sweep)
    } else {
        println!("\nloss, round trip (half, 99 of 100){size}");
        list(found, sweep)
    };
    println!("{shown}");
}

fn summary(found: &Pinged) -> String {
    let requests: u32 = found.pairs.iter().map(|pair| u32::from(pair.received)).sum();
    let to = found.to.map_or_else(String::new, |group| format!(" to {group}"));
    let network = cell(&found.network);
    match found.to.filter(|to| !to.is_multicast()) {
        Some(to) => format!("{to} answered all {requests} requests on network {network}"),
        None => format!(
            "all {requests} requests{to} arrived between {} hosts on network {network}",
            found.hosts.len()
        ),
    }
}

fn matrix(found: &Pinged, sweep: bool) -> String {
    let pairs = found.pairs.iter().map(|pair| ((pair.from.as_str(), pair.to.as_str()), pair));
    let pairs: BTreeMap<_, _> = pairs.collect();
    let mut rows = table([]);
    let names = found.hosts.iter().map(|host| cell(host));
    rows.set_header([String::new()].into_iter().chain(names));
    for from in &found.hosts {
        let cells = found.hosts.iter().map(|to| {
            let pair = pairs.get(&(from.as_str(), to.as_str()));
            pair.map_or_else(|| "-".to_owned(), |pair| outcome(pair, sweep, "\n"))
        });
        rows.add_row([cell(from)].into_iter().chain(cells));
    }
    rows.trim_fmt()
}

fn list(found: &Pinged, sweep: bool) -> String {
    let mut rows = table(["FROM", "TO", "OUTCOME"]);
    for pair in &found.pairs {
        rows.add_row([cell(&pair.from), cell(&pair.to), outcome(pair, sweep, ", ")]);
    }
    rows.trim_fmt()
}

/// What is known of one direction.
fn outcome(pair: &PingPair, sweep: bool, separator: &str) -> String {
    let mut parts = vec![format!("{} %", percent(pair.loss()))];
    let times = pair.round_trip.map(|times| [times.p50, times.p99].map(milliseconds));
    parts.extend(times.map(|[half, most]| format!("{half} {most} ms")));
    if pair.duplicates > 0 {
        parts.push(format!("{} twice", pair.duplicates));
    }
    if sweep {
        let largest = pair.largest.map_or_else(|| "none".to_owned(), |size| size.to_string());
        parts.push(format!("{largest} of {}", pair.mtu));
    }
    parts.join(separator)
}

/// A loss that is not 0 is not shown as 0.
fn percent(loss: f64) -> String {
    if loss > 0.0 && loss < 1.0 { format!("{loss:.1}") } else { format!("{loss:.0}") }
}

fn milliseconds(microseconds: u32) -> String {
    format!("{:.2}", f64::from(microseconds) / 1000.0)
}

#[cfg(test)]
mod tests {
    use shoutd_core::ping::RoundTrip;

    use super::*;

    fn pinged(hosts: usize, lost: u16) -> Pinged {
        let names: Vec<String> = (1..=hosts).map(|host| format!("host{host}")).collect();
        let pairs = names.iter().flat_map(|from| {
            names.iter().filter(move |to| *to != from).map(move |to| PingPair {
                from: from.clone(),
                to: to.clone(),
                sent: 1000,
                received: 1000 - lost,
                duplicates: 3,
                largest: Some(1372),
                mtu: 1450,
                round_trip: Some(RoundTrip { samples: 500, p50: 312, p99: 1850 }),
            })
        });
        Pinged { pairs: pairs.collect(), hosts: names, ..Pinged::default() }
    }

    #[test]
    fn five_hosts_fit_eighty_columns() {
        let shown = matrix(&pinged(5, 4), true);
        assert!(shown.lines().all(|line| line.len() <= 80), "{shown}");
        for part in ["0.4 %", "0.31 1.85 ms", "3 twice", "1372 of", "host5"] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
    }

    #[test]
    fn many_hosts_are_a_list() {
        let shown = list(&pinged(6, 1000), false);
        assert_eq!(shown.lines().count(), 31, "{shown}");
        assert!(shown.contains("100 %, 0.31 1.85 ms, 3 twice"), "{shown}");
    }
}
