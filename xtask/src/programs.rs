//! Building the programs that the lab's hosts run.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Builds these packages of the workspace and returns the directory of their programs.
///
/// # Errors
///
/// Fails when the build does.
pub(crate) fn build(packages: &[&str]) -> Result<PathBuf> {
    let mut command = cargo();
    command.arg("build");
    for package in packages {
        command.args(["--package", package]);
    }
    let status = command.status().context("run cargo build")?;
    ensure!(status.success(), "the build failed, see above");
    // This program is in the same build.
    let program = env::current_exe().context("find the running program")?;
    let directory = program.parent().context("find the running program's directory")?;
    Ok(directory.to_owned())
}

/// The cargo that runs this program, at the workspace's root.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    command
}
