//! `cargo xtask fuzz`.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::Args;
use shoutd_tooling::programs;

/// The crates with fuzz targets.
const CRATES: [&str; 6] =
    ["shoutd-netlink", "shoutd-docker", "shoutd-peer", "shoutd-consensus", "shoutd-cli", "shoutd"];

/// Seconds for which `cargo xtask test` runs each target. With one per processor at a time, all
/// take half a minute on two processors.
const BRIEF: u64 = 2;

/// See `shoutd_fuzz::SECONDS_VARIABLE` and `shoutd_fuzz::SEED_VARIABLE`.
const SECONDS_VARIABLE: &str = "SHOUTD_FUZZ_SECONDS";
const SEED_VARIABLE: &str = "SHOUTD_FUZZ_SEED";

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// How long to run each target
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// The seed of all random choices, as a failure prints it; a new one each time unless given
    #[arg(long)]
    seed: Option<u64>,
    /// The target, or the beginning of its name, such as `token`; all unless given
    #[arg(default_value = "")]
    target: String,
}

/// Builds and runs the targets.
///
/// # Errors
///
/// Fails when they could not be run; the exit code is that of the targets.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let mut command = programs::cargo();
    command.args(["test", "--no-fail-fast", "--lib", "--bins"]);
    command.args(CRATES.iter().flat_map(|name| ["--package", name]));
    command.args(["--", "--nocapture", &format!("fuzz_{}", arguments.target)]);
    command.env(SECONDS_VARIABLE, arguments.seconds.to_string());
    command.env(SEED_VARIABLE, arguments.seed.unwrap_or_else(random).to_string());
    let status = command.status().context("run cargo test")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Makes the targets among the tests of `command` run for a short time, from a new seed each time.
pub(crate) fn briefly(command: &mut Command) {
    command.env(SECONDS_VARIABLE, BRIEF.to_string()).env(SEED_VARIABLE, random().to_string());
}

/// A number that differs from run to run. It need not be hard to guess.
fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0)
}
