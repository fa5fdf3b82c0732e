//! Runs the blocks of one page.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use shoutd_e2e::{Cluster, SOON, status};
use shoutd_lab::{Host, Output, Process, wait_until};
use shoutd_tooling::book::{Hosts, Kind, Page, Run, Step};

use super::image;

/// How long a block may take.
const BLOCK_DEADLINE: Duration = Duration::from_secs(120);

/// The directory in which blocks run; that of a host, not of the machine.
const DIRECTORY: &str = "/run/book";

/// What pages write for the hosts' addresses, which end in 1, 2 and 3 (RFC 5737).
const DOCUMENTATION: &str = "192.0.2.";

/// What pages write for the cluster's token and id.
const TOKEN: &str = "SHOUT1-...";
const CLUSTER_ID: &str = "<cluster id>";

/// What a page's blocks have left so far.
struct Running<'a> {
    cluster: &'a Cluster,
    background: BTreeMap<String, Process>,
    /// What the last block printed.
    printed: String,
}

/// Runs a page's blocks in order.
pub fn run(cluster: &Cluster, page: &Page) -> Result<()> {
    for host in cluster.hosts() {
        host.sh(&format!("rm -rf {DIRECTORY}; mkdir {DIRECTORY}"))?;
    }
    let mut running = Running { cluster, background: BTreeMap::new(), printed: String::new() };
    for step in &page.steps {
        running
            .step(step)
            .with_context(|| format!("{}:{}:\n{}", page.path, step.line, step.text))?;
    }
    Ok(())
}

impl Running<'_> {
    fn step(&mut self, step: &Step) -> Result<()> {
        match &step.kind {
            Kind::Untested(_) => Ok(()),
            Kind::Output(None) => ensure_printed(&self.printed, &step.text),
            Kind::Output(Some(name)) => {
                let process = self.background.get(name).context("no such block")?;
                for wanted in step.text.lines() {
                    process.wait_for_line(SOON, |line| line.contains(wanted.trim()))?;
                }
                Ok(())
            }
            Kind::Shell(run) => self.shell(run, &step.text),
        }
    }

    fn shell(&mut self, run: &Run, text: &str) -> Result<()> {
        let hosts = match run.hosts {
            Hosts::One(number) => vec![self.cluster.host(number.get())?],
            Hosts::All => self.cluster.hosts(),
        };
        self.printed.clear();
        if run.is_image {
            return make_images(&hosts, text);
        }
        for host in &hosts {
            let text = self.filled_in(text)?;
            let script = format!("cd {DIRECTORY}\nset -e\n{text}");
            if let Some(name) = &run.background {
                self.background.insert(name.clone(), host.spawn(["sh", "-c", &script])?);
                continue;
            }
            let output = run_on(host, run, &script)?;
            self.printed += &(output.stdout + &output.stderr);
        }
        Ok(())
    }

    /// The text with the lab's addresses, token and cluster.
    fn filled_in(&self, text: &str) -> Result<String> {
        let first = self.cluster.host(1)?.address().to_string();
        let prefix = first.strip_suffix('1').context("an address that ends in 1")?;
        let mut text = text.replace(DOCUMENTATION, prefix);
        if text.contains(TOKEN) {
            text = text.replace(TOKEN, &self.token()?);
        }
        if text.contains(CLUSTER_ID) {
            let status = status(&self.cluster.host(1)?)?;
            text = text.replace(CLUSTER_ID, status["cluster"].as_str().context("a cluster")?);
        }
        Ok(text)
    }

    /// A new token, which any member makes: the last one may have been for one use.
    fn token(&self) -> Result<String> {
        for host in self.cluster.hosts() {
            let output = host.run(["shoutdctl", "token", "rotate"])?;
            let token = output.stdout.split_whitespace().find_map(|word| {
                word.strip_prefix("--token=").filter(|_| output.success()).map(str::to_owned)
            });
            if let Some(token) = token {
                return Ok(token);
            }
        }
        bail!("no host makes a token")
    }
}

/// Makes an image on all hosts at once.
fn make_images(hosts: &[Host], text: &str) -> Result<()> {
    thread::scope(|scope| {
        let made: Vec<_> =
            hosts.iter().map(|host| scope.spawn(|| image::make(host, text))).collect();
        made.into_iter()
            .try_for_each(|thread| thread.join().unwrap_or_else(|_| bail!("a thread panicked")))
    })
}

fn run_on(host: &Host, run: &Run, script: &str) -> Result<Output> {
    let once = || host.run_for(BLOCK_DEADLINE, ["sh", "-c", script]);
    if !run.is_retried {
        let output = once()?;
        ensure!(output.code == run.exit, "not exit code {} on {}: {output}", run.exit, host.name());
        return Ok(output);
    }
    let mut last = None;
    let done = wait_until("the block to succeed", SOON, || {
        let output = once()?;
        let is_done = output.code == run.exit;
        last = Some(output.clone());
        Ok(is_done.then_some(output))
    });
    done.with_context(|| last.map_or_else(String::new, |output| output.to_string()))
}

/// Checks that each wanted line is a part of a printed line, in order.
fn ensure_printed(printed: &str, wanted: &str) -> Result<()> {
    let mut lines = printed.lines();
    for wanted in wanted.lines() {
        ensure!(
            lines.any(|line| line.contains(wanted.trim())),
            "{wanted:?} was not printed, or not in this order, but:\n{printed}"
        );
    }
    Ok(())
}
