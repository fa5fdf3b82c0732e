//! The systemd unit that starts shoutd at boot, before the host's engine, and restarts it after a
//! failure (systemd.service(5)).
//!
//! An engine starts its containers as soon as it boots and tries each of them only once, so shoutd
//! must already be running. There is no socket unit: with one, if shoutd could not start, the
//! engine's calls would wait forever while they hold the locks of its containers.

mod text;

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::unistd::Pid;
use shoutd_cli::{Configuration, read_at_most};
use tokio::process::Command;
use tokio::time::timeout;

use self::text::{MARK, drop_in, unit};

/// The unit that runs the daemon.
pub const UNIT: &str = "shoutd.service";

/// The drop-in of a packaged unit with the options of `shoutdctl start`, below the administrator's
/// units (systemd.unit(5)).
const DROP_IN: &str = "shoutd.service.d/start.conf";

/// The link by which the unit is enabled, below the administrator's units.
const ENABLED: &str = "multi-user.target.wants/shoutd.service";

/// Size limit of a unit file that we read, in octets. Ours have about 1000.
const UNIT_BYTES_MAX: u64 = 64 << 10;

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
    /// We wrote or enabled the unit, or replaced an older version of it.
    New,
    /// The same unit was already installed and enabled.
    Unchanged,
    /// The administrator wrote shoutd.service, or masked it. It must start shoutd.
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

    /// Enables a unit that starts the daemon at each boot with these arguments: the unit of an
    /// installed package, or else one that this writes. The daemon itself remembers its address and
    /// peers.
    ///
    /// # Errors
    /// The unit cannot be written, or systemctl fails.
    pub async fn install(
        &self,
        program: &Path,
        configuration: &Configuration,
    ) -> Result<Installed> {
        let path = self.units.join(UNIT);
        let found = self.find(UNIT)?;
        if matches!(&found, Some(unit) if !unit.starts_with(MARK)) {
            return Ok(Installed::Foreign);
        }
        if let Some(packaged) = self.packaged()? {
            return self.install_packaged(&packaged, found.is_some(), configuration).await;
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

    /// Enables the unit of a package, whose text this is. `is_hidden`: by a unit that we wrote
    /// before the package was installed.
    async fn install_packaged(
        &self,
        packaged: &str,
        is_hidden: bool,
        configuration: &Configuration,
    ) -> Result<Installed> {
        let wanted = drop_in(packaged, configuration)?;
        let found = self.find(DROP_IN)?;
        let path = self.units.join(DROP_IN);
        if matches!(&found, Some(text) if !text.starts_with(MARK)) {
            bail!("{} is not from shoutdctl; give it another name", path.display());
        }
        if is_hidden {
            remove(&self.units.join(UNIT))?;
        }
        match &wanted {
            Some(text) if wanted != found => {
                path.parent()
                    .map_or(Ok(()), fs::create_dir_all)
                    .and_then(|()| write_atomically(&path, text))
                    .with_context(|| format!("cannot write {}", path.display()))?;
            }
            None if found.is_some() => self.remove_drop_in()?,
            _ => {}
        }
        let is_enabled = self.is_enabled();
        if is_hidden || wanted != found {
            self.run(&["daemon-reload"]).await?;
        }
        if is_hidden && is_enabled {
            // The link leads to the unit that is gone.
            self.run(&["--quiet", "reenable", UNIT]).await?;
        } else {
            self.run(&["--quiet", "enable", UNIT]).await?;
        }
        let is_unchanged = is_enabled && !is_hidden && wanted == found;
        Ok(if is_unchanged { Installed::Unchanged } else { Installed::New })
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

    /// Disables the unit that [`Systemd::install`] enabled, and removes what it wrote. A foreign
    /// unit stays.
    ///
    /// # Errors
    /// A file cannot be removed, or systemctl fails.
    pub async fn uninstall(&self) -> Result<()> {
        match self.find(UNIT)? {
            Some(unit) if unit.starts_with(MARK) => {
                self.run(&["--quiet", "disable", UNIT]).await?;
                remove(&self.units.join(UNIT))?;
            }
            Some(_) => return Ok(()),
            None => {
                let ours = self.find(DROP_IN)?.is_some_and(|text| text.starts_with(MARK));
                if self.packaged()?.is_none() || !(ours || self.is_enabled()) {
                    return Ok(());
                }
                self.run(&["--quiet", "disable", UNIT]).await?;
                if ours {
                    self.remove_drop_in()?;
                }
            }
        }
        self.run(&["daemon-reload"]).await.map(drop)
    }

    fn remove_drop_in(&self) -> Result<()> {
        let path = self.units.join(DROP_IN);
        remove(&path)?;
        // It stays if the administrator has other drop-ins there.
        let _ = path.parent().map(fs::remove_dir);
        Ok(())
    }

    /// Text of a file in the administrator's directory, if it exists.
    fn find(&self, name: &str) -> Result<Option<String>> {
        let path = self.units.join(name);
        match read_at_most(&path, UNIT_BYTES_MAX) {
            Ok(text) => Ok(Some(String::from_utf8_lossy(&text).into_owned())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            // A masked unit is a link to /dev/null: the administrator does not want it to run.
            Err(error) if error.kind() == ErrorKind::InvalidData => Ok(Some(String::new())),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Text of the unit that a package installed, if there is one.
    fn packaged(&self) -> Result<Option<String>> {
        let mut paths = self.packaged.iter().map(|directory| directory.join(UNIT));
        let Some(path) = paths.find(|path| path.exists()) else { return Ok(None) };
        let text = read_at_most(&path, UNIT_BYTES_MAX)
            .with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Some(String::from_utf8_lossy(&text).into_owned()))
    }

    /// Whether the link exists; where it leads does not matter.
    fn is_enabled(&self) -> bool {
        self.units.join(ENABLED).is_symlink()
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

fn remove(path: &Path) -> Result<()> {
    fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))
}

fn write_atomically(path: &Path, text: &str) -> io::Result<()> {
    // systemd reads no file with this extension.
    let temporary = path.with_extension("new");
    fs::write(&temporary, text)?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
pub mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use clap::CommandFactory;
    use shoutd_cli::DaemonArguments;
    use tempfile::TempDir;

    use super::*;

    pub fn configuration(line: &[&str]) -> Configuration {
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
        // It stays masked if a package is installed.
        packaged(&systemd);
        assert_eq!(install(&systemd, &[]).await.unwrap(), Installed::Foreign);
        systemd.uninstall().await.unwrap();
        assert_eq!(asked(&directory), [""; 0]);
    }

    fn packaged(systemd: &Systemd) {
        fs::create_dir(&systemd.packaged[0]).unwrap();
        let unit = include_str!("../../../../packaging/shoutd.service");
        fs::write(systemd.packaged[0].join(UNIT), unit).unwrap();
    }

    /// What `systemctl enable` does.
    fn enable(systemd: &Systemd) {
        let link = systemd.units.join(ENABLED);
        fs::create_dir(link.parent().unwrap()).unwrap();
        symlink("/nowhere", link).unwrap();
    }

    #[tokio::test]
    async fn a_packaged_unit_is_enabled_and_gets_the_options_in_a_drop_in() {
        let directory = tempfile::tempdir().unwrap();
        let systemd = systemd(&directory);
        packaged(&systemd);
        systemd.uninstall().await.unwrap();
        assert_eq!(asked(&directory), [""; 0]);
        let first = ["10.0.0.1", "--peer-addresses=10.0.0.2", "--token=SHOUT1-secret"];
        assert_eq!(install(&systemd, &first).await.unwrap(), Installed::New);
        assert_eq!(asked(&directory), ["--quiet enable shoutd.service"]);
        assert_eq!(fs::read_dir(&systemd.units).unwrap().count(), 0, "no option, no drop-in");
        enable(&systemd);
        assert_eq!(install(&systemd, &[]).await.unwrap(), Installed::Unchanged);
        asked(&directory);

        let options = ["--replication=flood", "--data-dir=/srv/a b"];
        assert_eq!(install(&systemd, &options).await.unwrap(), Installed::New);
        assert_eq!(asked(&directory), ["daemon-reload", "--quiet enable shoutd.service"]);
        let text = fs::read_to_string(systemd.units.join(DROP_IN)).unwrap();
        assert!(text.starts_with(MARK), "{text}");
        let line = "\nExecStart=\nExecStart=/usr/bin/shoutd \"--data-dir=/srv/a b\" \
                    --replication=flood\n";
        assert!(text.contains(line), "{text}");
        assert_eq!(install(&systemd, &options).await.unwrap(), Installed::Unchanged);
        assert_eq!(install(&systemd, &[]).await.unwrap(), Installed::New);
        assert!(!systemd.units.join("shoutd.service.d").exists());

        install(&systemd, &options).await.unwrap();
        asked(&directory);
        systemd.uninstall().await.unwrap();
        assert_eq!(asked(&directory), ["--quiet disable shoutd.service", "daemon-reload"]);
        assert!(!systemd.units.join("shoutd.service.d").exists());
    }

    /// A host that was installed from the archive gets the package.
    #[tokio::test]
    async fn a_packaged_unit_replaces_the_one_of_an_earlier_installation() {
        let directory = tempfile::tempdir().unwrap();
        let systemd = systemd(&directory);
        install(&systemd, &[]).await.unwrap();
        enable(&systemd);
        packaged(&systemd);
        asked(&directory);
        assert_eq!(install(&systemd, &[]).await.unwrap(), Installed::New);
        assert!(!systemd.units.join(UNIT).exists());
        assert_eq!(asked(&directory), ["daemon-reload", "--quiet reenable shoutd.service"]);
        assert_eq!(install(&systemd, &[]).await.unwrap(), Installed::Unchanged);
    }

    #[tokio::test]
    async fn a_drop_in_of_the_administrator_stays() {
        let directory = tempfile::tempdir().unwrap();
        let systemd = systemd(&directory);
        packaged(&systemd);
        let path = systemd.units.join(DROP_IN);
        fs::create_dir(path.parent().unwrap()).unwrap();
        fs::write(&path, "[Service]\nNice=-5\n").unwrap();
        let error = install(&systemd, &[]).await.unwrap_err().to_string();
        assert!(error.ends_with("is not from shoutdctl; give it another name"), "{error}");
        systemd.uninstall().await.unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "[Service]\nNice=-5\n");
    }

    #[tokio::test]
    async fn an_error_has_the_message_of_systemctl() {
        let directory = tempfile::tempdir().unwrap();
        let systemd = systemd(&directory);
        fs::write(directory.path().join("fail"), "").unwrap();
        let told = format!("{:#}", install(&systemd, &[]).await.unwrap_err());
        assert_eq!(told, "systemctl daemon-reload failed: it is broken");
    }
}
