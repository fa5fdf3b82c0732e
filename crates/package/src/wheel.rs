//! The Python wheel, and the source distribution from which pip can build it.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::files::{copy, list};
use crate::project::{PROFILE, Project, TARGET};
use crate::stage::Stage;
use crate::tools::{empty_directory, install_maturin, run};

/// Platforms of the wheel. The programs need no C library: pip may install them where the oldest
/// one is that wheels can name, and on Alpine.
const PLATFORMS: [&str; 2] = ["manylinux_2_17", "musllinux_1_1"];

/// Writes `shoutd-<version>-py3-none-<platforms>.whl` and `shoutd-<version>.tar.gz`. maturin builds
/// with the same options as [`crate::build`], so Cargo builds nothing again. Its programs have
/// symbols, so those without them take their place.
pub fn make(project: &Project, stage: &Stage, output: &Path) -> Result<()> {
    let venv = install_maturin(project)?;
    let made = empty_directory(project.build_directory().join("wheel"))?;
    let mut command = project.program(&venv.join("bin/maturin"))?;
    command.args(["build", "--quiet", "--locked", "--sdist", "--profile", PROFILE]);
    command.args(["--target", TARGET, "--compatibility"]).args(PLATFORMS);
    run(command.arg("--out").arg(&made))?;

    for path in list(&made)? {
        if path.extension().is_some_and(|extension| extension == "whl") {
            repack(project, &venv.join("bin/wheel"), stage, &path, output)?;
        } else {
            copy(&path, &output.join(path.file_name().context("a file's name")?))?;
        }
    }
    Ok(())
}

/// Replaces the programs in a wheel.
fn repack(
    project: &Project,
    tool: &Path,
    stage: &Stage,
    wheel: &Path,
    output: &Path,
) -> Result<()> {
    let work = empty_directory(project.build_directory().join("wheel-unpacked"))?;
    run(Command::new(tool).args(["unpack", "--dest"]).arg(&work).arg(wheel).stdout(Stdio::null()))?;
    let name = format!("shoutd-{}", project.version);
    let unpacked = work.join(&name);
    for (program, file) in stage.programs() {
        copy(&file, &unpacked.join(format!("{name}.data/scripts")).join(program))?;
    }
    let mut pack = project.program(tool)?;
    run(pack.args(["pack", "--dest-dir"]).arg(output).arg(&unpacked).stdout(Stdio::null()))
}
