//! `cargo xtask sim`: simulates whole clusters, one for each seed; see `crates/simulation`.

use std::process::ExitCode;

use anyhow::{Context, Result};
use shoutd_tooling::programs;

/// The test that runs the simulations.
const TEST: &str = "seeds::seeds";

/// Which simulations to run.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How many seeds.
    #[arg(long, default_value_t = 5000, conflicts_with = "seed")]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0, conflicts_with = "seed")]
    first: u64,
    /// Only this one, with everything that happens in it.
    #[arg(long)]
    seed: Option<u64>,
}

/// Builds the simulation and runs it, on all cores.
///
/// # Errors
///
/// Fails when it could not be run; the output and the exit code tell what it found.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let (first, count) =
        arguments.seed.map_or((arguments.first, arguments.seeds), |seed| (seed, 1));
    let mut command = programs::cargo();
    command
        .args(["test", "--workspace", "--test", "simulation", "--", "--exact", TEST, "--nocapture"])
        .env("SHOUTD_SIM_FIRST", first.to_string())
        .env("SHOUTD_SIM_SEEDS", count.to_string());
    if arguments.seed.is_some() {
        command.env("SHOUTD_SIM_TELL", "1");
    }
    let status = command.status().context("run cargo test")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
