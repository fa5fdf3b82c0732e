//! The project whose packages are made.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use shoutd_tooling::programs::cargo;
use time::OffsetDateTime;

use crate::tools::output;

/// The target of all packages. `--target` also keeps build scripts and procedural macros, which run
/// on this machine, from being linked statically.
pub const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The processor, as in names of archives.
pub const ARCH: &str = "x86_64";

/// Cargo's profile of the programs.
pub const PROFILE: &str = "packaged";

/// The package that has both programs.
pub const PACKAGE: &str = "shoutd";

/// Where the project is, and what its packages are called.
#[derive(Debug, Clone)]
pub struct Project {
    /// The workspace.
    pub root: PathBuf,
    /// Cargo's target directory.
    pub target: PathBuf,
    /// The version of shoutd.
    pub version: String,
    /// Date of all files in packages, in seconds since 1970: that of the commit, or
    /// `SOURCE_DATE_EPOCH` (reproducible-builds.org).
    pub epoch: u64,
}

impl Project {
    /// The project of this program.
    pub fn find() -> Result<Self> {
        Self::at(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")))
    }

    /// The project in this directory.
    pub fn at(root: &Path) -> Result<Self> {
        let root = root.canonicalize().with_context(|| format!("find {}", root.display()))?;
        let mut command = cargo();
        command.args(["metadata", "--no-deps", "--format-version=1"]).current_dir(&root);
        let metadata: Value = serde_json::from_slice(&output(&mut command)?)?;
        let target = metadata["target_directory"].as_str().context("a target directory")?;
        let mut packages = metadata["packages"].as_array().into_iter().flatten();
        let package = packages.find(|package| package["name"] == PACKAGE);
        let version = package.and_then(|package| package["version"].as_str());
        Ok(Self {
            target: PathBuf::from(target),
            version: version.context("the version of shoutd")?.to_owned(),
            epoch: epoch(&root)?,
            root,
        })
    }

    /// Where Cargo writes the programs.
    pub fn build_directory(&self) -> PathBuf {
        self.target.join(TARGET).join(PROFILE)
    }

    /// `shoutd-<version>-<arch>`.
    pub fn name(&self) -> String {
        format!("{PACKAGE}-{}-{ARCH}", self.version)
    }

    /// The date of all files.
    pub fn date(&self) -> Result<OffsetDateTime> {
        Ok(OffsetDateTime::from_unix_timestamp(i64::try_from(self.epoch)?)?)
    }

    /// Cargo for this project, so that the same commit gives the same programs in any directory.
    pub fn cargo(&self) -> Result<Command> {
        self.with_options(cargo())
    }

    /// As [`Project::cargo`], another program that runs Cargo.
    pub fn program(&self, program: &Path) -> Result<Command> {
        self.with_options(Command::new(program))
    }

    fn with_options(&self, mut command: Command) -> Result<Command> {
        let home = env::var_os("CARGO_HOME").map(PathBuf::from);
        let home = home.or_else(|| Some(env::home_dir()?.join(".cargo")));
        let home = home.context("find Cargo's home directory")?;
        // The last that fits counts, and the target directory may be in the workspace.
        let maps = [(&home, "/cargo"), (&self.root, "/shoutd"), (&self.target, "/target")];
        let maps = maps.map(|(from, to)| format!("{}={to}", from.display()));
        ensure!(
            !maps.iter().any(|map| map.contains(char::is_whitespace)),
            "a path has a space, which the C compiler's flags cannot have: {maps:?}"
        );
        let remap = maps.iter().map(|map| format!("--remap-path-prefix={map}"));
        let rust: Vec<String> =
            std::iter::once("-Ctarget-feature=+crt-static".to_owned()).chain(remap).collect();
        let c: Vec<String> = maps.iter().map(|map| format!("-ffile-prefix-map={map}")).collect();
        command
            .current_dir(&self.root)
            .env("SOURCE_DATE_EPOCH", self.epoch.to_string())
            .env("CARGO_ENCODED_RUSTFLAGS", rust.join("\x1f"))
            .env("CARGO_INCREMENTAL", "0")
            .env("CARGO_TARGET_DIR", &self.target)
            .env("CFLAGS", c.join(" "));
        Ok(command)
    }
}

fn epoch(root: &Path) -> Result<u64> {
    const VARIABLE: &str = "SOURCE_DATE_EPOCH";
    let text = match env::var(VARIABLE) {
        Ok(text) => text,
        Err(_) => {
            let mut git = Command::new("git");
            git.args(["log", "--max-count=1", "--format=%ct"]).current_dir(root);
            let date = output(&mut git).with_context(|| {
                format!("packages have the commit's date; without Git, set {VARIABLE}")
            })?;
            String::from_utf8(date)?
        }
    };
    text.trim().parse().with_context(|| format!("the packages' date {text:?}"))
}
