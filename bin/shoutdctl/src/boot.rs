//! The systemd unit that starts shoutd at boot, before the host's engine, and restarts it after a
//! failure (systemd.service(5)).
//!
//! An engine starts its containers as soon as it boots and tries each of them only once, so shoutd
//! must already be running. There is no socket unit: with one, if shoutd could not start, the
//! engine's calls would wait forever while they hold the locks of its containers.

use std::ffi::OsStr;
use std::fmt::Write;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::unistd::Pid;
use shoutd_cli::{Configuration, EXIT_REMOVED, read_at_most};
use tokio::process::Command;
use tokio::time::timeout;

/// The unit that runs the daemon.
pub const UNIT: &str = "shoutd.service";

/// The first line of every unit that shoutdctl writes. We touch no other unit.
const MARK: &str = "# Written by `shoutdctl start`, and removed by `shoutdctl stop --leave`.";

/// Size limit of a unit file that we read, in octets. Ours have about 1000.
const UNIT_BYTES_MAX: u64 = 64 << 10;

/// Settings that the daemon itself remembers, because they may change.
const REMEMBERED: [&str; 3] = ["advertise-address", "advertise-interface", "peer-addresses"];

/// Deadline of a systemctl command. `daemon-reload` reads all units again, and `start` may take as
/// long as the unit's `TimeoutStartSec` (30 s).
const SYSTEMD_DEADLINE: Duration = Duration::from_secs(60);

/// The systemd of a host.
#[derive(Debug)]
pub struct Systemd {
    /// Directory of the administrator's units.
    units: PathBuf,
    /// Directories of units that packages install.
    packaged: Vec<PathBuf>,
    systemctl: PathBuf,
}

/// Result of [`Systemd::install`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Installed {
    /// We wrote the unit, or replaced an older version of it.
    New,
    /// The same unit was already installed.
    Unchanged,
    /// The host has a shoutd.service that shoutdctl did not write. It must start shoutd.
    Foreign,
}

impl Systemd {
    /// The systemd of this host; `None` if the host runs another init system (sd_booted(3)).
    pub fn of_this_host() -> Option<Self> {
        Path::new("/run/systemd/system").is_dir().then(|| Self {
            units: PathBuf::from("/etc/systemd/system"),
            packaged: ["/usr/local/lib", "/usr/lib", "/lib"]
                .map(|lib| Path::new(lib).join("systemd/system"))
                .into(),
            systemctl: PathBuf::from("systemctl"),
        })
    }

    /// Installs and enables a unit that starts the daemon at each boot with these arguments. The
    /// daemon itself remembers its address and peers.
    ///
    /// # Errors
    /// The unit cannot be written, or systemctl fails.
    pub async fn install(
        &self,
        program: &Path,
        configuration: &Configuration,
    ) -> Result<Installed> {
        let path = self.units.join(UNIT);
        let found = self.find()?;
        if matches!(&found, Some(unit) if !unit.starts_with(MARK)) || self.is_packaged() {
            return Ok(Installed::Foreign);
        }
        let unit = unit(program, configuration)?;
        let installed =
            if found.as_ref() == Some(&unit) { Installed::Unchanged } else { Installed::New };
        if installed == Installed::New {
            write_atomically(&path, &unit)
                .with_context(|| format!("cannot write {}", path.display()))?;
            self.run(&["daemon-reload"]).await?;
        }
        self.run(&["--quiet", "enable", UNIT]).await?;
        Ok(installed)
    }

    /// Whether this process is the unit's main process. If it is not, systemd does not know that
    /// shoutd runs.
    ///
    /// # Errors
    /// systemctl fails.
    pub async fn runs(&self, daemon: Pid) -> Result<bool> {
        let main_pid = self.run(&["show", "--property=MainPID", "--value", UNIT]).await?;
        Ok(main_pid.trim() == daemon.to_string())
    }

    /// Starts the unit, and returns when the daemon is ready.
    ///
    /// # Errors
    /// The unit fails, or does not start in time.
    pub async fn start(&self) -> Result<()> {
        let started = self.run(&["start", UNIT]).await;
        started
            .map(drop)
            .with_context(|| format!("systemd cannot start shoutd; see journalctl --unit={UNIT}"))
    }

    /// Disables and removes the unit that [`Systemd::install`] wrote. A foreign unit stays.
    ///
    /// # Errors
    /// The unit cannot be removed, or systemctl fails.
    pub async fn uninstall(&self) -> Result<()> {
        if !self.find()?.is_some_and(|unit| unit.starts_with(MARK)) {
            return Ok(());
        }
        self.run(&["--quiet", "disable", UNIT]).await?;
        let path = self.units.join(UNIT);
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        self.run(&["daemon-reload"]).await.map(drop)
    }

    /// Text of the unit in the administrator's directory, if it exists.
    fn find(&self) -> Result<Option<String>> {
        let path = self.units.join(UNIT);
        match read_at_most(&path, UNIT_BYTES_MAX) {
            Ok(text) => Ok(Some(String::from_utf8_lossy(&text).into_owned())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            // A masked unit is a link to /dev/null: the administrator does not want it to run.
            Err(error) if error.kind() == ErrorKind::InvalidData => Ok(Some(String::new())),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    fn is_packaged(&self) -> bool {
        self.packaged.iter().any(|directory| directory.join(UNIT).exists())
    }

    /// Runs systemctl and returns its output.
    async fn run(&self, arguments: &[&str]) -> Result<String> {
        let line = format!("systemctl {}", arguments.join(" "));
        let mut command = Command::new(&self.systemctl);
        let output = command.args(arguments).kill_on_drop(true).output();
        let output = timeout(SYSTEMD_DEADLINE, output)
            .await
            .with_context(|| format!("{line} takes too long"))?
            .with_context(|| line.clone())?;
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            bail!("{line} failed: {}", stderr.lines().next().unwrap_or("no error message"));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// The text of the unit.
fn unit(program: &Path, configuration: &Configuration) -> Result<String> {
    // systemd does not accept these in a program name, even quoted.
    if program.as_os_str().as_encoded_bytes().iter().any(|octet| br#"$"'\"#.contains(octet)) {
        bail!(
            "systemd cannot run a program with a dollar sign, quote or backslash in its path: {}",
            program.display()
        );
    }
    let mut line = quote(program.as_os_str())?;
    for argument in configuration.command_line_without(&REMEMBERED) {
        write!(line, " {}", quote(&argument)?)?;
    }
    Ok(format!(
        "{MARK}
# Make your own changes with `systemctl edit shoutd`.
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
# If shoutd cannot start, Docker waits no longer than this.
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
    let text = text
        .with_context(|| format!("{word:?} is not valid UTF-8 or contains control characters"))?;
    let is_plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./:=,@+[]".contains(c))
        && !text.is_empty();
    let escaped =
        text.replace('\\', r"\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
    Ok(if is_plain { escaped } else { format!("\"{escaped}\"") })
}

fn write_atomically(path: &Path, text: &str) -> io::Result<()> {
    let temporary = path.with_extension("service.new");
    fs::write(&temporary, text)?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use clap::CommandFactory;
    use shoutd_cli::DaemonArguments;
    use tempfile::TempDir;

    use super::*;

    fn configuration(line: &[&str]) -> Configuration {
        let matches = DaemonArguments::command().get_matches_from(["shoutd"].iter().chain(line));
        Configuration::read(&matches).unwrap()
    }

    /// A systemctl that records its arguments. It fails while the file `fail` exists.
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
        systemd.install(Path::new("/usr/local/bin/shoutd"), &configuration(line)).await
    }

    #[tokio::test]
    async fn the_unit_is_installed_once_and_uninstalled() {
        let directory = tempfile::tempdir().unwrap();
        let systemd = systemd(&directory);
        systemd.uninstall().await.unwrap();
        assert_eq!(asked(&directory), [""; 0]);
        let first = ["10.0.0.1", "--peer-addresses=10.0.0.2", "--token=SHOUT1-secret"];
        assert_eq!(install(&systemd, &first).await.unwrap(), Installed::New);
        assert_eq!(asked(&directory), ["daemon-reload", "--quiet enable shoutd.service"]);
        let text = fs::read_to_string(systemd.units.join(UNIT)).unwrap();
        let line = "\nExecStart=/usr/local/bin/shoutd\n";
        assert!(text.contains(line), "{text}");
        assert!(
            !text.contains("10.0.0.") && !text.contains("SHOUT1"),
            "the daemon remembers these itself: {text}"
        );
        assert_eq!(install(&systemd, &[]).await.unwrap(), Installed::Unchanged);
        assert_eq!(asked(&directory), ["--quiet enable shoutd.service"]);
        assert_eq!(install(&systemd, &["--replication=flood"]).await.unwrap(), Installed::New);
        asked(&directory);
        systemd.uninstall().await.unwrap();
        assert_eq!(asked(&directory), ["--quiet disable shoutd.service", "daemon-reload"]);
        assert_eq!(fs::read_dir(&systemd.units).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_foreign_unit_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let systemd = systemd(&directory);
        let path = systemd.units.join(UNIT);
        let theirs = "[Service]\nExecStart=/opt/shoutd\n";
        fs::write(&path, theirs).unwrap();
        assert_eq!(install(&systemd, &[]).await.unwrap(), Installed::Foreign);
        systemd.uninstall().await.unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), theirs);
        // Masked.
        fs::remove_file(&path).unwrap();
        symlink("/dev/null", &path).unwrap();
        assert_eq!(install(&systemd, &[]).await.unwrap(), Installed::Foreign);
        systemd.uninstall().await.unwrap();
        assert_eq!(fs::read_link(&path).unwrap(), Path::new("/dev/null"));
        // Installed by a package.
        fs::remove_file(&path).unwrap();
        fs::create_dir(&systemd.packaged[0]).unwrap();
        fs::write(systemd.packaged[0].join(UNIT), theirs).unwrap();
        assert_eq!(install(&systemd, &[]).await.unwrap(), Installed::Foreign);
        assert!(!path.exists());
        assert_eq!(asked(&directory), [""; 0]);
    }

    #[tokio::test]
    async fn an_error_has_the_message_of_systemctl() {
        let directory = tempfile::tempdir().unwrap();
        let systemd = systemd(&directory);
        fs::write(directory.path().join("fail"), "").unwrap();
        let told = format!("{:#}", install(&systemd, &[]).await.unwrap_err());
        assert_eq!(told, "systemctl daemon-reload failed: it is broken");
    }

    /// `systemd-analyze verify` checks it, also with paths that need quoting.
    #[test]
    fn systemd_accepts_the_unit() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("100% shoutd");
        fs::write(&program, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let path = directory.path().join(UNIT);
        let odd = configuration(&["--data-dir", "/var/lib/a b/%n;\"$HOME\"\\x"]);
        for (program, configuration) in
            [(Path::new("/bin/true"), configuration(&[])), (&program, odd)]
        {
            let text = unit(program, &configuration).unwrap();
            fs::write(&path, text).unwrap();
            let verified =
                std::process::Command::new("systemd-analyze").arg("verify").arg(&path).output();
            let output = verified.expect("systemd-analyze is in Debian's package systemd");
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            // It also reports on the machine's other units.
            let ours: Vec<_> = told.lines().filter(|line| line.contains("shoutd")).collect();
            assert!(output.status.success() && ours.is_empty(), "{told}");
        }
        assert!(unit(Path::new("/bin/$true"), &configuration(&[])).is_err());
        assert!(unit(Path::new("/bin/true"), &configuration(&["--data-dir", "/a\nb"])).is_err());
    }
}
