//! Facts on which the figures depend: the machine and its load.

use std::fs;
use std::process::Command;
use std::thread;

use anyhow::{Context, Result};

/// Runnable tasks per processor, without the benchmark's, above which a machine is busy.
const BUSY: f64 = 0.3;

/// The machine as it was before the benchmark.
#[derive(Debug)]
pub(super) struct Facts {
    processor: String,
    processors: usize,
    memory_gib: u64,
    kernel: String,
    date: String,
    load: f64,
    hosts: usize,
    engine: String,
}

impl Facts {
    /// Reads them; must be called before the benchmark makes a load of its own.
    pub(super) fn read() -> Result<Self> {
        let memory = line("/proc/meminfo", "MemTotal")?;
        let kibibytes: u64 =
            memory.split(' ').next().unwrap_or_default().parse().context("read MemTotal")?;
        let load = fs::read_to_string("/proc/loadavg").context("read /proc/loadavg")?;
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")
            .context("read the kernel's release")?;
        let date = Command::new("date").arg("+%Y-%m-%d").output().context("run date")?;
        Ok(Self {
            processor: line("/proc/cpuinfo", "model name")?,
            processors: thread::available_parallelism().map_or(1, usize::from),
            memory_gib: kibibytes >> 20,
            kernel: kernel.trim().to_owned(),
            date: String::from_utf8_lossy(&date.stdout).trim().to_owned(),
            load: load.split(' ').next().unwrap_or_default().parse().context("read the load")?,
            hosts: 0,
            engine: String::new(),
        })
    }

    /// Adds the facts that are known once the lab is up.
    pub(super) fn in_lab(mut self, hosts: usize, engine: &str) -> Self {
        self.hosts = hosts;
        engine.trim().clone_into(&mut self.engine);
        self
    }

    /// The machine only, for figures that do not depend on its speed.
    pub(super) fn machine(&self) -> String {
        let Self { processor, processors, memory_gib, kernel, date, .. } = self;
        format!("{date}, Linux {kernel}, {processors} × {processor}, {memory_gib} GiB.")
    }

    pub(super) fn describe(&self) -> String {
        let Self { processor, processors, memory_gib, kernel, date, load, hosts, engine } = self;
        #[expect(clippy::cast_precision_loss, reason = "there are few processors")]
        let busy = *load > BUSY * *processors as f64;
        let busy = if busy {
            format!(
                "**Measured on a busy machine** (load {load} before the benchmark began): the \
                 figures are provisional."
            )
        } else {
            format!("Load before the benchmark began: {load}.")
        };
        format!(
            "{date}, Linux {kernel}, {processors} × {processor}, {memory_gib} GiB, up to {hosts} \
             lab hosts, Docker Engine {engine}. {busy}"
        )
    }
}

/// The value in the first line of a file that begins with this name.
fn line(path: &str, name: &str) -> Result<String> {
    let text = fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    let found =
        text.lines().find(|line| line.starts_with(name)).and_then(|line| line.split_once(':'));
    Ok(found.map_or("unknown", |(_, value)| value).trim().to_owned())
}
