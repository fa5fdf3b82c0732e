//! The keeper of a lab: parent of all hosts, owner of the underlay, and the process that takes the
//! lab down.
//!
//! It ends when the lab's owner closes the pipe to the keeper's standard input, as the kernel does
//! for a killed owner; on request; and on `SIGTERM`. The hosts end with their parent, so that even
//! a killed keeper leaves no process, only files, which the next lab's owner removes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::signalfd::SignalFd;
use nix::unistd::Pid;

use super::{clean_up, name_server, thaw_host, underlay};
use crate::layout::{Layout, MAX_HOSTS, lock_all_labs};
use crate::wait::wait_until;

/// How long a killed host may take to end: the kernel dismantles its mounts and links.
const HOST_END_DEADLINE: Duration = Duration::from_secs(20);

/// How long a client may take to send its request; one client is served at a time.
const REQUEST_DEADLINE: Duration = Duration::from_secs(2);

/// How long a client waits for an answer. Taking the lab down takes longest.
const ANSWER_DEADLINE: Duration = Duration::from_secs(60);

/// A running host: its outermost process, a child of the keeper, and the first process inside.
#[derive(Debug)]
struct RunningHost {
    outer: Child,
    init: u32,
}

#[derive(Debug)]
struct Keeper {
    layout: Layout,
    hosts: BTreeMap<u8, RunningHost>,
    /// Whether the lab ends when its owner does.
    owned: bool,
}

/// Asks the keeper of a lab to do something and waits for its answer.
///
/// # Errors
///
/// Fails when there is no keeper, when it does not answer in time, and with its reason when it
/// refuses.
pub(crate) fn ask(layout: &Layout, request: &str) -> Result<String> {
    try_ask(&layout.keeper_socket(), request)
        .with_context(|| format!("ask the keeper of lab {} for \"{request}\"", layout.name()))
}

fn try_ask(socket: &Path, request: &str) -> Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(ANSWER_DEADLINE))?;
    writeln!(stream, "{request}")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.trim_end_matches('\n').split_once(' ') {
        Some(("ok", value)) => Ok(value.to_owned()),
        Some(("error", reason)) => bail!("{reason}"),
        _ => bail!("it ended without an answer"),
    }
}

/// Keeps a lab whose directory exists; prints a line when it takes requests. Returns when the lab
/// is taken down.
pub(super) fn keep(name: &str) -> Result<()> {
    let layout = Layout::new(name)?;
    let lock = File::create(layout.lock()).context("make the lab's lock")?;
    lock.try_lock().context("the lab has a keeper already")?;
    unshare(CloneFlags::CLONE_NEWNET).context("make a network namespace for the underlay")?;
    underlay::make()?;
    let names = name_server::listen()?;
    let path = layout.keeper_socket();
    let listener =
        UnixListener::bind(&path).with_context(|| format!("listen on {}", path.display()))?;
    let mut ending = SigSet::empty();
    ending.add(Signal::SIGTERM);
    ending.add(Signal::SIGINT);
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&ending), None).context("block signals")?;
    let ending = SignalFd::new(&ending).context("listen for signals")?;
    println!("ready");

    let mut keeper = Keeper { layout, hosts: BTreeMap::new(), owned: true };
    let asked_by = keeper.serve(&listener, &names, &ending);
    let ended = keeper.take_down();
    if let Ok(Some(mut client)) = asked_by {
        let result = match &ended {
            Ok(()) => Ok(String::new()),
            Err(error) => Err(anyhow!("{error:#}")),
        };
        answer(&mut client, &result);
    }
    ended
}

impl Keeper {
    /// Serves requests until the lab is to end; returns the client that requested the end, if one
    /// did.
    fn serve(
        &mut self,
        listener: &UnixListener,
        names: &UdpSocket,
        ending: &SignalFd,
    ) -> Result<Option<UnixStream>> {
        let input = std::io::stdin();
        loop {
            let mut watched = vec![
                PollFd::new(ending.as_fd(), PollFlags::POLLIN),
                PollFd::new(listener.as_fd(), PollFlags::POLLIN),
                PollFd::new(names.as_fd(), PollFlags::POLLIN),
            ];
            if self.owned {
                watched.push(PollFd::new(input.as_fd(), PollFlags::POLLIN));
            }
            match poll(&mut watched, PollTimeout::NONE) {
                Ok(_) => {}
                Err(nix::errno::Errno::EINTR) => continue,
                Err(error) => return Err(error).context("wait for requests"),
            }
            let happened =
                |index: usize| watched.get(index).is_some_and(|fd| fd.any().unwrap_or(true));
            // The owner never writes to the pipe, so any event on it is its end.
            if happened(0) || happened(3) {
                return Ok(None);
            }
            if happened(2) {
                name_server::serve(names);
            }
            if happened(1) {
                let (mut client, _) = listener.accept().context("accept a request")?;
                match self.request(&client).transpose() {
                    None => return Ok(Some(client)),
                    Some(result) => answer(&mut client, &result),
                }
            }
        }
    }

    /// Carries out a client's request; `None` means that it requests the end.
    fn request(&mut self, client: &UnixStream) -> Result<Option<String>> {
        client.set_read_timeout(Some(REQUEST_DEADLINE))?;
        let mut line = String::new();
        BufReader::new(client).read_line(&mut line).context("read the request")?;
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["down"] => return Ok(None),
            ["detach"] => self.owned = false,
            ["on", number] => return self.power_on(number.parse()?).map(Some),
            ["off", number] => self.power_off(number.parse()?)?,
            ["link", number, state @ ("up" | "down")] => {
                underlay::set_link(number.parse()?, *state == "up")?;
            }
            _ => bail!("no such request: {line}"),
        }
        Ok(Some(String::new()))
    }

    fn power_on(&mut self, number: u8) -> Result<String> {
        ensure!((1..=MAX_HOSTS).contains(&number), "a host's number is 1 to {MAX_HOSTS}");
        ensure!(!self.hosts.contains_key(&number), "host{number} is on already");
        let directory = self.layout.host(number);
        fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--net", "--uts", "--ipc", "--pid", "--fork", "--kill-child"])
            .arg(self.layout.helper())
            .args(["init", self.layout.name(), &number.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        // SAFETY: between fork and exec the closure makes one system call, and neither allocates
        // nor takes a lock.
        unsafe {
            command.pre_exec(|| Ok(set_pdeathsig(Signal::SIGKILL)?));
        }
        let mut outer = command.spawn().context("run unshare")?;
        match self.connect(number, &mut outer) {
            Ok(init) => {
                self.hosts.insert(number, RunningHost { outer, init });
                Ok(init.to_string())
            }
            Err(error) => {
                _ = outer.kill();
                _ = outer.wait();
                Err(error)
            }
        }
    }

    /// Waits until the first process of a host is ready and connects the host to the underlay.
    fn connect(&self, number: u8, outer: &mut Child) -> Result<u32> {
        let output = outer.stdout.take().context("the host's output")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).context("read the host's report")?;
        let init = line.trim().parse().with_context(|| {
            let log = fs::read_to_string(self.layout.keeper_log()).unwrap_or_default();
            format!("host{number} did not start: {}", log.lines().last().unwrap_or_default())
        })?;
        underlay::connect(number, init)?;
        let path = self.layout.host_init(number);
        fs::write(&path, line).with_context(|| format!("write {}", path.display()))?;
        Ok(init)
    }

    /// Ends all processes of a host at one instant, like a power failure.
    fn power_off(&mut self, number: u8) -> Result<()> {
        let mut host =
            self.hosts.remove(&number).with_context(|| format!("host{number} is not on"))?;
        _ = fs::remove_file(self.layout.host_init(number));
        // When the first process of a PID namespace dies, the kernel kills all others in it. The
        // parent waits for that.
        _ = kill(Pid::from_raw(host.init.cast_signed()), Signal::SIGKILL);
        let what = format!("the end of host{number}");
        let ended = wait_until(&what, HOST_END_DEADLINE, || {
            thaw_host(&self.layout, number)?;
            Ok(host.outer.try_wait()?)
        });
        if ended.is_err() {
            _ = host.outer.kill();
            _ = host.outer.wait();
        }
        underlay::disconnect(number);
        ended.map(|_| ())
    }

    /// Ends everything; nothing is left when it returns `Ok`.
    fn take_down(&mut self) -> Result<()> {
        let numbers: Vec<u8> = self.hosts.keys().copied().collect();
        for host in self.hosts.values() {
            _ = kill(Pid::from_raw(host.init.cast_signed()), Signal::SIGKILL);
        }
        let mut result = Ok(());
        for number in numbers {
            result = result.and(self.power_off(number));
        }
        let _lock = lock_all_labs()?;
        clean_up(&self.layout).and(result)
    }
}

/// Answers a client, unless it is gone.
fn answer(client: &mut UnixStream, answer: &Result<String>) {
    _ = match answer {
        Ok(value) => writeln!(client, "ok {value}"),
        Err(error) => writeln!(client, "error {}", format!("{error:#}").replace('\n', "; ")),
    };
}
