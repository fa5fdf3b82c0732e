//! Building the programs that the lab's hosts run.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The workspace's root.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// Where optimized programs are built, by the root.
const OPTIMIZED: &str = "target/optimized";

/// Builds these packages of the workspace and returns the directory of their programs.
///
/// # Errors
///
/// Fails when the build does.
pub fn build(packages: &[&str]) -> Result<PathBuf> {
    run_build(packages, &[])?;
    // This program is in the same build.
    let program = env::current_exe().context("find the running program")?;
    let directory = program.parent().context("find the running program's directory")?;
    Ok(directory.to_owned())
}

/// As [`build`], but the programs are as users have them.
///
/// # Errors
///
/// Fails when the build does.
pub fn build_optimized(packages: &[&str]) -> Result<PathBuf> {
    run_build(packages, &["--release", "--target-dir", OPTIMIZED])?;
    Ok(Path::new(ROOT).join(OPTIMIZED).join("release"))
}

fn run_build(packages: &[&str], options: &[&str]) -> Result<()> {
    let mut command = cargo();
    command.arg("build").args(options);
    for package in packages {
        command.args(["--package", package]);
    }
    let status = command.status().context("run cargo build")?;
    ensure!(status.success(), "the build failed, see above");
    Ok(())
}

/// The cargo that runs this program, at the workspace's root.
pub fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(ROOT);
    command
}
