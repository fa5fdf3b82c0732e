//! `cargo xtask test`.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use parking_lot::Mutex;
use shoutd_tooling::terminal::{show_output, show_progress, show_verdict};
use shoutd_tooling::{machine, programs};

use crate::fuzz;

/// Kinds of tests that run at a time. Three with whole hosts leave a fifth of two processors idle:
/// they wait for their engines, or for time-outs.
const LANES: usize = 4;

/// The engine of the hosts in end-to-end tests; in mixed tests, of all but the first.
const ENGINE: &str = "SHOUTD_LAB_ENGINE";

/// The other engine in daily mixed tests.
const OTHER_ENGINE: &str = "debian-13";

/// The directory of the packages that long tests install.
const PACKAGES: &str = "SHOUTD_PACKAGES";

/// The newest engine of the lab.
const NEWEST_ENGINE: &str = "debian-14";

/// End-to-end tests that run with engines of two versions every day.
const MIXED: [&str; 6] =
    ["e2e_docker", "e2e_engines", "e2e_live_restore", "e2e_names", "e2e_network", "e2e_random"];

/// End-to-end tests that run the machine's programs in containers. Those do not run with the
/// libraries of another engine's system.
const OF_THE_MACHINE: [&str; 3] = ["e2e_book", "e2e_programs", "e2e_router"];

/// The end-to-end tests that take longest. They run first, so that no lane waits for one at the
/// end.
const LONGEST: [&str; 7] = [
    "e2e_book",
    "e2e_cluster",
    "e2e_life",
    "e2e_swarm",
    "e2e_callbacks",
    "e2e_remedies",
    "e2e_why",
];

/// The cluster's default for encryption in end-to-end tests.
const ENCRYPT: &str = "SHOUTD_LAB_ENCRYPT";

/// End-to-end tests that are repeated on encrypted networks.
const ENCRYPTED: [&str; 1] = ["e2e_names"];

/// End-to-end tests without any engine.
const WITHOUT_ENGINE: [&str; 1] = ["e2e_kernel"];

/// Arguments of `cargo test` for the quick tests.
const QUICK: [&str; 8] = [
    "--quiet",
    "--workspace",
    "--exclude",
    "shoutd-e2e",
    "--exclude",
    "shoutd-lab",
    "--lib",
    "--bins",
];

/// Failure lines of each kind of tests that are repeated at the end.
const FAILURES_SHOWN: usize = 20;

/// Lines after a failure line that may give the reason.
const LINES_OF_REASON: usize = 3;

/// Directory of the output of each kind of tests, until it is shown.
const LOGS: &str = "target/test-logs";

/// Installs missing packages, builds the programs, and runs all tests, or those that the arguments
/// for `cargo test` select.
///
/// # Errors
///
/// Fails when the tests could not be run; the exit code is theirs.
pub(crate) fn run(long: bool, arguments: &[String]) -> Result<ExitCode> {
    if long { machine::prepare_for_long_tests() } else { machine::prepare() }?;
    programs::build()?;
    let passed = match (long, arguments) {
        (true, _) => run_all(long_kinds()?, Some(&packages()?))?,
        (false, []) => run_all(kinds()?, None)?,
        (false, arguments) => cargo_test(arguments)?,
    };
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Makes the packages that long tests install, or takes those that the user has named.
fn packages() -> Result<PathBuf> {
    if let Some(made) = env::var_os(PACKAGES) {
        return Ok(PathBuf::from(made));
    }
    let output = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join("target/package-long");
    let mut command = programs::cargo();
    command.args(["xtask", "package", "archive", "deb", "wheel", "image", "--output"]).arg(&output);
    ensure!(command.status().context("run cargo")?.success(), "the packages cannot be made");
    Ok(output)
}

/// Runs the tests that need neither root nor an engine, without the simulated clusters.
///
/// # Errors
///
/// Fails when the tests could not be run; the exit code is theirs.
pub(crate) fn run_quick() -> Result<ExitCode> {
    let begin = Instant::now();
    let arguments = QUICK.map(str::to_owned);
    let passed = cargo_test(&arguments)?;
    let verdict = if passed { "passed" } else { "FAILED" };
    show_verdict(&format!("{verdict}: quick tests ({:.0} s)", begin.elapsed().as_secs_f32()));
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn cargo_test(arguments: &[String]) -> Result<bool> {
    let status =
        programs::cargo().arg("test").args(arguments).status().context("run cargo test")?;
    Ok(status.success())
}

/// Tests that run together, and their command.
struct Kind {
    name: String,
    arguments: Vec<String>,
    /// Environment variables.
    environment: Vec<(&'static str, &'static str)>,
}

impl Kind {
    fn new(name: &str, arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|&word| word.to_owned()).collect();
        Self { name: name.to_owned(), arguments, environment: Vec::new() }
    }

    /// A test with a lab of its own.
    fn end_to_end(name: &str) -> Self {
        // With --workspace: for one package alone, dependencies have fewer features and would be
        // built again.
        Self::new(name, &["--workspace", "--test", name, "--", "--nocapture"])
    }
}

/// All kinds; each end-to-end test with its own lab is one.
fn kinds() -> Result<Vec<Kind>> {
    let mut kinds = vec![Kind::new(
        "all but the hosts",
        &["--workspace", "--exclude", "shoutd-e2e", "--no-fail-fast"],
    )];
    let mut names = lab_tests("e2e_")?;
    names.sort_by_key(|name| !LONGEST.contains(&name.as_str()));
    kinds.extend(names.iter().map(|name| Kind::end_to_end(name)));
    Ok(kinds)
}

/// Kinds that take too long for every day: the end-to-end tests with each other engine, those that
/// are repeated on encrypted networks, and tests whose names begin with `long_`.
fn long_kinds() -> Result<Vec<Kind>> {
    let mut kinds: Vec<Kind> =
        lab_tests("long_")?.iter().map(|name| Kind::end_to_end(name)).collect();
    let excepted = [OF_THE_MACHINE.as_slice(), &WITHOUT_ENGINE].concat();
    for name in lab_tests("e2e_")?.into_iter().filter(|name| !excepted.contains(&name.as_str())) {
        for engine in [OTHER_ENGINE, NEWEST_ENGINE] {
            if engine != OTHER_ENGINE || !MIXED.contains(&name.as_str()) {
                let kind = Kind::end_to_end(&name);
                kinds.push(Kind {
                    name: format!("{name} with {engine}"),
                    environment: vec![(ENGINE, engine)],
                    ..kind
                });
            }
        }
    }
    kinds.extend(ENCRYPTED.map(|name| Kind {
        name: format!("{name} encrypted"),
        environment: vec![(ENCRYPT, "always")],
        ..Kind::end_to_end(name)
    }));
    Ok(kinds)
}

/// The sorted names of the end-to-end tests with this prefix.
fn lab_tests(prefix: &str) -> Result<Vec<String>> {
    let directory = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../crates/e2e/tests"));
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).context("list the end-to-end tests")? {
        let path = entry.context("list the end-to-end tests")?.path();
        let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with(prefix) && path.extension().is_some_and(|extension| extension == "rs") {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Runs everything, some kinds at a time; the output of a kind is shown when it is done.
fn run_all(mut waiting: Vec<Kind>, packages: Option<&Path>) -> Result<bool> {
    let built = programs::cargo()
        .args(["test", "--workspace", "--no-run"])
        .status()
        .context("run cargo test")?;
    ensure!(built.success(), "the tests do not build, see above");
    let logs = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join(LOGS);
    fs::create_dir_all(&logs).with_context(|| format!("make the directory {}", logs.display()))?;
    waiting.reverse();
    let (waiting, failures) = (Mutex::new(waiting), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..LANES {
            scope.spawn(|| {
                loop {
                    // The lock is released before the test runs.
                    let next = waiting.lock().pop();
                    let Some(kind) = next else { break };
                    let failure = run_kind(&kind, &logs, packages).unwrap_or_else(|error| {
                        show_verdict(&format!("FAILED  {}: {error:#}", kind.name));
                        Some(format!("{error:#}"))
                    });
                    if let Some(failure) = failure {
                        failures.lock().push(format!("{}:\n{failure}", kind.name));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner();
    // Repeats the failures, which are hard to find in the long output.
    failures.iter().for_each(|failure| show_output(failure));
    show_verdict(if failures.is_empty() { "all tests passed" } else { "tests failed, see above" });
    Ok(failures.is_empty())
}

/// Runs tests, shows their output, and returns the failure lines, if any failed.
fn run_kind(kind: &Kind, logs: &Path, packages: Option<&Path>) -> Result<Option<String>> {
    show_progress(&format!("testing: {}", kind.name));
    let begin = Instant::now();
    let path = logs.join(format!("{}.log", kind.name.replace(' ', "-")));
    let log = File::create(&path).with_context(|| format!("make {}", path.display()))?;
    let copy = log.try_clone().context("write a log")?;
    let mut command = programs::cargo();
    command.arg("test").args(&kind.arguments).stdout(log).stderr(copy);
    fuzz::briefly(&mut command);
    command.envs(kind.environment.iter().copied());
    if let Some(packages) = packages {
        command.env(PACKAGES, packages);
    }
    let status = command.status().context("run cargo test")?;
    let shown = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    show_output(&shown);
    let verdict = if status.success() { "passed " } else { "FAILED " };
    show_verdict(&format!("{verdict} {} ({:.0} s)", kind.name, begin.elapsed().as_secs_f32()));
    Ok((!status.success()).then(|| failures(&shown).join("\n")))
}

/// The failure lines in the output of tests, and the lines after each that may give the reason.
fn failures(printed: &str) -> Vec<&str> {
    let mut shown = Vec::new();
    let mut since = usize::MAX;
    for line in printed.lines() {
        let is_failure =
            line.contains("FAILED") || line.contains("panicked") || line.starts_with("error");
        since = if is_failure { 0 } else { since.saturating_add(1) };
        if since <= LINES_OF_REASON {
            shown.push(line);
        }
    }
    shown.truncate(FAILURES_SHOWN);
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_shown_with_their_reasons() {
        let printed = "ok      one\nFAILED  two: error output:\nno such thing\n2\n3\nok      \
                       three\nlevel=error msg=\"x\"\n";
        assert_eq!(failures(printed), ["FAILED  two: error output:", "no such thing", "2", "3"]);
        assert_eq!(failures("ok      one\ntest result: ok.\n"), [""; 0]);
    }
}
