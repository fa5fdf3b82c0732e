//! The archives of the programs and of their debug symbols.

use std::path::Path;

use anyhow::Result;

use crate::build::{PROGRAMS, Programs};
use crate::files::{Archive, read, write_gz};
use crate::project::Project;
use crate::stage::Stage;

/// Writes `shoutd-<version>-<arch>.tar.gz`, and the same with `-debug`.
pub fn make(project: &Project, programs: &Programs, stage: &Stage, output: &Path) -> Result<()> {
    let name = project.name();
    let mut archive = Archive::new(project.epoch);
    for (path, file) in stage.archive_files()? {
        let mode = if path.starts_with("bin") { 0o755 } else { 0o644 };
        archive.file(Path::new(&name).join(path), &read(&file)?, mode)?;
    }
    write_gz(&output.join(format!("{name}.tar.gz")), &archive.finish()?)?;

    let name = format!("{name}-debug");
    let mut archive = Archive::new(project.epoch);
    for program in PROGRAMS {
        let symbols = read(&programs.symbols(program))?;
        archive.file(format!("{name}/{program}.debug"), &symbols, 0o644)?;
    }
    write_gz(&output.join(format!("{name}.tar.gz")), &archive.finish()?)
}
