//! The Python wheel, and the source distribution from which pip can build it.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::files::{copy, list};
use crate::project::{PROFILE, Project, TARGET};
use crate::stage::Stage;
use crate::tools::{empty_directory, install_maturin, run};

/// Platform of the wheel: the programs need no C library, and this names the oldest one that pip
/// of every distribution knows.
const PLATFORM: &str = "manylinux_2_17";

/// A further platform: distributions with musl, such as Alpine. maturin refuses to name both.
const OTHER_PLATFORM: &str = "musllinux_1_1_x86_64";

/// Writes `shoutd-<version>-py3-none-<platforms>.whl` and `shoutd-<version>.tar.gz`. maturin builds
/// with the same options as [`crate::build`], so Cargo builds nothing again. With `--sdist` it
/// would build the unpacked source distribution. Its programs have symbols, so those without them
/// take their place.
pub fn make(project: &Project, stage: &Stage, output: &Path) -> Result<()> {
    let venv = install_maturin(project)?;
    let made = empty_directory(project.build_directory().join("wheel"))?;
    let mut command = project.program(&venv.join("bin/maturin"))?;
    command.args(["build", "--quiet", "--locked", "--profile", PROFILE]);
    command.args(["--target", TARGET, "--compatibility", PLATFORM]);
    run(command.arg("--out").arg(&made))?;
    let mut source = project.program(&venv.join("bin/maturin"))?;
    run(source.args(["sdist", "--out"]).arg(&made))?;

    for path in list(&made)? {
        if is_wheel(&path) {
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
    run(pack.args(["pack", "--dest-dir"]).arg(output).arg(&unpacked).stdout(Stdio::null()))?;
    for packed in list(output)?.iter().filter(|path| is_wheel(path)) {
        let mut tags = project.program(tool)?;
        tags.args(["tags", "--remove", "--platform-tag"]).arg(format!("+{OTHER_PLATFORM}"));
        run(tags.arg(packed).stdout(Stdio::null()))?;
    }
    Ok(())
}

fn is_wheel(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "whl")
}
