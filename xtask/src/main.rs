//! The project's commands for newcomers and developers: `cargo xtask demo`, `test`, `fuzz`, `sim`,
//! `bench`, `book`, `package`, `release` and `lab`.

mod book;
mod demo;
mod fuzz;
mod lab;
mod release;
mod sim;
mod test;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use shoutd_bench as bench;
use shoutd_package as package;
use shoutd_tooling::{interrupt, terminal};

/// Try and test shoutd, with whole hosts on one machine.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Bring up three hosts, run the four lines of the README, and check that multicast is
    /// received.
    Demo,
    /// Run all tests.
    Test {
        /// Run the tests that take too long for every day instead: all end-to-end tests with the
        /// Docker engines of Debian 13 and 14, and the long ones.
        #[arg(long, conflicts_with = "arguments")]
        long: bool,
        /// Run only the tests that need neither root nor a Docker Engine: about a minute once
        /// everything is built.
        #[arg(long, conflicts_with_all = ["long", "arguments"])]
        quick: bool,
        /// Arguments for `cargo test`, such as `-p shoutd-core` instead of the whole workspace, or
        /// a test's name.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Fuzz the decoders.
    Fuzz(fuzz::Arguments),
    /// Bring up hosts for your own experiments.
    #[command(subcommand)]
    Lab(lab::Command),
    /// Simulate clusters with faults: partitions, crashes, slow disks, lost and doubled messages.
    /// Each seed is another history.
    Sim(sim::Arguments),
    /// Measure shoutd against the underlay, a VXLAN made by hand and Docker's overlay, and write
    /// docs/benchmarks.
    Bench(bench::Options),
    /// Make the packages: for Debian and RPM, a Python wheel, archives and a container image.
    Package(package::Options),
    /// Check and make everything of a release, and publish nothing.
    Release(release::Options),
    /// Build the book into target/book/html. The first time this installs mdBook in target/tools,
    /// which takes some minutes.
    Book,
    /// The helper that `bench` runs at the ends of the networks that it measures.
    #[command(subcommand, hide = true)]
    BenchHelper(bench::helper::Command),
}

fn main() -> ExitCode {
    let result: Result<ExitCode> = match Arguments::parse().command {
        Command::Demo => demo::run(),
        Command::Test { quick: true, .. } => test::run_quick(),
        Command::Test { long, arguments, .. } => test::run(long, &arguments),
        Command::Fuzz(arguments) => fuzz::run(&arguments),
        Command::Lab(command) => lab::run(&command),
        Command::Sim(arguments) => sim::run(&arguments),
        Command::Bench(options) => bench::run(&options),
        Command::Package(options) => package::run(&options),
        Command::Book => book::run(),
        Command::Release(options) => release::run(&options),
        Command::BenchHelper(command) => bench::helper::run(&command),
    };
    result.unwrap_or_else(|error| {
        // While Ctrl-C takes the lab down, errors are expected.
        interrupt::await_exit_if_interrupted();
        terminal::complain(&format!("cargo xtask: {error:#}"));
        ExitCode::FAILURE
    })
}
