//! Commands that run inside hosts, and their output.

use std::fmt;
use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::wait::{end_of, wait_until};

/// The most that is kept of each of a command's two outputs, in bytes.
const MAX_CAPTURED: usize = 16 << 20;

/// How long a command's last output may take to arrive after its end. The outputs may stay open for
/// longer: a daemon that it started may have inherited them.
const LAST_OUTPUT_DEADLINE: Duration = Duration::from_secs(2);

/// How long a killed command may take to be gone.
const KILL_DEADLINE: Duration = Duration::from_secs(10);

/// The exit code and output of a command.
#[derive(Debug, Clone)]
pub struct Output {
    /// The exit code, or 128 plus the number of the signal that ended the command.
    pub code: i32,
    /// What it wrote to its standard output.
    pub stdout: String,
    /// What it wrote to its standard error.
    pub stderr: String,
}

impl Output {
    /// Whether the exit code was 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.code == 0
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exit code {}", self.code)?;
        for (name, text) in [("output", &self.stdout), ("error output", &self.stderr)] {
            if !text.trim().is_empty() {
                write!(f, ", {name}:\n{}", text.trim_end())?;
            }
        }
        Ok(())
    }
}

#[derive(Debug, Default)]
struct Captured {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    open: u8,
}

#[derive(Debug, Default)]
struct Capture {
    captured: Mutex<Captured>,
    changed: Condvar,
}

impl Capture {
    fn lock(&self) -> MutexGuard<'_, Captured> {
        // A reader that panicked cannot have left a partial change.
        self.captured.lock()
    }
}

/// A command that runs inside a host. It is killed when this is dropped.
#[derive(Debug)]
pub struct Process {
    what: String,
    child: Child,
    status: Option<ExitStatus>,
    capture: Arc<Capture>,
}

impl Process {
    /// Starts `command`, which is the helper's `enter`; `what` names it in errors. `show` also
    /// receives the output as it comes.
    pub(crate) fn start(what: String, command: &mut Command, show: Option<Show>) -> Result<Self> {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("start: {what}"))?;
        let capture = Arc::new(Capture::default());
        capture.lock().open = 2;
        if let Some(output) = child.stdout.take() {
            read(output, &capture, |captured| &mut captured.stdout, show.clone());
        }
        if let Some(output) = child.stderr.take() {
            read(output, &capture, |captured| &mut captured.stderr, show);
        }
        Ok(Self { what, child, status: None, capture })
    }

    /// The host and the command, as in `host1$ docker version`.
    #[must_use]
    pub fn what(&self) -> &str {
        &self.what
    }

    /// The command's standard output and standard error so far.
    #[must_use]
    pub fn printed(&self) -> (String, String) {
        let captured = self.capture.lock();
        (text(&captured.stdout), text(&captured.stderr))
    }

    /// Waits until the command has printed a line, to either output, that `wanted` accepts, and
    /// returns the line.
    ///
    /// # Errors
    ///
    /// Fails, with the output, when the deadline passes or the outputs end without such a line.
    pub fn wait_for_line(
        &self,
        deadline: Duration,
        mut wanted: impl FnMut(&str) -> bool,
    ) -> Result<String> {
        let end = end_of(deadline);
        let mut captured = self.capture.lock();
        loop {
            let printed = [text(&captured.stdout), text(&captured.stderr)];
            let mut lines =
                printed.iter().flat_map(|text| complete_lines(text, captured.open == 0));
            if let Some(line) = lines.find(|line| wanted(line)) {
                return Ok(line.to_owned());
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || captured.open == 0 {
                let why = if left.is_zero() { "in time" } else { "before it ended" };
                bail!(
                    "{} did not print what was waited for {why}, but:\n{}",
                    self.what,
                    printed.concat()
                );
            }
            self.capture.changed.wait_for(&mut captured, left);
        }
    }

    /// Whether the command has ended.
    ///
    /// # Errors
    ///
    /// Fails when the system does.
    pub fn has_ended(&mut self) -> Result<bool> {
        if self.status.is_none() {
            self.status =
                self.child.try_wait().with_context(|| format!("wait for: {}", self.what))?;
        }
        Ok(self.status.is_some())
    }

    /// Waits for the command to end.
    ///
    /// # Errors
    ///
    /// Kills the command and fails, with its output, when it has not ended by `deadline`.
    pub fn wait(&mut self, deadline: Duration) -> Result<Output> {
        let what = format!("the end of: {}", self.what);
        let ended = wait_until(&what, deadline, || Ok(self.has_ended()?.then_some(())));
        if let Err(error) = ended {
            self.kill()?;
            let (stdout, stderr) = self.printed();
            bail!("{error:#}; it was killed. It had printed:\n{stdout}{stderr}");
        }
        Ok(self.output())
    }

    /// Asks the command to end with `SIGTERM`.
    ///
    /// # Errors
    ///
    /// Fails when the system does.
    pub fn terminate(&mut self) -> Result<()> {
        self.signal(Signal::SIGTERM)
    }

    /// Kills the command, waits for its end and returns its output.
    ///
    /// # Errors
    ///
    /// Fails when it is not gone after 10 s.
    pub fn kill(&mut self) -> Result<Output> {
        // The helper's signal for "kill your command".
        self.signal(Signal::SIGUSR1)?;
        let what = format!("the end of, killed: {}", self.what);
        let gone = wait_until(&what, KILL_DEADLINE, || Ok(self.has_ended()?.then_some(())));
        if let Err(error) = gone {
            _ = self.child.kill();
            _ = self.child.wait();
            return Err(error);
        }
        Ok(self.output())
    }

    fn signal(&mut self, signal: Signal) -> Result<()> {
        if !self.has_ended()? {
            let pid = Pid::from_raw(self.child.id().cast_signed());
            kill(pid, signal).with_context(|| format!("signal: {}", self.what))?;
        }
        Ok(())
    }

    /// The output of an ended command.
    fn output(&self) -> Output {
        let end = Instant::now() + LAST_OUTPUT_DEADLINE;
        let mut captured = self.capture.lock();
        while captured.open > 0 {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            self.capture.changed.wait_for(&mut captured, left);
        }
        Output {
            code: self.status.and_then(|status| status.code()).unwrap_or(-1),
            stdout: text(&captured.stdout),
            stderr: text(&captured.stderr),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.has_ended().unwrap_or(true) {
            _ = self.kill();
        }
    }
}

/// A function that receives output as it comes.
pub(crate) type Show = Arc<dyn Fn(&str) + Send + Sync>;

fn read(
    mut output: impl Read + Send + 'static,
    capture: &Arc<Capture>,
    of: fn(&mut Captured) -> &mut Vec<u8>,
    show: Option<Show>,
) {
    let capture = Arc::clone(capture);
    // The thread ends with the last process that holds the other end of the pipe, at the latest
    // with the lab.
    thread::spawn(move || {
        let mut buffer = [0; 8192];
        while let Ok(length @ 1..) = output.read(&mut buffer) {
            let piece = buffer.get(..length).unwrap_or_default();
            if let Some(show) = &show {
                show(&text(piece));
            }
            let mut captured = capture.lock();
            let kept = of(&mut captured);
            let room = MAX_CAPTURED.saturating_sub(kept.len()).min(length);
            kept.extend_from_slice(piece.get(..room).unwrap_or_default());
            drop(captured);
            capture.changed.notify_all();
        }
        capture.lock().open -= 1;
        capture.changed.notify_all();
    });
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The lines of `text`; the last, which may still grow, only if `is_final`.
fn complete_lines(text: &str, is_final: bool) -> impl Iterator<Item = &str> {
    text.split_inclusive('\n')
        .filter(move |line| is_final || line.ends_with('\n'))
        .map(|line| line.trim_end_matches(['\r', '\n']))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(script: &str) -> Process {
        Process::start(script.to_owned(), Command::new("sh").args(["-c", script]), None).unwrap()
    }

    #[test]
    fn waits_for_a_line_of_either_output() {
        let process = start("echo one; echo two >&2; sleep 60");
        for wanted in ["one", "two"] {
            let line = process.wait_for_line(Duration::from_secs(10), |line| line == wanted);
            assert_eq!(line.unwrap(), wanted);
        }
    }

    #[test]
    fn a_line_that_never_comes_is_an_error_when_the_command_ends() {
        let process = start("echo one");
        let error = process.wait_for_line(Duration::from_secs(10), |line| line == "two");
        assert!(error.unwrap_err().to_string().contains("before it ended, but:\none"));
    }

    #[test]
    fn a_command_that_takes_too_long_is_killed() {
        let mut process = start("echo started; exec sleep 60");
        process.wait_for_line(Duration::from_secs(10), |line| line == "started").unwrap();
        let error = process.wait(Duration::from_millis(50)).unwrap_err().to_string();
        assert!(error.contains("started"), "{error}");
        assert!(process.has_ended().unwrap());
    }

    #[test]
    fn an_inherited_output_does_not_hold_up_the_end() {
        let mut process = start("sleep 3 & echo started");
        let output = process.wait(Duration::from_secs(2)).unwrap();
        assert_eq!((output.code, output.stdout.as_str()), (0, "started\n"));
    }
}
