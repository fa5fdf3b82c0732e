//! `cargo xtask bench cluster`: the cost of a cluster for each of many simulated hosts, and how it
//! grows.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use shoutd_tooling::programs;
use shoutd_tooling::terminal::{show_output, show_progress, show_verdict};

use super::announcements::{Count, Mesh};
use super::machine_facts::Facts;

/// The test that simulates one size (`crates/simulation/tests/simulation/growth.rs`), and the
/// prefix of its figures.
const TEST: &str = "growth::growth";
const MARK: &str = "growth: ";

/// The page's first lines.
const HEAD: &str =
    "# What a cluster costs\n\n`cargo xtask bench cluster` writes this page. Do not edit it.\n";

/// The page's text after the figures: what follows from them, and the method.
const METHOD: &str = include_str!("cluster.md");

/// The sizes, and the page.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How many hosts, one simulation for each number.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "5,10,25,50,100,200",
        value_parser = clap::value_parser!(u16).range(3..=250),
    )]
    hosts: Vec<u16>,
    /// The page to write.
    #[arg(
        long,
        default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/benchmarks/cluster.md"),
    )]
    output: PathBuf,
}

/// Figures of one size, as the simulation prints them.
#[derive(Debug, Deserialize)]
struct Figures {
    hosts: u16,
    voters: usize,
    formation: f64,
    formation_sent: Rate,
    rest: Roles,
    change: Roles,
    agreed: f64,
    applied_by_all: f64,
    state: f64,
    memory: f64,
    beat: Rate,
}

#[derive(Debug, Deserialize)]
struct Roles {
    leader: Rate,
    voter: Rate,
    /// A small cluster has none.
    learner: Option<Rate>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
struct Rate {
    messages: f64,
    bytes: f64,
}

/// # Errors
///
/// Fails when a simulation does, or the page cannot be written; never because of the figures.
pub(super) fn run(options: &Options) -> Result<ExitCode> {
    let facts = Facts::read()?;
    let mut all = Vec::new();
    for &hosts in &options.hosts {
        show_progress(&format!("simulating {hosts} hosts"));
        all.push(simulate(hosts)?);
    }
    show_progress("counting announcements");
    let page = page(&all, &facts) + &announcements()? + "\n" + METHOD;
    std::fs::write(&options.output, &page)
        .with_context(|| format!("write {}", options.output.display()))?;
    show_output(page.split_once("## How it grows").map_or(page.as_str(), |(figures, _)| figures));
    show_verdict(&format!("written to {}", options.output.display()));
    Ok(ExitCode::SUCCESS)
}

/// Simulates one size in a process of its own, so that its memory is that of this size.
fn simulate(hosts: u16) -> Result<Figures> {
    let mut command = programs::cargo();
    command
        .args([
            "test",
            "--quiet",
            "--workspace",
            "--test",
            "simulation",
            "--",
            "--exact",
            TEST,
            "--nocapture",
        ])
        .env("SHOUTD_GROWTH_HOSTS", hosts.to_string())
        .stderr(Stdio::inherit());
    let output = command.output().context("run cargo test")?;
    let printed = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "the simulation of {hosts} hosts failed: {printed}");
    let figures =
        printed.lines().find_map(|line| line.split_once(MARK)).map(|(_, figures)| figures);
    serde_json::from_str(figures.context("the simulation printed no figures")?)
        .context("read the figures")
}

fn page(all: &[Figures], facts: &Facts) -> String {
    let mut page = format!("{HEAD}\n## Figures\n\n{}\n", facts.machine());
    page += "\n### Formation\n\n";
    page += &table(all, "voters | time, s | messages per host | KiB per host", |figures| {
        let sent = figures.formation_sent;
        vec![
            figures.voters.to_string(),
            format!("{:.2}", figures.formation),
            format!("{:.0}", sent.messages),
            format!("{:.0}", sent.bytes / 1024.0),
        ]
    });
    page += "\n### At rest, each second\n\n";
    let columns = "leader | another voter | a learner | to each host that shares a network";
    page += &table(all, columns, |figures| {
        let Roles { leader, voter, learner } = &figures.rest;
        vec![rate(*leader), rate(*voter), learner.map_or_else(none, rate), rate(figures.beat)]
    });
    page += "\n### For each network that is created\n\n";
    let columns = "leader | another voter | a learner | agreed after, ms | known to all after, ms";
    page += &table(all, columns, |figures| {
        let Roles { leader, voter, learner } = &figures.change;
        let times = [figures.agreed, figures.applied_by_all].map(|time| format!("{time:.0}"));
        [vec![rate(*leader), rate(*voter), learner.map_or_else(none, rate)], times.to_vec()]
            .concat()
    });
    page += "\n### On each host\n\n";
    page += &table(all, "agreed state with 20 networks, KiB | memory, KiB", |figures| {
        vec![format!("{:.0}", figures.state / 1024.0), format!("{:.0}", figures.memory)]
    });
    page
}

/// A table with a row for each size; `columns` are those after the number of hosts.
fn table(all: &[Figures], columns: &str, row: impl Fn(&Figures) -> Vec<String>) -> String {
    let rule = columns.split('|').map(|_| "---").collect::<Vec<_>>().join("|");
    let mut table = format!("| hosts | {columns} |\n|---|{rule}|\n");
    for figures in all {
        let _ = writeln!(table, "| {} | {} |", figures.hosts, row(figures).join(" | "));
    }
    table
}

/// Hosts of a cluster, and how many of them share a network.
const MESHES: [(u16, u16); 7] =
    [(2, 2), (5, 5), (10, 10), (50, 10), (200, 10), (50, 50), (100, 100)];

/// The hosts for the figures on many changes and on time.
const MESH: (u16, u16) = (10, 10);

/// The groups of the changing host before.
const GROUPS: [u32; 2] = [0, 5000];

/// The part of the page about advertisements.
fn announcements() -> Result<String> {
    let mut page = String::from("\n### Advertisements: one host joins one group\n\n");
    page.push_str(
        "| hosts | share a network | its groups before | messages | bytes | bytes to each that \
         shares |\n|---|---|---|---|---|---|\n",
    );
    for (hosts, sharing) in MESHES {
        for groups in GROUPS {
            let Count { messages, bytes } =
                Mesh::new(hosts, sharing, groups)?.change(1, false)?.news;
            let each = bytes / usize::from(sharing - 1).max(1);
            let _ = writeln!(
                page,
                "| {hosts} | {sharing} | {groups} | {messages} | {bytes} | {each} |"
            );
        }
    }
    let (hosts, sharing) = MESH;
    let _ = write!(
        page,
        "\n### Advertisements: one host of {hosts} that share a network joins many groups\n\n"
    );
    page.push_str(
        "| groups joined | its groups before | how | messages | bytes | bytes for each change to \
         each that shares |\n|---|---|---|---|---|---|\n",
    );
    for (changes, at_once) in [(1, false), (10, false), (100, false), (1000, false), (1000, true)] {
        for groups in GROUPS {
            let Count { messages, bytes } =
                Mesh::new(hosts, sharing, groups)?.change(changes, at_once)?.news;
            let each = bytes / usize::from(sharing - 1) / changes as usize;
            let how = if at_once { "all at once" } else { "one after the other" };
            let _ =
                writeln!(page, "| {changes} | {groups} | {how} | {messages} | {bytes} | {each} |");
        }
    }
    page.push_str("\n### Advertisements: nothing changes\n\n");
    page.push_str(
        "| hosts | share a network | for, s | snapshots and deltas | beats and answers, each \
         second, of all hosts | of each host that shares | bytes of that \
         |\n|---|---|---|---|---|---|---|\n",
    );
    for ((hosts, sharing), seconds) in
        MESHES.map(|mesh| (mesh, 60)).into_iter().chain([(MESH, 600)])
    {
        let sent = Mesh::new(hosts, sharing, 0)?.rest(Duration::from_secs(seconds))?;
        let Count { messages, bytes } = sent.beats;
        #[expect(clippy::cast_precision_loss, reason = "they are far below 2^52")]
        let (all, bytes) = (messages as f64 / seconds as f64, bytes as f64 / seconds as f64);
        let (each, bytes) = (all / f64::from(sharing), bytes / f64::from(sharing));
        let news = sent.news.messages;
        let _ = writeln!(
            page,
            "| {hosts} | {sharing} | {seconds} | {news} | {all:.0} | {each:.1} | {bytes:.0} |"
        );
    }
    Ok(page)
}

fn rate(rate: Rate) -> String {
    let Rate { messages, bytes } = rate;
    let size = if bytes >= 10_240.0 {
        format!("{:.0} KiB", bytes / 1024.0)
    } else {
        format!("{bytes:.0} B")
    };
    format!("{messages:.1} messages, {size}")
}

fn none() -> String {
    "–".to_owned()
}
