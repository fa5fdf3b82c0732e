//! One host of a lab.

use std::ffi::OsStr;
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::helper::ask;
use crate::layout::{self, COMMANDS, Layout};
use crate::process::{Output, Process, Show};
use crate::wait::wait_until;

/// How long a command without a deadline of its own may take.
const COMMAND_DEADLINE: Duration = Duration::from_secs(60);

/// How long a signalled process may take to be gone.
const KILL_DEADLINE: Duration = Duration::from_secs(10);

/// The directories of programs on a host, after those of `shoutd` and of an engine that is not the
/// machine's. The machine's `/usr/local` is left out: its contents are not from Debian's packages.
const SYSTEM_PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// A handle of one host of a lab. It neither keeps the host running nor ends it.
#[derive(Debug, Clone)]
pub struct Host {
    pub(crate) layout: Layout,
    number: u8,
    /// Directories of programs that come before the system's.
    programs: Vec<PathBuf>,
}

impl Host {
    pub(crate) fn new(layout: Layout, number: u8, programs: Vec<PathBuf>) -> Self {
        Self { layout, number, programs }
    }

    /// The host's number in its lab, from 1.
    #[must_use]
    pub fn number(&self) -> u8 {
        self.number
    }

    /// The host's name: `host1`, `host2`...
    #[must_use]
    pub fn name(&self) -> String {
        format!("host{}", self.number)
    }

    /// The host's address on the underlay, on its interface `eth0`.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        layout::address(self.number)
    }

    /// The host's IPv6 address on the underlay.
    #[must_use]
    pub fn address_v6(&self) -> Ipv6Addr {
        layout::address_v6(self.number)
    }

    /// The machine's path to the host's file `path` (absolute) while the host is on. It must not
    /// contain absolute symbolic links, which would lead to the machine's files: `/run/x`, not
    /// `/var/run/x`.
    ///
    /// # Errors
    ///
    /// Fails when the host is off.
    pub fn file(&self, path: &str) -> Result<PathBuf> {
        Ok(PathBuf::from(format!("/proc/{}/root/{}", self.init()?, path.trim_start_matches('/'))))
    }

    /// Runs a command on the host and waits for its end, up to a minute.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be run or does not end; not when its exit code is not 0.
    pub fn run<I>(&self, command: I) -> Result<Output>
    where
        I: IntoIterator,
        I::Item: AsRef<OsStr>,
    {
        self.run_for(COMMAND_DEADLINE, command)
    }

    /// As [`Host::run`], with another deadline.
    ///
    /// # Errors
    ///
    /// As [`Host::run`].
    pub fn run_for<I>(&self, deadline: Duration, command: I) -> Result<Output>
    where
        I: IntoIterator,
        I::Item: AsRef<OsStr>,
    {
        self.spawn(command)?.wait(deadline)
    }

    /// Runs lines of shell on the host and returns what they printed to their standard output.
    ///
    /// # Errors
    ///
    /// Fails when the exit code is not 0, and after a minute.
    pub fn sh(&self, script: &str) -> Result<String> {
        self.checked(["sh", "-c", script])
    }

    /// Runs `docker` with these arguments on the host and returns what it printed to its standard
    /// output.
    ///
    /// # Errors
    ///
    /// Fails when the exit code is not 0, with what it printed, and after a minute.
    pub fn docker<I>(&self, arguments: I) -> Result<String>
    where
        I: IntoIterator,
        I::Item: AsRef<OsStr>,
    {
        let arguments = arguments.into_iter().map(|argument| argument.as_ref().to_owned());
        self.checked(std::iter::once("docker".into()).chain(arguments))
    }

    /// Starts a command on the host.
    ///
    /// # Errors
    ///
    /// Fails when the host is off.
    pub fn spawn<I>(&self, command: I) -> Result<Process>
    where
        I: IntoIterator,
        I::Item: AsRef<OsStr>,
    {
        self.start(command, None)
    }

    /// As [`Host::spawn`]; `show` also receives the output as it comes.
    ///
    /// # Errors
    ///
    /// As [`Host::spawn`].
    pub fn spawn_showing<I>(
        &self,
        command: I,
        show: impl Fn(&str) + Send + Sync + 'static,
    ) -> Result<Process>
    where
        I: IntoIterator,
        I::Item: AsRef<OsStr>,
    {
        self.start(command, Some(Arc::new(show)))
    }

    /// Runs a command on the host at this process's terminal, such as a shell, for as long as it
    /// takes.
    ///
    /// # Errors
    ///
    /// Fails when the host is off.
    pub fn interact<I>(&self, command: I) -> Result<ExitStatus>
    where
        I: IntoIterator,
        I::Item: AsRef<OsStr>,
    {
        let (what, mut enter) = self.entering(command)?;
        enter.status().with_context(|| format!("run: {what}"))
    }

    /// The ids of the host's processes, as the host counts them, whose name (`comm`, up to 15
    /// bytes) is this.
    ///
    /// # Errors
    ///
    /// Fails when the host is off.
    pub fn pids_of(&self, name: &str) -> Result<Vec<u32>> {
        let processes = self.file("/proc")?;
        let entries = fs::read_dir(&processes)
            .with_context(|| format!("list the processes of {}", self.name()))?;
        Ok(entries.filter_map(|entry| pid_of(&entry.ok()?, name)).collect())
    }

    /// Sends a signal (`TERM`, `KILL`, `STOP`...) to these processes, by the host's process ids.
    /// Those that have ended do not matter.
    ///
    /// # Errors
    ///
    /// Fails when the host is off.
    pub fn signal(&self, signal: &str, pids: &[u32]) -> Result<()> {
        let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
        self.run(["sh", "-c", &format!("kill -{signal} {} || true", pids.join(" "))]).map(|_| ())
    }

    /// Kills each process of this name with `SIGKILL`, and waits until they are gone.
    ///
    /// # Errors
    ///
    /// Fails when there is none, and when one is not gone after 10 s.
    pub fn kill_all(&self, name: &str) -> Result<()> {
        let pids = self.pids_of(name)?;
        if pids.is_empty() {
            bail!("no process named {name} runs on {}", self.name());
        }
        self.signal("KILL", &pids)?;
        self.wait_gone(name, &pids, KILL_DEADLINE)
    }

    /// Waits until none of these processes is left.
    pub(crate) fn wait_gone(&self, name: &str, pids: &[u32], deadline: Duration) -> Result<()> {
        wait_until(&format!("the end of {name} on {}", self.name()), deadline, || {
            let alive = self.pids_of(name)?;
            Ok(pids.iter().all(|pid| !alive.contains(pid)).then_some(()))
        })
    }

    /// Cuts the host off from the underlay, as if its cable were pulled.
    ///
    /// # Errors
    ///
    /// Fails when the host is off.
    pub fn cut(&self) -> Result<()> {
        ask(&self.layout, &format!("link {} down", self.number)).map(|_| ())
    }

    /// Undoes [`Host::cut`].
    ///
    /// # Errors
    ///
    /// Fails when the host is off.
    pub fn mend(&self) -> Result<()> {
        ask(&self.layout, &format!("link {} up", self.number)).map(|_| ())
    }

    /// Ends all processes of the host at once. The host's files stay: `/etc/docker`, `/var/log`,
    /// and the directories of docker, containerd and shoutd in `/var/lib`.
    ///
    /// # Errors
    ///
    /// Fails when the host is off, and when it has not ended after 20 s.
    pub fn power_off(&self) -> Result<()> {
        ask(&self.layout, &format!("off {}", self.number)).map(|_| ())
    }

    /// Boots the host again, up to and including its engine; `shoutd` is not started.
    ///
    /// # Errors
    ///
    /// Fails when the host is on, and when its engine does not start.
    pub fn power_on(&self) -> Result<()> {
        self.boot()?;
        self.start_engine()
    }

    /// Boots the host again without starting anything on it.
    ///
    /// # Errors
    ///
    /// Fails when the host is on.
    pub fn boot(&self) -> Result<()> {
        ask(&self.layout, &format!("on {}", self.number)).map(|_| ())
    }

    fn init(&self) -> Result<u32> {
        let path = self.layout.host_init(self.number);
        let text = fs::read_to_string(&path).with_context(|| format!("{} is off", self.name()))?;
        text.trim().parse().with_context(|| format!("read {}", path.display()))
    }

    fn start<I>(&self, command: I, show: Option<Show>) -> Result<Process>
    where
        I: IntoIterator,
        I::Item: AsRef<OsStr>,
    {
        let (what, mut enter) = self.entering(command)?;
        // In its own process group: signals of a terminal are for the owner to act on.
        std::os::unix::process::CommandExt::process_group(&mut enter, 0);
        Process::start(what, enter.stdin(Stdio::null()), show)
    }

    /// The command that runs `command` on the host, and its description for messages.
    fn entering<I>(&self, command: I) -> Result<(String, Command)>
    where
        I: IntoIterator,
        I::Item: AsRef<OsStr>,
    {
        let mut enter = Command::new(self.layout.helper());
        enter.args(["enter", &self.init()?.to_string()]);
        let mut what = format!("{}$", self.name());
        for word in command {
            what.push(' ');
            what.push_str(&word.as_ref().to_string_lossy());
            enter.arg(word);
        }
        // A host has its own environment, without the DOCKER_HOST of the user who runs the tests,
        // for example.
        enter
            .env_clear()
            .env("PATH", self.search_path())
            .env("HOME", "/root")
            .env("USER", "root")
            .env("LANG", "C.UTF-8")
            .env("DOCKER_CONFIG", "/run/docker-client");
        for name in ["TERM", "RUST_LOG", "RUST_BACKTRACE"] {
            if let Some(value) = std::env::var_os(name) {
                enter.env(name, value);
            }
        }
        Ok((what, enter))
    }

    fn search_path(&self) -> String {
        let own = self.programs.iter().map(|directory| directory.display().to_string());
        let directories: Vec<String> =
            own.chain([SYSTEM_PATH.to_owned(), COMMANDS.to_owned()]).collect();
        directories.join(":")
    }

    fn checked<I>(&self, command: I) -> Result<String>
    where
        I: IntoIterator,
        I::Item: AsRef<OsStr>,
    {
        let mut process = self.spawn(command)?;
        let output = process.wait(COMMAND_DEADLINE)?;
        if !output.success() {
            bail!("{} failed, {output}", process.what());
        }
        Ok(output.stdout)
    }
}

/// The id of a process below `/proc`, if it runs a program of this name.
fn pid_of(entry: &fs::DirEntry, name: &str) -> Option<u32> {
    let pid = entry.file_name().to_str()?.parse().ok()?;
    // "pid (name) state ..."; zombies do not count.
    let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
    let (found, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
    (found == name && !rest.starts_with(" Z")).then_some(pid)
}
