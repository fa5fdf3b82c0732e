//! `shoutdctl why`.

use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use shoutd_cli::{Directories, EXIT_PROBLEMS};
use shoutd_core::explain::{AskWhy, Explanation};

use super::{Format, cell, table};
use crate::control;
use crate::style::bold;

/// Say why multicast does not arrive: what is broken, where, and what to do
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  shoutdctl why --network foo 224.1.1.1
  shoutdctl why --network foo --from sender --to receiver 224.1.1.1:5001
  shoutdctl why --network foo

Exit codes: 0 if nothing is broken, 3 if something is, 1 if shoutd does not answer or the network \
                        or container does not exist, 2 for a wrong command line.")]
pub struct Why {
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    way: Way,
}

/// The way about which a user asks.
#[derive(Debug, Clone, Args)]
pub struct Way {
    /// The network (name or id)
    #[arg(long, value_name = "NETWORK")]
    network: String,
    /// The container that sends (name, address, or first digits of its endpoint's id); any, if not
    /// given
    #[arg(long, value_name = "CONTAINER")]
    from: Option<String>,
    /// The container that should receive; all members of the group, if not given
    #[arg(long, value_name = "CONTAINER")]
    to: Option<String>,
    /// The group, such as 224.1.1.1, or with the UDP port, 224.1.1.1:5001; without it, what holds
    /// for all groups
    #[arg(value_name = "GROUP[:PORT]", value_parser = parse_group)]
    group: Option<(IpAddr, Option<u16>)>,
}

impl Way {
    /// The question.
    pub fn ask(&self) -> AskWhy {
        AskWhy {
            network: self.network.clone(),
            group: self.group.map(|(group, _)| group),
            port: self.group.and_then(|(_, port)| port),
            from: self.from.clone(),
            to: self.to.clone(),
        }
    }

    /// What is sent.
    pub fn subject(&self) -> String {
        self.group.map_or_else(|| "multicast".to_owned(), |(group, _)| group.to_string())
    }
}

fn parse_group(text: &str) -> Result<(IpAddr, Option<u16>), String> {
    let with_port = text.parse::<SocketAddr>().map(|both| (both.ip(), Some(both.port())));
    with_port.or_else(|_| text.parse().map(|group| (group, None))).map_err(|_| {
        "not a group: give an address such as 239.1.1.1 or ff15::1, and a UDP port if you like: \
         239.1.1.1:5001, [ff15::1]:5001"
            .to_owned()
    })
}

impl Why {
    /// Asks all hosts that have the network, and prints what is broken first, then the way.
    ///
    /// # Errors
    /// The daemon does not answer, or the network or a container does not exist.
    pub async fn run(self, directories: &Directories) -> Result<ExitCode> {
        let asked = self.way.ask();
        let found: Explanation = control::post(directories, "/v1/why", &asked).await?;
        if self.format.json {
            println!("{}", serde_json::to_string_pretty(&found)?);
        } else {
            self.print(&found);
        }
        Ok(if found.cause().is_none() { ExitCode::SUCCESS } else { EXIT_PROBLEMS.into() })
    }

    fn print(&self, found: &Explanation) {
        print_cause(found, || {
            format!(
                "nothing is broken on the way of {} on network {}, as far as shoutd looks",
                self.way.subject(),
                self.way.network
            )
        });
        let mut rows = table(["VERDICT", "STATION", "HOST", "FINDING"]);
        for finding in &found.findings {
            rows.add_row([
                finding.verdict.to_string(),
                finding.station.to_string(),
                cell(&finding.host),
                cell(&finding.text),
            ]);
        }
        if !found.findings.is_empty() {
            println!("\n{}", rows.trim_fmt());
        }
    }
}

/// Prints what is broken first and what to do, or this text if nothing is.
pub fn print_cause(found: &Explanation, nothing: impl FnOnce() -> String) {
    match found.cause() {
        Some(cause) => {
            println!("{}", bold(&cell(&format!("BROKEN: {}", cause.text))));
            if let Some(remedy) = &cause.remedy {
                println!("To do: {}", cell(remedy));
            }
        }
        None => println!("{}", bold(&cell(&nothing()))),
    }
}
