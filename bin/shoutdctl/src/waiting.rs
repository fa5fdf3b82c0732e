//! Says on standard error that a command still waits, if that is a terminal and it takes longer
//! than a second.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::timeout;

/// What takes no longer needs no words.
const SILENT: Duration = Duration::from_secs(1);

/// How often the spinner turns.
const TURN: Duration = Duration::from_millis(100);

/// Whether another part of the program uses the terminal.
static HIDDEN: AtomicBool = AtomicBool::new(false);

/// Shows no spinner from now on: the screen of `top` is on the same terminal, and a server asks the
/// daemon all the time.
pub fn hide() {
    HIDDEN.store(true, Ordering::Relaxed);
}

/// A spinner with the seconds that a command waits. It is gone when this value is dropped.
#[derive(Debug)]
pub struct Waiting {
    begin: Instant,
    what: &'static str,
    /// `None` in the first second.
    spinner: Option<ProgressBar>,
}

impl Waiting {
    /// Begins to wait. `what` says for what.
    pub fn begin(what: &'static str) -> Self {
        Self { begin: Instant::now(), what, spinner: None }
    }

    /// Shows the spinner, if it is time. To be called again and again.
    pub fn go_on(&mut self) {
        let is_hidden = HIDDEN.load(Ordering::Relaxed);
        if self.spinner.is_none() && !is_hidden && self.begin.elapsed() >= SILENT {
            // It draws only on a terminal.
            let spinner = ProgressBar::new_spinner().with_elapsed(self.begin.elapsed());
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
                spinner.set_style(style);
            }
            spinner.set_message(self.what);
            spinner.enable_steady_tick(TURN);
            self.spinner = Some(spinner);
        }
    }

    /// Prints a line on standard error.
    pub fn say(&self, line: &str) {
        match &self.spinner {
            Some(spinner) => spinner.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }

    /// Waits for this.
    pub async fn during<T>(mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        if let Ok(done) = timeout(SILENT, &mut work).await {
            return done;
        }
        self.go_on();
        work.await
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spinner_comes_after_a_second_and_not_beside_a_screen() {
        let begin = Instant::now().checked_sub(SILENT).unwrap();
        let mut late = Waiting { begin, what: "until it is done", spinner: None };
        late.go_on();
        assert!(late.spinner.is_some());
        let mut early = Waiting::begin("until it is done");
        early.go_on();
        assert!(early.spinner.is_none());
        hide();
        let mut hidden = Waiting { begin, what: "until it is done", spinner: None };
        hidden.go_on();
        assert!(hidden.spinner.is_none());
    }
}
