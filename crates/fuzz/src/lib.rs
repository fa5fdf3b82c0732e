//! Fuzzes decoders in ordinary tests, with the pinned stable compiler and without a separate build.
//!
//! A target is a `#[test]` whose name begins with `fuzz_`. It is in the decoder's module, so that
//! it can call private functions. It calls [`fuzz`], which first replays the target's corpus, the
//! files of `fuzz/<name>` in its crate, and then runs mutated inputs. An input that gives a new
//! kind of result is kept and mutated further. This replaces the coverage feedback of other
//! fuzzers: it needs no instrumentation, and distinguishes errors with different messages.
//!
//! A target fails if it panics, if it runs longer than the watchdog allows, or if the process takes
//! more memory than [`MEMORY_MAX`]. An input that panics is added to the corpus.

mod mutate;
mod outcome;
mod watchdog;

use std::collections::HashSet;
use std::fmt::Debug;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{env, fs, io};

use mutate::Mutator;
use watchdog::Watchdog;

/// Environment variable: how many seconds each target runs. Without it, a target runs [`INPUTS`]
/// inputs.
pub const SECONDS_VARIABLE: &str = "SHOUTD_FUZZ_SECONDS";

/// Environment variable: the seed of all random choices. The default is 1, so that tests repeat.
pub const SEED_VARIABLE: &str = "SHOUTD_FUZZ_SEED";

/// Inputs that an ordinary test runs.
pub const INPUTS: u64 = 2000;

/// Memory limit of the test process, in octets: far more than any test needs, and far less than a
/// decoder allocates that trusts a length field.
pub const MEMORY_MAX: u64 = 512 << 20;

/// How many inputs are kept for mutation, besides the corpus.
const POOL_MAX: usize = 1024;

#[derive(Debug, Clone, Copy)]
struct Plan {
    seed: u64,
    until: End,
}

#[derive(Debug, Clone, Copy)]
enum End {
    Inputs(u64),
    Time(Duration),
}

impl Plan {
    fn from_environment() -> Self {
        let until = number_from_environment(SECONDS_VARIABLE)
            .map_or(End::Inputs(INPUTS), |seconds| End::Time(Duration::from_secs(seconds)));
        Self { seed: number_from_environment(SEED_VARIABLE).unwrap_or(1), until }
    }
}

fn number_from_environment(variable: &str) -> Option<u64> {
    env::var(variable).ok().and_then(|text| text.parse().ok())
}

#[derive(Debug, Clone, Copy)]
struct Report {
    inputs: u64,
    outcomes: usize,
}

/// Fuzzes `target`, whose corpus is in the directory `fuzz/<name>` of the crate at
/// `manifest_directory` (`env!("CARGO_MANIFEST_DIR")`). The result that `target` returns decides
/// whether an input is kept (see the crate's documentation).
///
/// # Panics
/// If `target` panics; the message names the file with the input. If there is no corpus. If the
/// process has taken more than [`MEMORY_MAX`].
pub fn fuzz<O: Debug>(name: &str, manifest_directory: &str, target: impl Fn(&[u8]) -> O) {
    let directory = Path::new(manifest_directory).join("fuzz").join(name);
    let corpus = read_corpus(&directory)
        .unwrap_or_else(|error| refuse(&format!("{}: {error}", directory.display())));
    if corpus.is_empty() {
        refuse(&format!("{} holds no samples", directory.display()));
    }
    let plan = Plan::from_environment();
    let report = run(&corpus, plan, |input| {
        let result = catch_unwind(AssertUnwindSafe(|| outcome::kind(&target(input))));
        result.unwrap_or_else(|panic| {
            let path = keep(&directory, input);
            eprintln!("fuzz_{name}: the input is {} (seed {})", path.display(), plan.seed);
            resume_unwind(panic)
        })
    });
    println!("fuzz_{name}: {} inputs, {} kinds of results", report.inputs, report.outcomes);
    if let Some(peak) = watchdog::peak_memory().filter(|peak| *peak > MEMORY_MAX) {
        refuse(&format!(
            "fuzz_{name}: the process took {peak} octets of memory; the limit is {MEMORY_MAX}"
        ));
    }
}

/// Runs the corpus, then mutated inputs.
fn run(corpus: &[Vec<u8>], plan: Plan, execute: impl Fn(&[u8]) -> u64) -> Report {
    let watchdog = Watchdog::start();
    let (mut pool, mut seen, mut inputs) = (Vec::new(), HashSet::new(), 0);
    for input in corpus {
        seen.insert(watchdog.watch(input, || execute(input)));
        pool.push(input.clone());
        inputs += 1;
    }
    let mut mutator = Mutator::new(plan.seed);
    let start = Instant::now();
    let limit = corpus.len() + POOL_MAX;
    while match plan.until {
        End::Inputs(limit) => inputs < limit,
        End::Time(limit) => start.elapsed() < limit,
    } {
        let input = mutator.mutate(&pool);
        let is_new = seen.insert(watchdog.watch(&input, || execute(&input)));
        if is_new && pool.len() < limit {
            pool.push(input);
        }
        inputs += 1;
    }
    Report { inputs, outcomes: seen.len() }
}

/// Reads the files sorted by name, so that a run repeats.
fn read_corpus(directory: &Path) -> io::Result<Vec<Vec<u8>>> {
    let mut paths = fs::read_dir(directory)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    paths.iter().map(fs::read).collect()
}

/// Writes a failing input into the corpus, so that later tests replay it.
fn keep(directory: &Path, input: &[u8]) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    input.hash(&mut hasher);
    let path = directory.join(format!("found-{:016x}", hasher.finish()));
    if let Err(error) = fs::write(&path, input) {
        eprintln!("{}: {error}; the input is {input:?}", path.display());
    }
    path
}

#[expect(clippy::panic, reason = "a test fails by panicking")]
fn refuse(reason: &str) -> ! {
    panic!("{reason}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A decoder that trusts a length field.
    fn decode(input: &[u8]) -> Result<(), &'static str> {
        let text = std::str::from_utf8(input).map_err(|_| "not a text")?;
        let rest = text.strip_prefix("len ").ok_or("no length")?;
        let (length, rest) = rest.split_once(' ').ok_or("no rest")?;
        let length: usize = length.parse().map_err(|_| "not a number")?;
        if length > rest.len() {
            let _ = rest.as_bytes()[length - 1];
        }
        Ok(())
    }

    /// The defect is several steps away from the corpus, and each step gives a new result.
    #[test]
    fn a_defect_behind_several_checks_is_found() {
        let plan = Plan { seed: 1, until: End::Inputs(100_000) };
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        let found = catch_unwind(|| {
            run(&[b"len 4 abcd".to_vec()], plan, |input| outcome::kind(&decode(input)))
        });
        std::panic::set_hook(hook);
        assert!(found.is_err(), "{found:?}");
    }

    #[test]
    fn a_run_repeats() {
        assert_eq!(inputs(3), inputs(3));
        assert_ne!(inputs(3), inputs(4));
    }

    /// The inputs of a run with this seed.
    fn inputs(seed: u64) -> Vec<Vec<u8>> {
        let all = std::cell::RefCell::new(Vec::new());
        run(&[b"[1, \"a\"]".to_vec()], Plan { seed, until: End::Inputs(200) }, |input| {
            all.borrow_mut().push(input.to_vec());
            outcome::kind(&input.len())
        });
        all.into_inner()
    }

    #[test]
    fn a_failing_input_is_added_to_the_corpus() {
        let directory = env::temp_dir().join(format!("shoutd-fuzz-{}", std::process::id()));
        let samples = directory.join("fuzz").join("sample");
        fs::create_dir_all(&samples).unwrap();
        fs::write(samples.join("one"), b"x").unwrap();
        let failing = catch_unwind(|| {
            fuzz("sample", &directory.display().to_string(), |input| assert_ne!(input, b"x"));
        });
        let corpus = read_corpus(&samples).unwrap();
        fs::remove_dir_all(&directory).unwrap();
        assert!(failing.is_err());
        assert_eq!(corpus, [b"x".to_vec(), b"x".to_vec()]);
    }
}
