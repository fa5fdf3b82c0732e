//! Random operations of users, daemons and power supplies over three hosts, from a seed, and an
//! audit of Docker, agreed state and the kernel on all hosts.

mod audit;
mod operation;
mod world;

use std::env;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use rand::SeedableRng;
use rand::rngs::StdRng;
use shoutd_e2e::Cluster;
use world::World;

/// The seed, to repeat the same operations.
const SEED: &str = "SHOUTD_SEED";

/// Operations between two audits.
const BETWEEN_AUDITS: usize = 50;

/// Log lines of each daemon that are shown after a failure.
const LOG_LINES: usize = 400;

/// Runs this many operations, with an audit after every few and at the end.
pub fn run(name: &str, operations: usize) -> Result<()> {
    let seed = match env::var(SEED) {
        Ok(seed) => seed.parse().with_context(|| format!("{SEED} is not a number: {seed}"))?,
        Err(_) => SystemTime::now().duration_since(UNIX_EPOCH).context("a clock")?.as_secs(),
    };
    println!("{operations} operations from seed {seed}; the same ones again with {SEED}={seed}");
    let cluster = Cluster::up_mixed(name, 3)?;
    cluster.form([1, 2, 3])?;
    let logs = cluster.logs();
    let mut world = World::new(&cluster, StdRng::seed_from_u64(seed));
    let done = play(&mut world, operations);
    if done.is_err() {
        cluster.show_logs_since(&logs, LOG_LINES);
    }
    done.with_context(|| format!("seed {seed}"))
}

fn play(world: &mut World<'_>, operations: usize) -> Result<()> {
    let mut audited = 0;
    while world.done() < operations {
        world.step()?;
        if world.done() >= audited + BETWEEN_AUDITS {
            audited = world.done();
            world.audit()?;
        }
    }
    world.audit()?;
    world.receive_from_each_other()?;
    world.clear()
}
