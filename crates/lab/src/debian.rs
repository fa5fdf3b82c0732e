//! Other Debian releases than the machine's: Docker's and the kernel's packages, unpacked without
//! being installed, and a whole system for virtual machines.
//!
//! apt downloads them, with lists, state and cache of its own, and verifies Debian's signatures.
//! The archive is the one that the machine's apt is set up with.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::build_directory::build_directory;
use crate::wait::wait_until;

/// Debian releases whose engine a lab can have: the name that users type, and the code name. Debian
/// 13 has 26.1; Debian 14, which is not released yet, had 28.5 in November 2026.
const ENGINES: [(&str, &str); 2] = [("debian-13", TRIXIE), ("debian-14", "forky")];

/// The code name of Debian 13.
const TRIXIE: &str = "trixie";

/// The code name of Debian 12, whose kernel is 6.1.
const BOOKWORM: &str = "bookworm";

/// The package that depends on the release's newest kernel.
const KERNEL: &str = "linux-image-amd64";

/// Packages of an engine; they are unpacked with all dependencies, down to the C library.
const PACKAGES: [&str; 3] = ["docker.io", "docker-cli", "docker-compose"];

/// Packages of a Debian 12 host that runs Docker, and the agent by which the lab runs commands on
/// it.
const SYSTEM_PACKAGES: [&str; 11] = [
    "systemd-sysv",
    "udev",
    "dbus",
    "kmod",
    KERNEL,
    "docker.io",
    // Without it Docker starts no container where the kernel has AppArmor.
    "apparmor",
    "iptables",
    "iproute2",
    "nftables",
    "qemu-guest-agent",
];

/// Debian's public keys, from the package `debian-archive-keyring`, which every Debian has.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Size of such a host's disk; the file is sparse.
const DISK_SIZE: &str = "4G";

/// How long another process may take to unpack the same: mostly the download of 90 MB.
const LOCK_DEADLINE: Duration = Duration::from_secs(600);

/// The root directory of a release's engine, which stays below the build's directory; `None` for an
/// unknown release.
///
/// # Errors
///
/// Fails when apt does not know an archive of Debian, or cannot download from it.
pub(crate) fn engine(name: &str) -> Result<Option<PathBuf>> {
    let Some((name, release)) = ENGINES.into_iter().find(|(known, _)| *known == name) else {
        return Ok(None);
    };
    let root = unpacked("engines", name, release, |apt| {
        let install = ["install", "--download-only", "--yes", "--no-install-recommends"];
        apt.get(&[install.as_slice(), PACKAGES.as_slice()].concat())?;
        apt.extract_all()?;
        let engine = apt.work.join("root/usr/sbin/dockerd");
        ensure!(engine.is_file(), "the packages have no {}", engine.display());
        Ok(())
    })
    .with_context(|| format!("unpack Debian's packages {}", PACKAGES.join(", ")))?;
    Ok(Some(root))
}

/// The root directory of Debian 13's FRR with its dependencies, which stays below the build's
/// directory. Debian 12's FRR does not route IPv6 multicast.
///
/// # Errors
///
/// Fails if the packages cannot be downloaded or unpacked.
pub fn newer_frr() -> Result<PathBuf> {
    unpacked("routers", "debian-13", TRIXIE, |apt| {
        apt.get(&["install", "--download-only", "--yes", "--no-install-recommends", "frr"])?;
        apt.extract_all()?;
        let router = apt.work.join("root/usr/lib/frr/pim6d");
        ensure!(router.is_file(), "the packages have no {}", router.display());
        Ok(())
    })
    .context("unpack Debian's package frr")
}

/// The root directory of Debian 12's kernel with its modules, without dependencies, which stays
/// below the build's directory.
///
/// # Errors
///
/// Fails when apt does not know an archive of Debian, or cannot download from it.
pub(crate) fn bookworms_kernel() -> Result<PathBuf> {
    unpacked("kernels", "debian-12", BOOKWORM, |apt| {
        let depends = apt.run("apt-cache", &["depends", KERNEL])?;
        let package = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
        let package =
            package.with_context(|| format!("find the kernel that {KERNEL} depends on"))?;
        let install = ["install", "--download-only", "--yes", "--no-install-recommends"];
        // Its dependencies are downloaded, but not unpacked.
        apt.get(&[install.as_slice(), &[package]].concat())?;
        apt.extract(|file| file.starts_with(&format!("{package}_")))
    })
    .with_context(|| format!("unpack Debian's package {KERNEL}"))
}

/// A directory with the `disk` of an installed Debian 12 that runs Docker, its `vmlinuz` and its
/// `initrd`, which stays below the build's directory. The disk must be copied, not written to.
///
/// # Errors
///
/// As [`bookworms_kernel`]; and when mmdebstrap or mke2fs fail.
pub(crate) fn bookworms_system() -> Result<PathBuf> {
    kept("systems", "debian-12", |work| {
        let (tree, made) = (work.join("tree"), work.join("root"));
        for directory in [work, &made] {
            fs::create_dir(directory).with_context(|| format!("make {}", directory.display()))?;
        }
        let source = format!("deb [signed-by={KEYRING}] {} {BOOKWORM} main", archive()?);
        let network = r#"--customize-hook=chroot "$1" systemctl enable systemd-networkd"#;
        let words = [
            "--quiet",
            "--variant=minbase",
            network,
            &format!("--include={}", SYSTEM_PACKAGES.join(",")),
        ];
        run(Command::new("mmdebstrap").args(words).arg(BOOKWORM).arg(&tree).arg(source))?;
        for (name, link) in [("vmlinuz", "vmlinuz"), ("initrd", "initrd.img")] {
            let link = tree.join(link);
            fs::copy(&link, made.join(name)).with_context(|| format!("copy {}", link.display()))?;
        }
        run(Command::new("mke2fs")
            .args(["-q", "-t", "ext4", "-d"])
            .args([&tree, &made.join("disk")])
            .arg(DISK_SIZE))?;
        remove(&tree)
    })
    .context("install a Debian 12 for virtual machines")
}

/// The directory that `unpack` makes of a release's packages; see [`kept`].
fn unpacked(
    group: &str,
    name: &str,
    release: &str,
    unpack: impl FnOnce(&Apt<'_>) -> Result<()>,
) -> Result<PathBuf> {
    kept(group, name, |work| unpack(&prepare(release, work)?))
}

/// The directory `root` that `make` fills in a working directory. It stays, under this name in
/// `group`, below the build's directory.
fn kept(group: &str, name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let build = build_directory()?;
    let group = build.parent().context("find the directory above the build's")?.join(group);
    fs::create_dir_all(&group).with_context(|| format!("make {}", group.display()))?;
    let group = fs::canonicalize(&group).with_context(|| format!("find {}", group.display()))?;
    let root = group.join(name);
    let _lock = lock(&group)?;
    // It gets its name when it is complete.
    if !root.exists() {
        let work = group.join(format!("{name}.new"));
        remove(&work)?;
        make(&work)?;
        fs::rename(work.join("root"), &root).with_context(|| format!("make {}", root.display()))?;
        remove(&work)?;
    }
    Ok(root)
}

/// Prepares an apt for this release in the directory `work`, with its package lists.
fn prepare<'a>(release: &str, work: &'a Path) -> Result<Apt<'a>> {
    for directory in ["lists/partial", "cache/archives/partial", "state", "root"] {
        let directory = work.join(directory);
        fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
    }
    let source = format!("deb [signed-by={KEYRING}] {} {release} main\n", archive()?);
    for (name, text) in [("sources.list", source.as_str()), ("status", "")] {
        fs::write(work.join(name), text)
            .with_context(|| format!("write {}", work.join(name).display()))?;
    }
    let apt = Apt { work };
    apt.get(&["update"])?;
    Ok(apt)
}

/// An apt with its own state, in which nothing is installed.
struct Apt<'a> {
    work: &'a Path,
}

impl Apt<'_> {
    fn get(&self, arguments: &[&str]) -> Result<String> {
        self.run("apt-get", &[["--quiet"].as_slice(), arguments].concat())
    }

    /// Unpacks all packages that were downloaded, to `work/root`.
    fn extract_all(&self) -> Result<()> {
        self.extract(|_| true)
    }

    /// Unpacks the packages whose file names are wanted.
    fn extract(&self, is_wanted: impl Fn(&str) -> bool) -> Result<()> {
        let archives = self.work.join("cache/archives");
        for entry in
            fs::read_dir(&archives).with_context(|| format!("list {}", archives.display()))?
        {
            let package = entry.with_context(|| format!("list {}", archives.display()))?.path();
            let name = package.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if package.extension().is_some_and(|extension| extension == "deb") && is_wanted(name) {
                run(Command::new("dpkg-deb")
                    .arg("--extract")
                    .arg(&package)
                    .arg(self.work.join("root")))?;
            }
        }
        Ok(())
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(program);
        let places = [
            ("Dir::Etc::sourcelist", "sources.list"),
            ("Dir::State", "state"),
            ("Dir::State::lists", "lists"),
            ("Dir::State::status", "status"),
            ("Dir::Cache", "cache"),
            ("Dir::Cache::archives", "cache/archives"),
        ];
        for (setting, place) in places {
            command.arg("-o").arg(format!("{setting}={}", self.work.join(place).display()));
        }
        // The machine's own sources are left out. As user `_apt`, apt may have no access to the
        // build's directory.
        command.args([
            "-o",
            "Dir::Etc::sourceparts=-",
            "-o",
            "APT::Sandbox::User=root",
            "-o",
            "APT::Update::Error-Mode=any",
        ]);
        run(command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive"))
    }
}

/// The address of the Debian archive in the machine's apt configuration.
fn archive() -> Result<String> {
    if let Some(archive) = listed_archive()? {
        return Ok(archive);
    }
    // An archive's index tells whether it is Debian's, and a machine may not have the index yet.
    run(Command::new("apt-get").args(["update", "--quiet"]))?;
    listed_archive()?.context(
        "apt has no Debian archive configured, from which packages of other releases could be had",
    )
}

/// The first Debian archive in apt's index.
fn listed_archive() -> Result<Option<String>> {
    let filters = ["Created-By: Packages", "Origin: Debian", "Label: Debian", "Component: main"];
    let listed = run(Command::new("apt-get")
        .args(["indextargets", "--format", "$(REPO_URI)"])
        .args(filters))?;
    Ok(listed.lines().next().map(str::to_owned))
}

/// Runs a command and returns what it printed to its standard output.
fn run(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("run {program}"))?;
    if !output.status.success() {
        let words: Vec<_> =
            command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{program} {} failed: {}", words.join(" "), said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Prevents other processes from unpacking to this directory until dropped.
fn lock(directory: &Path) -> Result<File> {
    let file = File::open(directory)
        .with_context(|| format!("open {} to lock it", directory.display()))?;
    wait_until("the unpacking of an engine by another process", LOCK_DEADLINE, || {
        match file.try_lock() {
            Ok(()) => Ok(Some(())),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("lock {}", directory.display()))
            }
        }
    })?;
    Ok(file)
}

fn remove(directory: &Path) -> Result<()> {
    if directory.exists() {
        fs::remove_dir_all(directory).with_context(|| format!("remove {}", directory.display()))?;
    }
    Ok(())
}
