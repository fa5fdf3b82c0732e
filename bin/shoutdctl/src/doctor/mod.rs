//! `shoutdctl doctor`: whether this host is ready for shoutd, or serves well. The judgement is
//! [`shoutd_core::doctor`]'s; here are the facts and the output.

mod collect;
mod engine;
mod host;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;
use shoutd_cli::{DOCKER_SOCKET, Directories};
use shoutd_core::address::parse_address;
use shoutd_core::doctor::{Finding, Level, examine, worst};
use shoutd_core::view::DATA_DIRECTORY;

use crate::show::{Format, cell};
use crate::style::{bold, red, yellow};

/// Exit code if there are warnings and no errors.
const EXIT_WARNINGS: u8 = 1;

/// Exit code if there are errors, or if nothing could be checked.
pub const EXIT_ERRORS: u8 = 2;

/// Check this host before and after the installation: each finding is ok, a warning or an error,
/// with what to do
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  shoutdctl doctor
  shoutdctl doctor --peer-addresses=192.0.2.2,192.0.2.3
  shoutdctl doctor --json | jq -r '.findings[] | select(.level == \"error\") | .text'

Before the installation it checks the kernel, Docker, the ports, the firewall, subnets, disks, the \
                        order at boot, whether this host can encrypt, and what is left of an \
                        earlier installation. While shoutd runs it also checks the other hosts: \
                        TCP, VXLAN and WireGuard in both directions and at full MTU, and their \
                        clocks. What cannot be told is \"not checked\", with what to do, and does \
                        not count.

Exit codes: 0 if all is well, 1 if there are warnings, 2 if there are errors, for a wrong command \
                        line, and without root.")]
pub struct Doctor {
    #[command(flatten)]
    format: Format,

    /// Hosts on which shoutd runs, to which this host must be able to connect [port: 7789]
    #[arg(long, value_name = "ADDRESSES", value_delimiter = ',', value_parser = parse_address)]
    peer_addresses: Vec<SocketAddr>,

    /// The daemon's data directory, if it does not run
    #[arg(long, value_name = "DIR", default_value = DATA_DIRECTORY)]
    data_dir: PathBuf,

    /// Docker's API socket, if the daemon does not run
    #[arg(long, value_name = "PATH", default_value = DOCKER_SOCKET)]
    docker_socket: PathBuf,
}

/// The output as JSON.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Report {
    /// The worst level.
    worst: Level,
    /// All findings, in the order of the checks.
    findings: Vec<Finding>,
}

impl Doctor {
    /// Prints the findings. The exit code depends on the worst.
    ///
    /// # Errors
    /// The output cannot be encoded.
    pub async fn run(self, directories: &Directories) -> Result<ExitCode> {
        let sources = collect::Sources {
            directories: directories.clone(),
            data_directory: self.data_dir,
            docker_socket: self.docker_socket,
            peer_addresses: self.peer_addresses,
        };
        let findings = examine(&sources.facts().await);
        let report = Report { worst: worst(&findings), findings };
        if self.format.json {
            println!("{}", serde_json::to_string_pretty(&report)?);
        } else {
            print(&report);
        }
        Ok(match report.worst {
            Level::Ok | Level::NotChecked => ExitCode::SUCCESS,
            Level::Warning => EXIT_WARNINGS.into(),
            Level::Error => EXIT_ERRORS.into(),
        })
    }
}

fn print(report: &Report) {
    for finding in &report.findings {
        let level = format!("{:<11}", finding.level.to_string());
        let level = match finding.level {
            Level::Error => red(&level),
            Level::Warning => yellow(&level),
            Level::Ok | Level::NotChecked => level,
        };
        println!("{level}  {:<9}  {}", finding.check.to_string(), cell(&finding.text));
        if let Some(remedy) = &finding.remedy {
            println!("{:<24}to do: {}", "", cell(remedy));
        }
    }
    let count = |level| report.findings.iter().filter(|finding| finding.level == level).count();
    let summary = format!(
        "ok: {}, not checked: {}, warnings: {}, errors: {}",
        count(Level::Ok),
        count(Level::NotChecked),
        count(Level::Warning),
        count(Level::Error)
    );
    println!("\n{}", bold(&summary));
}
