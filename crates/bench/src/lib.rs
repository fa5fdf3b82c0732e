//! `cargo xtask bench`: the cost of multicast and unicast with shoutd and on other ways, measured
//! in turn on hosts of the lab.

mod alone;
mod announcements;
mod by_hand;
mod cluster;
mod compared;
#[doc(hidden)]
pub mod helper;
mod machine_facts;
mod plot;
mod report;
mod statistics;
mod ways;
mod wide;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use compared::Measurement;
use machine_facts::Facts;
use report::{Comparison, Finding, Report};
use shoutd_lab::{Host, Lab, LabOptions};
use shoutd_tooling::terminal::{show_output, show_progress, show_verdict};
use shoutd_tooling::{interrupt, machine, programs};
use ways::{Ends, Way};

/// The shoutd network.
const NETWORK: &str = "foo";

/// The hosts: one sends, two receive, and the fourth is for events.
const HOSTS: u8 = 4;

/// The hosts for figures with many receivers: one sends, eight receive.
const MANY_HOSTS: u8 = 9;

/// The hosts for figures with few receivers among many hosts: one sends, three receive.
const MOST_HOSTS: u8 = 32;

/// How long a new bridge floods multicast, and some more: it cannot know its members before they
/// have answered its first query (RFC 3376, section 8.3: 10 s).
const YOUNG: Duration = Duration::from_secs(13);

/// How long the command measures by default, and with `--quick`; a figure that has begun is
/// completed. With setup and teardown it takes less than 35 minutes.
const TIME: Duration = Duration::from_secs(30 * 60);
const QUICK_TIME: Duration = Duration::from_secs(7 * 60);

/// The share of that time for rounds between few hosts; the rest is for figures of shoutd alone and
/// for many hosts.
const ROUNDS_SHARE: f64 = 0.33;

/// Benchmarks other than that of the data plane.
#[derive(Debug, Subcommand)]
enum Other {
    /// Measure what a cluster costs each of many simulated hosts, and how that grows.
    Cluster(cluster::Options),
}

/// Options of the benchmark.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Options {
    #[command(subcommand)]
    other: Option<Other>,
    /// Take about five minutes for rough figures, without those that take long.
    #[arg(long)]
    quick: bool,
    /// How often each way is measured [default: 20, or 3 with --quick].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
    /// How many hosts to bring up for the figures with many [default: 32, or 4 with --quick]. Each
    /// runs a Docker engine, in about 150 MiB of memory.
    #[arg(long, value_parser = clap::value_parser!(u8).range(5..=i64::from(shoutd_lab::MAX_HOSTS)))]
    hosts: Option<u8>,
    /// Measure only what has this in its name, such as `joins` or `TCP`.
    #[arg(long)]
    only: Option<String>,
    /// Where the table and the plots are written.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/benchmarks"))]
    output: PathBuf,
}

impl Options {
    fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(if self.quick { 3 } else { 20 })
    }

    /// The number of hosts to bring up; fewer than 5 are not many.
    fn hosts(&self) -> u8 {
        self.hosts.unwrap_or(if self.quick { HOSTS } else { MOST_HOSTS })
    }

    /// Whether a figure of this name is to be measured.
    fn wants(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|only| name.contains(only.as_str()))
    }

    /// How long one throughput is measured: briefly but often, so that other load on the machine
    /// affects all ways alike.
    fn seconds(&self) -> f64 {
        if self.quick { 0.5 } else { 1.0 }
    }

    fn time(&self) -> Duration {
        if self.quick { QUICK_TIME } else { TIME }
    }
}

/// The findings so far.
#[derive(Debug, Default)]
struct Found {
    measurements: Vec<Measurement>,
    findings: Vec<Finding>,
    notes: Vec<String>,
}

impl Found {
    /// Prints a failure and keeps it for the report.
    fn note(&mut self, what: &str) {
        show_progress(what);
        // The program's directory does not belong into the report.
        let program =
            env::current_exe().ok().and_then(|path| path.into_os_string().into_string().ok());
        self.notes
            .push(program.map_or_else(|| what.to_owned(), |path| what.replace(&path, "xtask")));
    }
}

/// # Errors
///
/// Fails when the hosts cannot be brought up and connected, or the report cannot be written; never
/// because of the figures.
pub fn run(options: &Options) -> Result<ExitCode> {
    if let Some(Other::Cluster(options)) = &options.other {
        return cluster::run(options);
    }
    machine::prepare()?;
    show_progress("building shoutd and shoutdctl");
    let directory = programs::build_optimized(&["shoutd", "shoutd-lab"])?;
    let facts = Facts::read()?;
    let name = format!("bench-{}", process::id());
    interrupt::take_down_on_interrupt(&name)?;
    show_progress("bringing up four hosts, each with its own Docker engine");
    let mut lab =
        LabOptions::new(&name).hosts(HOSTS).programs(&directory).progress(show_progress).up()?;
    let engine =
        lab.host(1).and_then(|host| host.docker(["version", "--format", "{{.Server.Version}}"]));
    let measured = measure(&mut lab, options);
    if measured.is_err() {
        interrupt::await_exit_if_interrupted();
    }
    let hosts = lab.hosts().len();
    show_progress("taking the hosts down");
    let down = lab.down();
    let found = measured?;
    down?;
    write(&found, facts.in_lab(hosts, &engine?), options)?;
    Ok(ExitCode::SUCCESS)
}

/// Makes all ways and measures them, then shoutd alone.
fn measure(lab: &mut Lab, options: &Options) -> Result<Found> {
    let deadline = Instant::now() + options.time();
    let mut found = Found::default();
    let mut measurements = Measurement::all(options);
    let join = start_shoutd(lab.hosts())?;
    let mut ways = Vec::new();
    for way in Way::ALL {
        show_progress(&format!("making the way: {way}"));
        match Ends::make(way, lab.hosts()) {
            Ok(ends) => ways.push(ends),
            Err(error) if matches!(way, Way::Overlay | Way::EncryptedByHand) => {
                found.note(&format!("{way} does not work here: {error:#}"));
            }
            Err(error) => return Err(error).with_context(|| format!("make the way: {way}")),
        }
    }
    show_progress("waiting for the bridges to know their receivers");
    thread::sleep(YOUNG);
    let rounds_end =
        Instant::now() + deadline.saturating_duration_since(Instant::now()).mul_f64(ROUNDS_SHARE);
    for round in 1..=options.rounds() {
        if round > 1 && Instant::now() > rounds_end {
            found.note(&format!("no time was left for more than {} rounds", round - 1));
            break;
        }
        for measurement in &mut measurements {
            measure_once(measurement, round, &ways, options, &mut found);
        }
    }
    found.measurements = measurements;
    alone::measure(&ways, options, deadline, &mut found)?;
    if options.hosts() > HOSTS && options.wants("many hosts") {
        let measured = wide::measure(lab, &join, &mut ways, options, deadline, &mut found);
        if let Err(error) = measured {
            interrupt::await_exit_if_interrupted();
            found.note(&format!("many hosts: {error:#}"));
        }
    }
    Ok(found)
}

/// Takes the samples of one round; failures are noted.
fn measure_once(
    measurement: &mut Measurement,
    round: u32,
    ways: &[Ends],
    options: &Options,
    found: &mut Found,
) {
    show_progress(&format!("round {round}: {}", measurement.name));
    measurement.round(round, ways, options.seconds(), |fault| {
        interrupt::await_exit_if_interrupted();
        found.note(&format!("round {round}: {fault}"));
    });
}

/// Starts a cluster of all hosts. Returns the arguments with which another host joins.
fn start_shoutd(hosts: &[Host]) -> Result<Vec<String>> {
    let [first, others @ ..] = hosts else { bail!("the lab has no hosts") };
    let peer = first.address().to_string();
    let printed = first.start_shoutd(&[&peer])?;
    let token = printed.split_whitespace().find(|word| word.starts_with("--token="));
    let token = token.context("the first host did not print what to type on the others")?;
    let peers = format!("--peer-addresses={peer}");
    for host in others {
        host.start_shoutd(&[&host.address().to_string(), &peers, token])?;
    }
    Ok(vec![peers, token.to_owned()])
}

/// Writes the table and the plots, and shows the table.
fn write(found: &Found, facts: Facts, options: &Options) -> Result<()> {
    let output = &options.output;
    fs::create_dir_all(output).with_context(|| format!("make {}", output.display()))?;
    let comparisons: Vec<&Comparison> =
        found.measurements.iter().flat_map(|one| &one.figures).collect();
    let mut plots = Vec::new();
    for comparison in &comparisons {
        if let Some(drawn) = plot::bars(comparison) {
            let file = plot::file_name(&comparison.title);
            save(&output.join(&file), &drawn)?;
            plots.push((comparison.title.clone(), file));
        }
    }
    let (rounds, findings, notes) = (options.rounds(), &found.findings, &found.notes);
    let report = Report { facts, rounds, comparisons, findings, notes, plots: &plots };
    let page = report.markdown();
    save(&output.join("README.md"), &page)?;
    show_output(page.split_once("## Figures").map_or(page.as_str(), |(_, figures)| figures));
    show_verdict(&format!("written to {}", output.display()));
    Ok(())
}

fn save(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

/// The path of this program, which is the same on the hosts.
fn helper_program() -> Result<String> {
    let path = env::current_exe().context("find the running program")?;
    path.into_os_string()
        .into_string()
        .map_err(|path| anyhow::anyhow!("{} is no UTF-8", path.display()))
}
