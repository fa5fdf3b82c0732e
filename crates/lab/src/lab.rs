//! Labs: creation, lookup and removal.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::unistd::{geteuid, setsid};

use crate::build_directory::build_directory;
use crate::helper::{ask, clean_up};
use crate::host::Host;
use crate::image;
use crate::layout::{Layout, MAX_HOSTS, Record, lab_names, lock_all_labs};
use crate::source::{self, EngineSource};
use crate::wait::wait_until;

/// How long a keeper may take to end after it has reported that all is down.
const KEEPER_END_DEADLINE: Duration = Duration::from_secs(10);

/// A function that receives progress messages.
type Progress = Arc<dyn Fn(&str) + Send + Sync>;

/// The options of a new lab.
#[derive(Clone)]
pub struct LabOptions {
    name: String,
    hosts: u8,
    programs: Option<PathBuf>,
    engines: Vec<EngineSource>,
    progress: Option<Progress>,
}

impl fmt::Debug for LabOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LabOptions")
            .field("name", &self.name)
            .field("hosts", &self.hosts)
            .field("programs", &self.programs)
            .field("engines", &self.engines)
            .finish_non_exhaustive()
    }
}

impl LabOptions {
    /// A lab with three hosts. No other lab of the machine may have the name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            hosts: 3,
            programs: None,
            engines: Vec::new(),
            progress: None,
        }
    }

    /// The number of hosts to begin with, up to [`MAX_HOSTS`].
    #[must_use]
    pub fn hosts(mut self, hosts: u8) -> Self {
        self.hosts = hosts;
        self
    }

    /// The directory of `shoutd`, `shoutdctl` and `shoutd-lab`. The default is that of the running
    /// program's build.
    #[must_use]
    pub fn programs(mut self, directory: &Path) -> Self {
        self.programs = Some(directory.to_owned());
        self
    }

    /// The engines of the hosts, from the first; the last one is that of all further hosts. By
    /// default all have the machine's.
    #[must_use]
    pub fn engines(mut self, engines: &[EngineSource]) -> Self {
        engines.clone_into(&mut self.engines);
        self
    }

    /// Sets a function that receives progress messages.
    #[must_use]
    pub fn progress(mut self, show: impl Fn(&str) + Send + Sync + 'static) -> Self {
        self.progress = Some(Arc::new(show));
        self
    }

    /// Brings the lab up.
    ///
    /// # Errors
    ///
    /// Fails without root, with a name that is taken, without the packages that a lab needs, and
    /// when a host or its engine does not start. Leaves nothing behind then.
    pub fn up(self) -> Result<Lab> {
        ensure!(geteuid().is_root(), "a lab needs namespaces, mounts and Docker: run it as root");
        ensure!(self.hosts <= MAX_HOSTS, "a lab has at most {MAX_HOSTS} hosts, not {}", self.hosts);
        let programs = self.programs.map_or_else(build_directory, Ok)?;
        let layout = Layout::new(&self.name)?;
        let keeper = start_keeper(&layout, &programs.join("shoutd-lab"))?;
        // From here on, dropping the lab takes it down.
        let (hosts, engines) = (Vec::new(), self.engines);
        let mut lab =
            Lab { layout, programs, engines, hosts, keeper: Some(keeper), progress: self.progress };
        let record = Record {
            keeper: lab.keeper_pid(),
            programs: lab.programs.clone(),
            engines: lab.engines.clone(),
        };
        lab.layout.write_record(&record)?;
        lab.show("building the image of the containers");
        image::build(&lab.layout.image())?;
        lab.add_hosts(self.hosts)?;
        Ok(lab)
    }
}

/// Hosts on an underlay. All of it is taken down when this is dropped or its owner is killed.
pub struct Lab {
    layout: Layout,
    programs: PathBuf,
    engines: Vec<EngineSource>,
    hosts: Vec<Host>,
    /// The keeper, if this process is the lab's owner.
    keeper: Option<Child>,
    progress: Option<Progress>,
}

impl fmt::Debug for Lab {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lab")
            .field("name", &self.name())
            .field("hosts", &self.hosts)
            .field("owned", &self.keeper.is_some())
            .finish_non_exhaustive()
    }
}

/// A lab in a list.
#[derive(Debug, Clone)]
pub struct LabSummary {
    /// The lab's name.
    pub name: String,
    /// The names of its running hosts.
    pub hosts: Vec<String>,
}

impl Lab {
    /// Brings up a lab for this process with this many hosts, each with a running engine. The lab's
    /// name is `name` with a unique suffix.
    ///
    /// # Errors
    ///
    /// As [`LabOptions::up`].
    pub fn up(name: &str, hosts: u8) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(1);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        LabOptions::new(&format!("{name}-{}-{count}", process::id())).hosts(hosts).up()
    }

    /// Finds a lab that was detached. Dropping the result does not take the lab down.
    ///
    /// # Errors
    ///
    /// Fails when there is no such lab.
    pub fn attach(name: &str) -> Result<Self> {
        let layout = Layout::new(name)?;
        ensure!(layout.is_kept(), "there is no lab named {name}");
        let Record { programs, engines, .. } = layout.read_record()?;
        let hosts = layout
            .host_numbers()?
            .into_iter()
            .map(|number| new_host(&layout, number, &programs, &engines))
            .collect();
        Ok(Self { layout, programs, engines, hosts, keeper: None, progress: None })
    }

    /// All labs of this machine.
    #[must_use]
    pub fn list() -> Vec<LabSummary> {
        let layouts = lab_names().into_iter().filter_map(|name| Layout::new(&name).ok());
        let mut labs = Vec::new();
        for layout in layouts.filter(Layout::is_kept) {
            let numbers = layout.host_numbers().unwrap_or_default();
            let hosts = numbers
                .into_iter()
                .filter(|number| layout.host_init(*number).exists())
                .map(|number| format!("host{number}"));
            labs.push(LabSummary { name: layout.name().to_owned(), hosts: hosts.collect() });
        }
        labs
    }

    /// The lab's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.layout.name()
    }

    /// All hosts, the first being number 1.
    #[must_use]
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The host with this number, from 1.
    ///
    /// # Errors
    ///
    /// Fails when there is none.
    pub fn host(&self, number: u8) -> Result<&Host> {
        self.hosts
            .iter()
            .find(|host| host.number() == number)
            .with_context(|| format!("the lab {} has no host{number}", self.name()))
    }

    /// Adds a host, with a running engine, to the lab.
    ///
    /// # Errors
    ///
    /// Fails when there are [`MAX_HOSTS`], and when the host or its engine does not start.
    pub fn add_host(&mut self) -> Result<&Host> {
        self.add_hosts(1)?;
        self.hosts.last().context("the host that was added")
    }

    /// Keeps the lab after the end of this process, until [`Lab::down`].
    ///
    /// # Errors
    ///
    /// Fails when the keeper is gone.
    pub fn detach(mut self) -> Result<()> {
        ask(&self.layout, "detach")?;
        self.keeper = None;
        Ok(())
    }

    /// Takes the lab down and waits until nothing of it is left.
    ///
    /// # Errors
    ///
    /// Fails when something could not be removed, or not in time.
    pub fn down(mut self) -> Result<()> {
        self.take_down()
    }

    fn take_down(&mut self) -> Result<()> {
        let done = ask(&self.layout, "down").map(|_| ());
        if let Some(mut keeper) = self.keeper.take() {
            // The keeper ends when its input closes, even if the request failed.
            keeper.stdin = None;
            let what = format!("the end of the keeper of lab {}", self.name());
            wait_until(&what, KEEPER_END_DEADLINE, || Ok(keeper.try_wait()?))?;
        }
        done
    }

    /// Brings hosts up in parallel: most of the time they wait.
    fn add_hosts(&mut self, count: u8) -> Result<()> {
        let first = self.hosts.last().map_or(1, |host| host.number() + 1);
        ensure!(first + count - 1 <= MAX_HOSTS, "a lab has at most {MAX_HOSTS} hosts");
        let hosts: Vec<Host> = (first..first + count)
            .map(|number| new_host(&self.layout, number, &self.programs, &self.engines))
            .collect();
        let lab = &*self;
        let results: Vec<Result<()>> = thread::scope(|scope| {
            let started: Vec<_> =
                hosts.iter().map(|host| scope.spawn(move || lab.boot(host))).collect();
            let joined = started.into_iter().map(|thread| thread.join());
            joined
                .map(|result| result.unwrap_or_else(|_| bail!("starting a host panicked")))
                .collect()
        });
        for (host, result) in hosts.iter().zip(results) {
            result.with_context(|| format!("bring up {}", host.name()))?;
        }
        self.hosts.extend(hosts);
        Ok(())
    }

    /// Boots a host for the first time.
    fn boot(&self, host: &Host) -> Result<()> {
        ask(&self.layout, &format!("on {}", host.number()))?;
        host.configure_engine()?;
        self.show(&format!("{}: starting containerd and dockerd", host.name()));
        host.start_engine()?;
        host.import_image(&self.layout.image())?;
        self.show(&format!("{}: up, at {}", host.name(), host.address()));
        Ok(())
    }

    fn show(&self, what: &str) {
        if let Some(progress) = &self.progress {
            progress(what);
        }
    }

    fn keeper_pid(&self) -> u32 {
        self.keeper.as_ref().map_or(0, Child::id)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.keeper.is_some()
            && let Err(error) = self.take_down()
        {
            // The macro would panic if standard error is closed.
            _ = writeln!(io::stderr(), "lab {} was not taken down: {error:#}", self.name());
        }
    }
}

/// A host with shoutd's programs, and with its engine's where that is not the machine's.
fn new_host(layout: &Layout, number: u8, programs: &Path, engines: &[EngineSource]) -> Host {
    let engine = source::of_host(engines, number);
    let directories = [Some(programs), engine.programs()].into_iter().flatten().map(Path::to_owned);
    Host::new(layout.clone(), number, directories.collect())
}

/// Makes the lab's directory and starts its keeper. The keeper's standard input ties it to this
/// process.
fn start_keeper(layout: &Layout, helper: &Path) -> Result<Child> {
    let _lock = lock_all_labs()?;
    clean_up_after_the_killed()?;
    let directory = layout.directory();
    ensure!(!directory.exists(), "there is a lab named {} already", layout.name());
    fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
    let started = spawn_keeper(layout, helper);
    if started.is_err() {
        _ = clean_up(layout);
    }
    started
}

fn spawn_keeper(layout: &Layout, helper: &Path) -> Result<Child> {
    link_or_copy(helper, &layout.helper())?;
    let log = File::create(layout.keeper_log()).context("make the keeper's log")?;
    let mut command = Command::new(layout.helper());
    command
        .args(["keep", layout.name()])
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log);
    // In its own session, so that Ctrl-C in the owner's terminal does not end it: it has to take
    // the lab down. SAFETY: between fork and exec the closure makes one system call, and neither
    // allocates nor takes a lock.
    unsafe {
        command.pre_exec(|| setsid().map(|_| ()).map_err(Into::into));
    }
    let mut keeper = command.spawn().context("start the lab's keeper")?;
    let mut line = String::new();
    if let Some(output) = keeper.stdout.take() {
        BufReader::new(output).read_line(&mut line).context("read the keeper's report")?;
    }
    if line.is_empty() {
        _ = keeper.wait();
        let log = fs::read_to_string(layout.keeper_log()).unwrap_or_default();
        return Err(anyhow!("the lab's keeper did not start: {}", log.trim()));
    }
    Ok(keeper)
}

/// Removes what is left of labs whose keepers were killed. The caller holds the lock on all labs.
fn clean_up_after_the_killed() -> Result<()> {
    for name in lab_names() {
        let layout = Layout::new(&name)?;
        if !layout.is_kept() {
            clean_up(&layout).with_context(|| format!("clean up what lab {name} has left"))?;
        }
    }
    Ok(())
}

/// Links the program, so that a later build does not replace it.
fn link_or_copy(from: &Path, to: &Path) -> Result<()> {
    if !from.exists() {
        bail!("{} is missing: build it with `cargo build -p shoutd-lab`", from.display());
    }
    if fs::hard_link(from, to).is_ok() {
        return Ok(());
    }
    // Another process copies it: a file that is open for writing here may also be open in a child
    // of another thread, and then cannot be executed (ETXTBSY).
    let copied = Command::new("cp").arg(from).arg(to).status().context("run cp")?;
    ensure!(copied.success(), "cannot copy {} to {}", from.display(), to.display());
    Ok(())
}
