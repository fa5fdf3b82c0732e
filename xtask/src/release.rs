//! `cargo xtask release`: everything that a release needs, up to publishing.

use std::fs;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use shoutd_tooling::programs;
use shoutd_tooling::terminal::{show_progress, show_verdict};

/// The project's root.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Check and make everything of a release, without publishing it.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Confirm that nothing is to be published: a maintainer does that, as docs/release.md says
    #[arg(long)]
    dry_run: bool,

    /// Begin with this step, after an earlier one was mended
    #[arg(long, value_name = "STEP", default_value_t = 1)]
    from: usize,
}

/// What is run, as arguments of cargo.
const STEPS: [&[&str]; 8] = [
    &["fmt", "--all", "--check"],
    &["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"],
    &["doc", "--quiet", "--workspace", "--no-deps"],
    &["xtask", "demo"],
    &["xtask", "test"],
    &["xtask", "test", "--long"],
    &["xtask", "book"],
    &["xtask", "package", "--check"],
];

/// Runs all steps.
///
/// # Errors
///
/// The working tree has changes, the changelog lacks the version, or a step fails.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    if !options.dry_run {
        bail!("nothing is published from here: add --dry-run, and see docs/release.md");
    }
    let version = version()?;
    check_changelog(&version)?;
    check_tree()?;
    for (number, step) in (1..).zip(STEPS).skip(options.from.saturating_sub(1)) {
        let line = format!("cargo {}", step.join(" "));
        show_progress(&format!("step {number} of {}: {line}", STEPS.len()));
        let begin = Instant::now();
        let mut command = programs::cargo();
        command.args(step);
        if step.first() == Some(&"doc") {
            command.env("RUSTDOCFLAGS", "-D warnings");
        }
        let status = command.status().with_context(|| format!("run {line}"))?;
        ensure!(
            status.success(),
            "{line} failed, see above; mend it, and go on with --from {number}"
        );
        show_verdict(&format!("{line} ({:.0} s)", begin.elapsed().as_secs_f32()));
    }
    show_verdict(&format!("{version} is ready; docs/release.md says how it is published"));
    Ok(ExitCode::SUCCESS)
}

/// The version of the workspace.
fn version() -> Result<String> {
    let manifest = fs::read_to_string(format!("{ROOT}/Cargo.toml")).context("read Cargo.toml")?;
    let line = manifest.lines().find_map(|line| line.strip_prefix("version = \""));
    let version = line.and_then(|line| line.strip_suffix('"'));
    Ok(version.context("Cargo.toml has no version")?.to_owned())
}

/// The changelog must have a section of this version, above all others and not empty.
fn check_changelog(version: &str) -> Result<()> {
    let text = fs::read_to_string(format!("{ROOT}/CHANGELOG.md")).context("read CHANGELOG.md")?;
    let first = text.split("\n## ").nth(1).unwrap_or_default();
    let is_of_version = first.starts_with(&format!("{version} - "));
    ensure!(
        is_of_version && first.contains("\n* "),
        "the first section of CHANGELOG.md is {:?}, not that of {version}: move what is unreleased \
         to \"## {version} - <date>\", or raise the version in Cargo.toml",
        first.lines().next().unwrap_or_default()
    );
    Ok(())
}

/// Only what is committed can be built again.
fn check_tree() -> Result<()> {
    let output = Command::new("git").args(["status", "--porcelain"]).current_dir(ROOT).output();
    let output = output.context("run git status")?;
    ensure!(output.status.success(), "{ROOT} is not a Git repository");
    let changes = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(changes.is_empty(), "the working tree has changes; commit them first:\n{changes}");
    Ok(())
}
