//! Programs that make and check packages, and their installation.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use shoutd_tooling::machine;
use shoutd_tooling::programs::cargo;
use shoutd_tooling::terminal::show_progress;

use crate::project::Project;

/// Programs that packages are made with, and their Debian packages.
const MAKING: [(&str, &str); 4] = [
    ("/usr/bin/objcopy", "binutils"),
    ("/usr/bin/cc", "gcc"),
    ("/usr/bin/git", "git"),
    ("/usr/share/doc/python3-venv", "python3-venv"),
];

/// Programs that packages are checked with, and their Debian packages.
const CHECKING: [(&str, &str); 6] = [
    ("/usr/bin/dpkg-deb", "dpkg"),
    ("/usr/bin/lintian", "lintian"),
    ("/usr/bin/mmdebstrap", "mmdebstrap"),
    ("/usr/bin/rpm", "rpm"),
    ("/usr/bin/rpm2cpio", "rpm2cpio"),
    ("/usr/bin/cpio", "cpio"),
];

/// Python's own program, whose venv the wheel is made in. One that the user installed elsewhere may
/// have no venv.
pub const PYTHON: &str = "/usr/bin/python3";

/// A program of a crate, at an exact version.
#[derive(Debug, Clone, Copy)]
pub struct CargoTool {
    name: &'static str,
    version: &'static str,
}

/// Makes `.deb` files.
pub const CARGO_DEB: CargoTool = CargoTool { name: "cargo-deb", version: "3.8.0" };

/// Makes `.rpm` files.
pub const CARGO_GENERATE_RPM: CargoTool =
    CargoTool { name: "cargo-generate-rpm", version: "0.21.1" };

/// Lists crates in CycloneDX's format; by the CycloneDX project.
pub const CARGO_CYCLONEDX: CargoTool = CargoTool { name: "cargo-cyclonedx", version: "0.5.9" };

/// maturin, which makes wheels of Rust programs, at PyPI.
const MATURIN: &str = "maturin==1.16.0";

/// wheel, which unpacks and packs wheels, at PyPI.
const WHEEL: &str = "wheel==0.45.1";

impl CargoTool {
    /// The program, which is installed below the target directory if it is not there.
    pub fn install(self, project: &Project) -> Result<PathBuf> {
        let root = project.target.join("tools").join(format!("{}-{}", self.name, self.version));
        let program = root.join("bin").join(self.name);
        if !program.exists() {
            show_progress(&format!("installing {} {}", self.name, self.version));
            let mut command = cargo();
            command.args(["install", "--quiet", "--locked", "--root"]).arg(&root);
            command.arg(format!("{}@{}", self.name, self.version));
            run(command.env("CARGO_TARGET_DIR", project.target.join("tools/build")))?;
        }
        Ok(program)
    }

    /// A search path on which Cargo finds it as its own command.
    pub fn path(self, project: &Project) -> Result<OsString> {
        let program = self.install(project)?;
        let mut paths: Vec<PathBuf> = program.parent().map(Path::to_owned).into_iter().collect();
        paths.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
        env::join_paths(paths).context("make a search path")
    }
}

/// A venv below the target directory with maturin and wheel.
pub fn install_maturin(project: &Project) -> Result<PathBuf> {
    let venv = project.target.join("tools").join(MATURIN.replace("==", "-"));
    if !venv.join("bin/wheel").exists() {
        show_progress(&format!("installing {MATURIN}"));
        run(Command::new(PYTHON).args(["-m", "venv", "--clear"]).arg(&venv))?;
        run(Command::new(venv.join("bin/pip")).args(["install", "--quiet", MATURIN, WHEEL]))?;
    }
    Ok(venv)
}

/// Installs the Debian packages that are needed; `checks`: also those of the checks.
pub fn install_debian_packages(checks: bool) -> Result<()> {
    let mut programs = MAKING.to_vec();
    if checks {
        programs.extend(CHECKING);
    }
    machine::install_missing(&programs)
}

/// Runs a command whose output the user sees.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("run {command:?}"))?;
    ensure!(status.success(), "{} failed, see above", words(command));
    Ok(())
}

/// Runs a command and returns its standard output.
pub fn output(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    ensure!(
        output.status.success(),
        "{} failed: {}{}",
        words(command),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(output.stdout)
}

fn words(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Makes an empty directory, in place of an earlier one.
pub fn empty_directory(path: PathBuf) -> Result<PathBuf> {
    if path.exists() {
        fs::remove_dir_all(&path).with_context(|| format!("remove {}", path.display()))?;
    }
    fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
    Ok(path)
}
