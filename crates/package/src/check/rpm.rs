//! The RPM package, by RPM's own tools; no RPM distribution can be had from Debian's archive.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::files::checksum;
use crate::project::{ARCH, Project};
use crate::tools::{empty_directory, output};

/// Files that the package must have, beside the programs.
const FILES: [&str; 7] = [
    "/etc/shoutd/shoutd.toml",
    "/usr/lib/systemd/system/shoutd.service",
    "/usr/share/man/man8/shoutdctl.8.gz",
    "/usr/share/bash-completion/completions/shoutdctl",
    "/usr/share/zsh/site-functions/_shoutdctl",
    "/usr/share/fish/vendor_completions.d/shoutdctl.fish",
    "/usr/share/licenses/shoutd/copyright",
];

/// Asks the package what it is, and unpacks it.
pub fn check(project: &Project, packages: &Path, work: &Path) -> Result<()> {
    let package = packages.join(format!("shoutd-{}-1.{ARCH}.rpm", project.version));
    let query = |what: &[&str]| -> Result<String> {
        let told = output(Command::new("rpm").arg("-qp").args(what).arg(&package))?;
        Ok(String::from_utf8_lossy(&told).into_owned())
    };
    let name = query(&["--queryformat", "%{NAME} %{VERSION} %{ARCH} %{LICENSE}"])?;
    ensure!(name == format!("shoutd {} {ARCH} Apache-2.0", project.version), "it is {name}");
    let listed = query(&["--list"])?;
    for file in FILES {
        ensure!(listed.lines().any(|line| line == file), "{file} is missing in: {listed}");
    }
    let settings = query(&["--configfiles"])?;
    ensure!(settings.trim() == "/etc/shoutd/shoutd.toml", "its configuration is {settings}");
    let (needs, provides) = (query(&["--requires"])?, query(&["--provides"])?);
    // `rpmlib(...)` are features of RPM itself. A package with a configuration file needs and
    // provides `config(...)`.
    let is_elsewhere = |need: &&str| {
        !need.starts_with("rpmlib(") && *need != "/bin/sh" && !provides.lines().any(|p| p == *need)
    };
    let needs: Vec<_> = needs.lines().filter(is_elsewhere).collect();
    ensure!(needs.is_empty(), "it needs {needs:?}");

    let unpacked = empty_directory(work.join("rpm"))?;
    let mut reader = Command::new("rpm2cpio")
        .arg(&package)
        .stdout(Stdio::piped())
        .spawn()
        .context("rpm2cpio")?;
    let archive = reader.stdout.take().context("the output of rpm2cpio")?;
    let mut cpio = Command::new("cpio");
    cpio.args(["--extract", "--make-directories", "--quiet"]).current_dir(&unpacked);
    output(cpio.stdin(archive))?;
    // It ends with 1 although all is written: the package does not tell the archive's size, which
    // rpm2cpio compares.
    reader.wait().context("rpm2cpio")?;
    for program in ["shoutd", "shoutdctl"] {
        let staged = project.build_directory().join("stage").join(program);
        let same = checksum(&unpacked.join("usr/bin").join(program))? == checksum(&staged)?;
        ensure!(same, "{program} in the package is another one than was built");
    }
    Ok(())
}
