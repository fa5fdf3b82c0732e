//! Building the programs that the lab's hosts run.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The workspace's root.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// Directory of the optimized build, relative to the root.
const OPTIMIZED: &str = "target/optimized";

/// Builds all programs of the workspace and returns their directory.
///
/// One small test is built with them. Cargo chooses the features of dependencies for all that it
/// builds in one call, and takes those that only tests need into account if there is a test among
/// it. Without it, or for some packages alone, tokio and others would have other features, and
/// `cargo test --workspace` would build nearly everything again.
///
/// # Errors
///
/// Fails when the build does.
pub fn build() -> Result<PathBuf> {
    run_build(&["--workspace", "--bins", "--test", "text"])?;
    // This program is in the same build.
    let program = env::current_exe().context("find the running program")?;
    let directory = program.parent().context("find the running program's directory")?;
    Ok(directory.to_owned())
}

/// As [`build`], but only these packages, optimized.
///
/// # Errors
///
/// Fails when the build does.
pub fn build_optimized(packages: &[&str]) -> Result<PathBuf> {
    let packages = packages.iter().flat_map(|package| ["--package", package]);
    let options = ["--release", "--target-dir", OPTIMIZED];
    run_build(&options.into_iter().chain(packages).collect::<Vec<_>>())?;
    Ok(Path::new(ROOT).join(OPTIMIZED).join("release"))
}

fn run_build(options: &[&str]) -> Result<()> {
    let status = cargo().arg("build").args(options).status().context("run cargo build")?;
    ensure!(status.success(), "the build failed, see above");
    Ok(())
}

/// The cargo that runs this program, at the workspace's root.
pub fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(ROOT);
    command
}
