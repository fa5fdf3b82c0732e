//! What makes systemd run shoutd: at boot before the host's engine, and again when it ends by
//! mistake (systemd.service(5)).
//!
//! An engine that boots starts containers at once and tries each of them once, so shoutd has to be
//! there first. There is no socket unit: with it, an engine's calls would wait without end for a
//! shoutd that cannot start, and hold its containers' locks meanwhile.

use std::ffi::OsStr;
use std::fmt::Write;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::unistd::Pid;
use shoutd_cli::{Directories, EXIT_REMOVED, StartArguments, read_at_most};
use tokio::process::Command;
use tokio::time::timeout;

/// The unit.
const UNIT: &str = "shoutd.service";

/// How every unit begins that shoutdctl wrote. No other is touched.
const MARK: &str = "# Written by `shoutdctl start`, and removed by `shoutdctl stop --leave`.";

/// Octets of the largest unit that is read. Ours have about 1000.
const UNIT_BYTES_MAX: u64 = 64 << 10;

/// How long systemd may take to do what it is asked: to take note of a unit it reads all of them
/// anew, and to start one may take as long as the unit says.
const SYSTEMD_DEADLINE: Duration = Duration::from_secs(60);

/// Where systemd and its units are.
#[derive(Debug)]
pub struct Systemd {
    /// Units of the administrator.
    units: PathBuf,
    /// Units of packages.
    packaged: Vec<PathBuf>,
    /// The program that speaks to it.
    systemctl: PathBuf,
}

/// What came of installing the unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Installed {
    /// It is there now, and was not before, or was another.
    New,
    /// It was there.
    Before,
    /// Somebody else's is there, which is to start shoutd.
    SomebodyElses,
}

impl Systemd {
    /// The systemd that runs this host; `None` if something else does (sd_booted(3)).
    pub fn of_this_host() -> Option<Self> {
        Path::new("/run/systemd/system").is_dir().then(|| Self {
            units: PathBuf::from("/etc/systemd/system"),
            packaged: ["/usr/local/lib", "/usr/lib", "/lib"]
                .map(|lib| Path::new(lib).join("systemd/system"))
                .into(),
            systemctl: PathBuf::from("systemctl"),
        })
    }

    /// Has the daemon started at each boot as it was started now: what its address and peers are it
    /// remembers itself.
    ///
    /// # Errors
    /// The unit cannot be written, or systemd does not take it.
    pub async fn install(
        &self,
        program: &Path,
        arguments: &StartArguments,
        directories: &Directories,
    ) -> Result<Installed> {
        let path = self.units.join(UNIT);
        let found = self.find()?;
        if matches!(&found, Some(unit) if !unit.starts_with(MARK)) || self.is_packaged() {
            return Ok(Installed::SomebodyElses);
        }
        let unit = unit(program, arguments, directories)?;
        let installed =
            if found.as_ref() == Some(&unit) { Installed::Before } else { Installed::New };
        if installed == Installed::New {
            write_whole(&path, &unit)
                .with_context(|| format!("cannot write {}", path.display()))?;
            self.ask(&["daemon-reload"]).await?;
        }
        self.ask(&["--quiet", "enable", UNIT]).await?;
        Ok(installed)
    }

    /// Whether this process is the unit's: if not, systemd does not know that shoutd runs.
    ///
    /// # Errors
    /// systemd does not answer.
    pub async fn runs(&self, daemon: Pid) -> Result<bool> {
        let told = self.ask(&["show", "--property=MainPID", "--value", UNIT]).await?;
        Ok(told.trim() == daemon.to_string())
    }

    /// Starts the unit, and returns when the daemon is ready.
    ///
    /// # Errors
    /// The unit fails, or takes longer than it may.
    pub async fn start(&self) -> Result<()> {
        let told = self.ask(&["start", UNIT]).await;
        told.map(drop)
            .with_context(|| format!("systemd does not start shoutd; see journalctl --unit={UNIT}"))
    }

    /// Takes back what [`Systemd::install`] did.
    ///
    /// # Errors
    /// The unit cannot be removed, or systemd does not let go of it.
    pub async fn uninstall(&self) -> Result<()> {
        if !self.find()?.is_some_and(|unit| unit.starts_with(MARK)) {
            return Ok(());
        }
        self.ask(&["--quiet", "disable", UNIT]).await?;
        let path = self.units.join(UNIT);
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        self.ask(&["daemon-reload"]).await.map(drop)
    }

    /// The administrator's unit of this name, if there is one.
    fn find(&self) -> Result<Option<String>> {
        let path = self.units.join(UNIT);
        match read_at_most(&path, UNIT_BYTES_MAX) {
            Ok(text) => Ok(Some(String::from_utf8_lossy(&text).into_owned())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            // A unit that is masked is a link to /dev/null: somebody does not want it.
            Err(error) if error.kind() == ErrorKind::InvalidData => Ok(Some(String::new())),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    fn is_packaged(&self) -> bool {
        self.packaged.iter().any(|directory| directory.join(UNIT).exists())
    }

    /// Returns what it printed.
    async fn ask(&self, arguments: &[&str]) -> Result<String> {
        let what = || format!("systemctl {}", arguments.join(" "));
        let mut command = Command::new(&self.systemctl);
        let asked = timeout(SYSTEMD_DEADLINE, command.args(arguments).kill_on_drop(true).output());
        let output = asked
            .await
            .with_context(|| format!("{} takes too long", what()))?
            .with_context(what)?;
        if !output.status.success() {
            let told = String::from_utf8_lossy(&output.stderr);
            bail!("{} failed: {}", what(), told.lines().next().unwrap_or("it does not say why"));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// The text of the unit.
fn unit(program: &Path, arguments: &StartArguments, directories: &Directories) -> Result<String> {
    // Where the host is and who its peers are may change, and is remembered; the token was for the
    // first time only.
    let kept =
        StartArguments { advertise_address: None, peer_addresses: Vec::new(), ..arguments.clone() };
    // Of the program's name systemd wants this, whatever is quoted.
    if program.as_os_str().as_encoded_bytes().iter().any(|octet| br#"$"'\"#.contains(octet)) {
        bail!(
            "systemd runs no program with a dollar sign, quote or backslash in its name: {}",
            program.display()
        );
    }
    let mut line = quote(program.as_os_str())?;
    for argument in kept.to_command_line(directories) {
        write!(line, " {}", quote(&argument)?)?;
    }
    Ok(format!(
        "{MARK}
# Changes of your own belong into `systemctl edit shoutd`.
[Unit]
Description=shoutd, multicast between Docker containers on different hosts
Wants=network-online.target
After=network-online.target
# Docker starts containers as soon as it starts, and calls shoutd for them.
Before=docker.service
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart={line}
Restart=on-failure
RestartSec=2
# This host was removed from the cluster.
RestartPreventExitStatus={EXIT_REMOVED}
# Docker does not wait longer than this for a shoutd that cannot start.
TimeoutStartSec=30
TimeoutStopSec=30

[Install]
WantedBy=multi-user.target
"
    ))
}

/// A word of a command line as systemd reads it (systemd.service(5), "Command lines";
/// systemd.syntax(7), "Quoting").
fn quote(word: &OsStr) -> Result<String> {
    let text = word.to_str().filter(|text| !text.contains(char::is_control));
    let text = text.with_context(|| format!("{word:?} is no plain text"))?;
    let is_plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./:=,@+[]".contains(c))
        && !text.is_empty();
    let escaped =
        text.replace('\\', r"\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
    Ok(if is_plain { escaped } else { format!("\"{escaped}\"") })
}

fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    let next = path.with_extension("service.new");
    fs::write(&next, text)?;
    fs::rename(&next, path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use clap::{Args, FromArgMatches};
    use tempfile::TempDir;

    use super::*;

    fn arguments(line: &[&str]) -> StartArguments {
        let command = StartArguments::augment_args(clap::Command::new("start"));
        let matches = command.get_matches_from(["start"].iter().chain(line));
        StartArguments::from_arg_matches(&matches).unwrap()
    }

    fn directories() -> Directories {
        Directories { run_dir: PathBuf::from("/run/shoutd") }
    }

    /// A systemd that takes note of what it is asked, and does it unless it is told to fail.
    fn systemd(directory: &TempDir) -> Systemd {
        let systemctl = directory.path().join("systemctl");
        let script = "#!/bin/sh\ncd \"$(dirname \"$0\")\"; echo \"$*\" >> asked; if test -e fail; \
                      then echo 'it is broken' >&2; exit 1; fi\n";
        fs::write(&systemctl, script).unwrap();
        fs::set_permissions(&systemctl, fs::Permissions::from_mode(0o755)).unwrap();
        let units = directory.path().join("units");
        fs::create_dir(&units).unwrap();
        Systemd { units, packaged: vec![directory.path().join("packaged")], systemctl }
    }

    fn asked(directory: &TempDir) -> Vec<String> {
        let path = directory.path().join("asked");
        let asked = fs::read_to_string(&path).unwrap_or_default();
        drop(fs::remove_file(&path));
        asked.lines().map(str::to_owned).collect()
    }

    async fn install(systemd: &Systemd, line: &[&str]) -> Result<Installed> {
        systemd.install(Path::new("/usr/local/bin/shoutd"), &arguments(line), &directories()).await
    }

    #[tokio::test]
    async fn the_unit_is_installed_once_and_taken_back() {
        let directory = tempfile::tempdir().unwrap();
        let systemd = systemd(&directory);
        systemd.uninstall().await.unwrap();
        assert_eq!(asked(&directory), [""; 0]);
        let first = ["10.0.0.1", "--peer-addresses=10.0.0.2", "--token=SHOUT1-secret"];
        assert_eq!(install(&systemd, &first).await.unwrap(), Installed::New);
        assert_eq!(asked(&directory), ["daemon-reload", "--quiet enable shoutd.service"]);
        let text = fs::read_to_string(systemd.units.join(UNIT)).unwrap();
        let line = "\nExecStart=/usr/local/bin/shoutd --data-dir /var/lib/shoutd --docker-socket \
                    /var/run/docker.sock --plugin-socket /run/docker/plugins/shoutd.sock \
                    --run-dir /run/shoutd\n";
        assert!(text.contains(line), "{text}");
        assert!(
            !text.contains("10.0.0.") && !text.contains("SHOUT1"),
            "it remembers these itself: {text}"
        );
        assert_eq!(install(&systemd, &[]).await.unwrap(), Installed::Before);
        assert_eq!(asked(&directory), ["--quiet enable shoutd.service"]);
        assert_eq!(install(&systemd, &["--replication=flood"]).await.unwrap(), Installed::New);
        asked(&directory);
        systemd.uninstall().await.unwrap();
        assert_eq!(asked(&directory), ["--quiet disable shoutd.service", "daemon-reload"]);
        assert_eq!(fs::read_dir(&systemd.units).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn what_somebody_else_made_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let systemd = systemd(&directory);
        let path = systemd.units.join(UNIT);
        let theirs = "[Service]\nExecStart=/opt/shoutd\n";
        fs::write(&path, theirs).unwrap();
        assert_eq!(install(&systemd, &[]).await.unwrap(), Installed::SomebodyElses);
        systemd.uninstall().await.unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), theirs);
        // Masked.
        fs::remove_file(&path).unwrap();
        symlink("/dev/null", &path).unwrap();
        assert_eq!(install(&systemd, &[]).await.unwrap(), Installed::SomebodyElses);
        systemd.uninstall().await.unwrap();
        assert_eq!(fs::read_link(&path).unwrap(), Path::new("/dev/null"));
        // A package's.
        fs::remove_file(&path).unwrap();
        fs::create_dir(&systemd.packaged[0]).unwrap();
        fs::write(systemd.packaged[0].join(UNIT), theirs).unwrap();
        assert_eq!(install(&systemd, &[]).await.unwrap(), Installed::SomebodyElses);
        assert!(!path.exists());
        assert_eq!(asked(&directory), [""; 0]);
    }

    #[tokio::test]
    async fn what_systemd_says_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let systemd = systemd(&directory);
        fs::write(directory.path().join("fail"), "").unwrap();
        let told = format!("{:#}", install(&systemd, &[]).await.unwrap_err());
        assert_eq!(told, "systemctl daemon-reload failed: it is broken");
    }

    /// By systemd's own reader, with names that need quoting.
    #[test]
    fn systemd_understands_the_unit() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("100% shoutd");
        fs::write(&program, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let path = directory.path().join(UNIT);
        let odd = arguments(&["--data-dir", "/var/lib/a b/%n;\"$HOME\"\\x"]);
        for (program, arguments) in [(Path::new("/bin/true"), arguments(&[])), (&program, odd)] {
            let text = unit(program, &arguments, &directories()).unwrap();
            fs::write(&path, text).unwrap();
            let verified =
                std::process::Command::new("systemd-analyze").arg("verify").arg(&path).output();
            let output = verified.expect("systemd-analyze is in Debian's package systemd");
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            // It speaks of the machine's other units, too.
            let ours: Vec<_> = told.lines().filter(|line| line.contains("shoutd")).collect();
            assert!(output.status.success() && ours.is_empty(), "{told}");
        }
        assert!(unit(Path::new("/bin/$true"), &arguments(&[]), &directories()).is_err());
        assert!(
            unit(Path::new("/bin/true"), &arguments(&["--data-dir", "/a\nb"]), &directories())
                .is_err()
        );
    }
}
