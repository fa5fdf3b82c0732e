//! The list of crates in the programs (SBOM), in CycloneDX's format.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::files::{read, write};
use crate::project::{Project, TARGET};
use crate::tools::{CARGO_CYCLONEDX, run};

/// Writes `shoutd-<version>-<arch>.cdx.json`.
pub fn make(project: &Project, output: &Path) -> Result<()> {
    let name = format!("{}.cdx", project.name());
    let mut command = project.cargo()?;
    command.arg("cyclonedx").env("PATH", CARGO_CYCLONEDX.path(project)?);
    command.args(["--format", "json", "--spec-version", "1.5", "--target", TARGET, "--quiet"]);
    command.args(["--manifest-path", "bin/shoutd/Cargo.toml", "--override-filename", &name]);
    run(&mut command)?;
    // The tool writes it beside the manifest, and one beside that of each other package.
    let file = format!("{name}.json");
    for directory in ["bin", "crates", "."] {
        let directory = project.root.join(directory);
        for entry in fs::read_dir(&directory)? {
            let written = entry?.path().join(&file);
            if written.exists() && !written.starts_with(project.root.join("bin/shoutd")) {
                fs::remove_file(&written)?;
            }
        }
    }
    let written = project.root.join("bin/shoutd").join(&file);
    let text = String::from_utf8(read(&written)?)?;
    // It names the workspace's crates by where they are.
    let text = text.replace(&project.root.display().to_string(), "/shoutd");
    write(&output.join(&file), text.as_bytes())?;
    fs::remove_file(&written).context("remove the list of crates beside the manifest")
}
