//! The Debian package's life in a Debian: installed, upgraded, downgraded, removed, purged.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::root::Root;
use crate::deb;
use crate::files::write;
use crate::project::Project;
use crate::tools::{output, run};

/// Files that the package must have, beside the programs.
const FILES: [&str; 9] = [
    "/etc/shoutd/shoutd.toml",
    "/usr/lib/systemd/system/shoutd.service",
    "/usr/share/man/man8/shoutdctl.8.gz",
    "/usr/share/bash-completion/completions/shoutdctl",
    "/usr/share/zsh/vendor-completions/_shoutdctl",
    "/usr/share/fish/vendor_completions.d/shoutdctl.fish",
    "/usr/share/doc/shoutd/copyright",
    "/usr/share/doc/shoutd/README.md",
    "/usr/share/doc/shoutd/changelog.gz",
];

/// The unit that shoutdctl wrote when shoutd was installed from an archive.
const WRITTEN_UNIT: &str = "\
# Written by `shoutdctl start`, and removed by `shoutdctl stop --leave`.
[Service]
ExecStart=\"/opt/my programs/shoutd\" --replication=flood --data-dir /var/lib/shoutd
";

/// Runs lintian: an error fails, and the user sees the warnings.
pub fn lintian(project: &Project, packages: &Path) -> Result<()> {
    let path = packages.join(format!("shoutd_{}_amd64.deb", project.version));
    run(Command::new("lintian").args(["--allow-root", "--fail-on=error"]).arg(&path))
}

/// Installs, upgrades, downgrades, removes and purges the package.
pub fn life(project: &Project, packages: &Path, root: &Root) -> Result<()> {
    let before = files(root)?;
    let this = root.add(&packages.join(format!("shoutd_{}_amd64.deb", project.version)))?;
    // Newer by its version only.
    let newer = format!("{}+check", project.version);
    let newer = deb::make(project, &newer, &project.target.join("package-check"))?;
    let newer = root.add(&newer)?;

    fs::create_dir_all(root.path("/etc/systemd/system/multi-user.target.wants"))?;
    let unit = root.path("/etc/systemd/system/shoutd.service");
    write(&unit, WRITTEN_UNIT.as_bytes())?;
    let wanted = root.path("/etc/systemd/system/multi-user.target.wants/shoutd.service");
    std::os::unix::fs::symlink("/etc/systemd/system/shoutd.service", &wanted)?;

    let told = root.run(&["dpkg", "--install", &this])?;
    ensure!(told.contains("type 'shoutdctl start ADDRESS'"), "the installation says: {told}");
    let listed = root.run(&["dpkg", "--listfiles", "shoutd"])?;
    for file in FILES {
        ensure!(listed.lines().any(|line| line == file), "{file} is missing in: {listed}");
    }
    for program in ["shoutd", "shoutdctl"] {
        let told = root.run(&[program, "--version"])?;
        ensure!(told.trim() == format!("{program} {}", project.version), "it says {told:?}");
    }
    ensure!(!unit.exists(), "the unit of the earlier installation hides the package's");
    let drop_in = fs::read_to_string(root.path("/etc/systemd/system/shoutd.service.d/start.conf"))?;
    let line = "\nExecStart=/usr/bin/shoutd --replication=flood --data-dir /var/lib/shoutd\n";
    ensure!(drop_in.contains(line), "the drop-in has: {drop_in}");
    let link = fs::read_link(&wanted)?;
    ensure!(link == Path::new("/usr/lib/systemd/system/shoutd.service"), "{link:?} is enabled");

    // The administrator's changes stay.
    let changed = "# changed by the administrator\n";
    write(&root.path("/etc/shoutd/shoutd.toml"), changed.as_bytes())?;
    for package in [&newer, &this] {
        root.run(&["dpkg", "--install", package]).with_context(|| format!("install {package}"))?;
        let found = fs::read_to_string(root.path("/etc/shoutd/shoutd.toml"))?;
        ensure!(found == changed, "{package} changed the configuration to {found}");
    }

    let agreed = root.path("/var/lib/shoutd/agreed.redb");
    fs::create_dir_all(root.path("/var/lib/shoutd"))?;
    write(&agreed, b"")?;
    write(&root.path("/var/log/shoutd.log"), b"")?;
    let told = root.run(&["dpkg", "--remove", "shoutd"])?;
    ensure!(told.contains("Containers stay connected"), "the removal says: {told}");
    ensure!(agreed.exists(), "the removal takes the membership away");
    let told = root.run(&["dpkg", "--purge", "shoutd"])?;
    ensure!(told.contains("'shoutdctl remove "), "the purge says: {told}");
    for package in [this, newer] {
        fs::remove_file(root.path(&package))?;
    }
    let after = files(root)?;
    let left: Vec<_> =
        after.lines().filter(|line| !before.lines().any(|old| old == *line)).collect();
    ensure!(left.is_empty(), "the purge leaves: {left:?}");
    Ok(())
}

/// All files, but for devices, dpkg's own files, and directories that the check made.
fn files(root: &Root) -> Result<String> {
    let mut find = Command::new("find");
    find.arg(root.path("/")).args(["-not", "-type", "d", "-not", "-path", "*/var/lib/dpkg/*"]);
    find.args(["-not", "-path", "*/var/log/dpkg.log", "-not", "-path", "*/dev/*"]);
    let found = output(&mut find)?;
    Ok(String::from_utf8_lossy(&found).into_owned())
}
