//! `shoutdctl watch`.

use std::convert::Infallible;
use std::io::{self, Write, stdout};
use std::os::fd::AsFd;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use clap::Args;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use shoutd_cli::Directories;
use shoutd_core::limits::WATCH_SILENCE;
use shoutd_core::watch::{AskWatch, Line, News};
use tokio::time::{sleep, timeout};

use super::{Format, cell};
use crate::control::{self, ControlError};
use crate::moment::when_here;
use crate::style::red;

/// Pause before we connect again.
const RETRY: Duration = Duration::from_millis(500);

/// Show what changes as it happens: events, problems, hosts, networks, containers and groups
#[derive(Debug, Clone, Copy, Args)]
#[command(after_help = "Examples:
  shoutdctl watch
  shoutdctl watch --json | jq -c 'select(.kind == \"problem\")'
  timeout 60 shoutdctl watch

It shows containers and groups of the networks that have a container on this host. If shoutd does \
                        not run or does not answer, it says so and waits. It runs until Ctrl-C.

Exit codes: 0 after Ctrl-C or if the output is closed, 1 if shoutd refuses, 2 for a wrong command \
                        line.")]
pub struct Watch {
    #[command(flatten)]
    format: Format,
}

/// Fails if the other end of the pipe to which the output goes is closed.
fn check_open() -> io::Result<()> {
    let out = stdout();
    let mut polled = [PollFd::new(out.as_fd(), PollFlags::empty())];
    poll(&mut polled, PollTimeout::ZERO)?;
    let is_closed = polled[0].revents().is_some_and(|events| events.contains(PollFlags::POLLERR));
    if is_closed { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
}

/// Why no more lines come.
enum Interrupted {
    /// The daemon does not run or does not answer, and why.
    Silent(String),
    /// The daemon refused.
    Refused(anyhow::Error),
    /// The output is closed.
    Closed,
}

impl From<ControlError> for Interrupted {
    fn from(error: ControlError) -> Self {
        match error {
            refused @ ControlError::Refused(_) => Self::Refused(refused.into()),
            other => Self::Silent(format!("{:#}", anyhow::Error::from(other))),
        }
    }
}

impl From<io::Error> for Interrupted {
    fn from(_: io::Error) -> Self {
        Self::Closed
    }
}

/// What was shown last.
#[derive(Default)]
struct Shown {
    /// The time of the last event that was shown, or at which watching began.
    after: Option<u64>,
    /// What was last said of a daemon that does not answer.
    silence: Option<String>,
}

impl Watch {
    /// Shows changes until Ctrl-C.
    ///
    /// # Errors
    /// The daemon refuses.
    pub async fn run(self, directories: &Directories) -> Result<()> {
        tokio::select! {
            ended = self.follow(directories) => ended,
            interrupted = tokio::signal::ctrl_c() => Ok(interrupted?),
        }
    }

    async fn follow(self, directories: &Directories) -> Result<()> {
        let mut shown = Shown::default();
        loop {
            let Err(interrupted) = self.connection(directories, &mut shown).await;
            let said = match interrupted {
                Interrupted::Silent(reason) => self.note_silence(&mut shown, reason),
                Interrupted::Refused(error) => return Err(error),
                Interrupted::Closed => return Ok(()),
            };
            if said.is_err() {
                return Ok(());
            }
            sleep(RETRY).await;
        }
    }

    /// Shows what one connection brings.
    async fn connection(
        self,
        directories: &Directories,
        shown: &mut Shown,
    ) -> Result<Infallible, Interrupted> {
        let asked = AskWatch { after: shown.after };
        let mut lines = control::lines(directories, "/v1/watch", &asked).await?;
        loop {
            match timeout(WATCH_SILENCE, lines.next()).await {
                Ok(line) => self.show(&line?, shown)?,
                Err(_) => self.note_silence(shown, lines.silence(WATCH_SILENCE))?,
            }
        }
    }

    fn show(self, line: &Line, shown: &mut Shown) -> io::Result<()> {
        if shown.silence.take().is_some() {
            self.print(&Line { at: line.at, news: News::Answers })?;
        }
        match &line.news {
            News::Alive => return check_open(),
            News::Event { event } => shown.after = shown.after.max(Some(event.last)),
            News::Watching { .. } => shown.after = shown.after.or(Some(line.at)),
            _ => {}
        }
        self.print(line)
    }

    /// Says once that the daemon does not answer, and why.
    fn note_silence(self, shown: &mut Shown, reason: String) -> io::Result<()> {
        if shown.silence.as_ref() == Some(&reason) {
            return Ok(());
        }
        shown.silence = Some(reason.clone());
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let at = at.as_millis().try_into().unwrap_or(u64::MAX);
        self.print(&Line { at, news: News::Silent { reason } })
    }

    /// Prints a line. Unlike with `println!`, a closed pipe is an error, which ends the command.
    fn print(self, line: &Line) -> io::Result<()> {
        let mut out = stdout().lock();
        if self.format.json {
            writeln!(out, "{}", serde_json::to_string(line)?)?;
        } else {
            let text = cell(&line.news.to_string());
            let text = if line.news.is_bad() { red(&text) } else { text };
            writeln!(out, "{} {text}", when_here(line.at))?;
        }
        out.flush()
    }
}
