//! The packages that users install, for the tests that do.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Environment variable with the directory of the packages.
const MADE: &str = "SHOUTD_PACKAGES";

/// The packages.
#[allow(dead_code, reason = "each test takes some")]
pub struct Packages {
    /// The static archive.
    pub archive: PathBuf,
    /// The Debian package.
    pub deb: PathBuf,
    /// The same with a higher version.
    pub newer_deb: PathBuf,
    /// The Python wheel.
    pub wheel: PathBuf,
    /// The container image.
    pub image: PathBuf,
}

impl Drop for Packages {
    fn drop(&mut self) {
        _ = std::fs::remove_file(&self.newer_deb);
    }
}

impl Packages {
    /// Finds them in the directory that [`MADE`] names; `cargo xtask test --long` makes it.
    pub fn find() -> Result<Self> {
        let directory = env::var_os(MADE).with_context(|| {
            format!(
                "{MADE} is not set: type cargo xtask package, and set it to the directory of the \
                 packages"
            )
        })?;
        let directory = PathBuf::from(directory);
        let entries = std::fs::read_dir(&directory)
            .with_context(|| format!("list {}", directory.display()))?;
        let files: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
        let find = |end: &str| {
            let mut found = files.iter().filter(|path| path.to_string_lossy().ends_with(end));
            found.next().cloned().with_context(|| format!("no package ends with {end}"))
        };
        let deb = find("_amd64.deb")?;
        let newer_deb = env::temp_dir().join(format!("newer-{}.deb", std::process::id()));
        // Newer by its version only.
        let script = "set -e; rm -rf \"$2.d\"; dpkg-deb --raw-extract \"$1\" \"$2.d\"; sed -i \
                      's/^Version: .*/&+test/' \"$2.d/DEBIAN/control\"; dpkg-deb --build -Zgzip \
                      \"$2.d\" \"$2\" >&2; rm -r \"$2.d\"";
        let status =
            Command::new("sh").args(["-c", script, "sh"]).arg(&deb).arg(&newer_deb).status();
        ensure!(status.context("run sh")?.success(), "the package cannot be made newer");
        Ok(Self {
            archive: find("x86_64.tar.gz")?,
            deb,
            newer_deb,
            wheel: find(".whl")?,
            image: find("-image.tar.gz")?,
        })
    }
}
