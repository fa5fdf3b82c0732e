//! The wheel and its source distribution, by pip.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::root::Root;
use crate::files::list;
use crate::project::Project;
use crate::tools::{PYTHON, empty_directory, output, run};

/// Installs the wheel in a venv of the release's own Python, and runs the programs.
pub fn install(packages: &Path, root: &Root) -> Result<()> {
    let wheel = root.add(&find(packages, "whl")?)?;
    root.run(&["python3", "-m", "venv", "/venv"])?;
    root.run(&["/venv/bin/pip", "install", "--quiet", "--no-index", &wheel])?;
    for program in ["shoutd", "shoutdctl"] {
        let told = root.run(&[&format!("/venv/bin/{program}"), "--version"])?;
        ensure!(told.starts_with(program), "it says {told:?}");
    }
    root.run(&["/venv/bin/pip", "uninstall", "--quiet", "--yes", "shoutd"]).map(drop)
}

/// Has pip build the source distribution on this machine, quickly rather than well, and runs a
/// program.
pub fn build_from_source(project: &Project, packages: &Path, work: &Path) -> Result<()> {
    let source = packages.join(format!("shoutd-{}.tar.gz", project.version));
    let venv = work.join("venv");
    run(Command::new(PYTHON).args(["-m", "venv", "--clear"]).arg(&venv))?;
    let mut pip = Command::new(venv.join("bin/pip"));
    pip.args(["install", "--quiet"]).arg(&source);
    pip.env("CARGO_TARGET_DIR", empty_directory(work.join("sdist"))?);
    pip.envs(
        ["LTO", "OPT_LEVEL", "CODEGEN_UNITS"]
            .map(|name| format!("CARGO_PROFILE_RELEASE_{name}"))
            .into_iter()
            .zip(["off", "0", "256"]),
    );
    run(&mut pip)?;
    let told = output(Command::new(venv.join("bin/shoutdctl")).arg("--version"))?;
    let told = String::from_utf8_lossy(&told).into_owned();
    ensure!(told.trim() == format!("shoutdctl {}", project.version), "it says {told:?}");
    Ok(())
}

fn find(packages: &Path, extension: &str) -> Result<PathBuf> {
    let found = list(packages)?
        .into_iter()
        .find(|path| path.extension().is_some_and(|found| found == extension));
    found.with_context(|| format!("{} has no .{extension}", packages.display()))
}
