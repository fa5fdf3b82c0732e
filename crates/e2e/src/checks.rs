//! Runs many checks on one cluster, one after the other, each as a test of its own.

use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, anyhow};
use libtest_mimic::{Arguments, Failed, Trial};
use parking_lot::Mutex;

use crate::Cluster;

/// A check: what must hold, and the function that checks it.
pub type Check = (&'static str, fn(&mut Cluster) -> Result<()>);

/// Brings up a cluster, as its checks expect it.
pub type Up = fn() -> Result<Cluster>;

/// Lines of each log that are shown when a check fails.
const LOG_LINES: usize = 60;

/// The `main` of a test program whose checks share one cluster: [`run_groups`] with one group.
pub fn run_checks(up: Up, checks: &[Check]) -> ExitCode {
    run_groups(&[(up, checks)])
}

/// The `main` of a test program: each check is a test, with its sentence as the name. The program
/// takes the arguments of Rust's own test programs, such as a part of a name or `--list`.
///
/// The checks run in order. The first one of a group that is selected brings up the group's
/// cluster, after that of the group before was taken down. After each check, the cluster must be as
/// it was before: no network, lease, device or namespace is left. The others run even if one fails.
pub fn run_groups(groups: &[(Up, &[Check])]) -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let lab = Arc::new(Mutex::new(Lab::Down));
    let mut trials = Vec::new();
    for (group, (up, checks)) in groups.iter().enumerate() {
        for check in *checks {
            let (lab, up, check) = (Arc::clone(&lab), *up, *check);
            trials.push(Trial::test(check.0, move || run_check(&lab, (group, up), check)));
        }
    }
    // The cluster is taken down when `lab` is dropped, which `Conclusion::exit` would prevent.
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// The cluster of one group at a time.
enum Lab {
    /// No check of the program has run yet.
    Down,
    /// The cluster of the group with this index.
    Up(usize, Box<Cluster>),
    /// The cluster of the group with this index could not be brought up, and why. The group's other
    /// checks do not try again: that takes long, and fails for the same reason.
    Failed(usize, String),
}

impl Lab {
    fn group(&self) -> Option<usize> {
        match self {
            Self::Down => None,
            Self::Up(group, _) | Self::Failed(group, _) => Some(*group),
        }
    }

    /// The cluster of this group, which is brought up if it is not there yet.
    fn cluster(&mut self, (group, up): (usize, Up)) -> Result<&mut Cluster> {
        if self.group() != Some(group) {
            // The cluster of the group before is taken down first.
            *self = Self::Down;
            *self = match without_panic(up) {
                Ok(cluster) => Self::Up(group, Box::new(cluster)),
                Err(error) => Self::Failed(group, format!("{error:#}")),
            };
        }
        match self {
            Self::Up(_, cluster) => Ok(cluster),
            Self::Failed(_, reason) => Err(anyhow!("there is no cluster: {reason}")),
            Self::Down => Err(anyhow!("there is no cluster")),
        }
    }
}

/// Runs a check, and cleans the cluster if it fails. The seconds that are shown do not include the
/// time that it took to bring up the cluster.
fn run_check(lab: &Mutex<Lab>, group: (usize, Up), (_, check): Check) -> Result<(), Failed> {
    let mut lab = lab.lock();
    let cluster = lab.cluster(group).inspect_err(|error| println!("FAILED: {error:#}"))?;
    let (begin, logs) = (Instant::now(), cluster.logs());
    let result = without_panic(|| check(cluster)).and_then(|()| cluster.await_clean());
    let seconds = begin.elapsed().as_secs_f32();
    match result {
        Ok(()) => {
            // The verdict follows on this line.
            print!("({seconds:.1} s) ");
            _ = io::stdout().flush();
            Ok(())
        }
        Err(error) => {
            println!("FAILED ({seconds:.1} s): {error:#}");
            cluster.show_logs_since(&logs, LOG_LINES);
            cluster.force_clean();
            Err(Failed::from(format!("{error:#}")))
        }
    }
}

/// The result of `work`; an error if it panics. The panic's message and place are shown already.
fn without_panic<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(anyhow!("panic: {}", text.unwrap_or("without a message")))
    })
}
