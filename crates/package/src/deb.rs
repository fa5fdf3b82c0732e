//! The Debian package.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::project::{PACKAGE, PROFILE, Project, TARGET};
use crate::tools::{CARGO_DEB, run};

/// Writes `shoutd_<version>_amd64.deb` of what is staged, and returns its path. What is in it is in
/// `[package.metadata.deb]` of `bin/shoutd/Cargo.toml`.
pub fn make(project: &Project, version: &str, output: &Path) -> Result<PathBuf> {
    let path = output.join(format!("{PACKAGE}_{version}_amd64.deb"));
    let mut command = project.cargo()?;
    command.arg("deb").env("PATH", CARGO_DEB.path(project)?);
    command.args(["--no-build", "--no-strip", "--quiet", "--package", PACKAGE]);
    command.args(["--profile", PROFILE, "--target", TARGET, "--deb-version", version]);
    run(command.arg("--output").arg(&path))?;
    Ok(path)
}
