//! Where the programs of this build are.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The directory of the running program's build; tests are in a subdirectory.
pub(crate) fn build_directory() -> Result<PathBuf> {
    let program = env::current_exe().context("find the running program")?;
    let directory = program.parent().context("find the running program's directory")?;
    let directory = if directory.ends_with("deps") { directory.parent() } else { Some(directory) };
    directory.map(Path::to_owned).context("find the build's directory")
}
