//! The RPM package.

use std::path::Path;

use anyhow::Result;

use crate::project::{ARCH, PROFILE, Project, TARGET};
use crate::tools::{CARGO_GENERATE_RPM, run};

/// Writes `shoutd-<version>-1.<arch>.rpm` of what is staged. What is in it is in
/// `[package.metadata.generate-rpm]` of `bin/shoutd/Cargo.toml`.
pub fn make(project: &Project, output: &Path) -> Result<()> {
    let mut command = project.cargo()?;
    command.arg("generate-rpm").env("PATH", CARGO_GENERATE_RPM.path(project)?);
    command.args(["--package", "bin/shoutd", "--profile", PROFILE, "--target", TARGET]);
    command.args(["--auto-req", "disabled", "--payload-compress", "gzip"]);
    // Otherwise its date is that of its making.
    command.arg("--source-date").arg(project.epoch.to_string());
    let name = format!("{}-1.{ARCH}.rpm", project.name().trim_end_matches(&format!("-{ARCH}")));
    run(command.arg("--output").arg(output.join(name)))
}
