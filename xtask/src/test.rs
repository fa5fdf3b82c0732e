//! `cargo xtask test`.

use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::{fuzz, machine, programs};

/// Installs what is missing, builds what tests run, and runs `cargo test`.
///
/// # Errors
///
/// Fails when the tests could not be run; what they say themselves is in the exit code.
pub(crate) fn run(arguments: &[String]) -> Result<ExitCode> {
    machine::prepare()?;
    programs::build(&["shoutd", "shoutdctl", "shoutd-lab"])?;
    let mut command = programs::cargo();
    command.arg("test");
    fuzz::briefly(&mut command);
    if arguments.is_empty() {
        command.args(["--workspace", "--no-fail-fast"]);
    }
    let status = command.args(arguments).status().context("run cargo test")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
