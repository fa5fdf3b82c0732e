//! Runs a command inside a host.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command};

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::unistd::Pid;

/// The exit code of a shell whose command does not exist.
const COMMAND_NOT_FOUND: u8 = 127;

/// Enters the namespaces of the host whose first process is `init`, runs `command` there and
/// returns its exit code, or 128 plus the number of the signal that ended it.
///
/// While it runs, `SIGTERM` is passed on, and `SIGUSR1` kills the command: if this process were
/// killed itself, no process would reap the command, and a PID namespace cannot end before all its
/// processes are reaped.
pub(super) fn run(init: u32, command: &[&str]) -> Result<u8> {
    enter(init)?;
    // The command gets interrupts from the keyboard itself. They are blocked rather than ignored
    // here, because it would inherit the latter.
    let mut handled = SigSet::empty();
    for signal in
        [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGUSR1, Signal::SIGINT, Signal::SIGQUIT]
    {
        handled.add(signal);
    }
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&handled), None).context("block signals")?;
    let [program, arguments @ ..] = command else { return Ok(COMMAND_NOT_FOUND) };
    let mut command = Command::new(program);
    command.args(arguments);
    // SAFETY: between fork and exec the closure makes two system calls, and neither allocates nor
    // takes a lock.
    unsafe {
        command.pre_exec(|| {
            set_pdeathsig(Signal::SIGKILL)?;
            sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
            Ok(())
        });
    }
    match command.spawn() {
        Ok(child) => wait(child, &handled),
        Err(error) => {
            eprintln!("{program}: {error}");
            Ok(COMMAND_NOT_FOUND)
        }
    }
}

/// Joins all namespaces of a host. The mount namespace comes last, because it has another `/proc`.
fn enter(init: u32) -> Result<()> {
    let kinds = [
        ("net", CloneFlags::CLONE_NEWNET),
        ("uts", CloneFlags::CLONE_NEWUTS),
        ("ipc", CloneFlags::CLONE_NEWIPC),
        ("pid", CloneFlags::CLONE_NEWPID),
        ("mnt", CloneFlags::CLONE_NEWNS),
    ];
    for (kind, flag) in kinds {
        let path = format!("/proc/{init}/ns/{kind}");
        let file =
            File::open(&path).with_context(|| format!("the host is not running: open {path}"))?;
        setns(file.as_fd(), flag).with_context(|| format!("enter {path}"))?;
    }
    Ok(())
}

fn wait(mut child: Child, signals: &SigSet) -> Result<u8> {
    let pid = Pid::from_raw(child.id().cast_signed());
    loop {
        match signals.wait().context("wait for a signal")? {
            Signal::SIGCHLD => {
                if let Some(status) = child.try_wait().context("wait for the command")? {
                    let code = status.code().unwrap_or(128 + status.signal().unwrap_or(0));
                    return Ok(u8::try_from(code).unwrap_or(u8::MAX));
                }
            }
            // An error only means that the command has ended.
            Signal::SIGTERM => _ = kill(pid, Signal::SIGTERM),
            Signal::SIGUSR1 => _ = kill(pid, Signal::SIGKILL),
            _ => {}
        }
    }
}
