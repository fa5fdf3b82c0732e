//! Figures of shoutd by itself.

mod docker_run;
mod first_words;
mod loss;
mod memberships;
mod moves;
mod programs;
mod resources;
mod takeover;

use std::time::Instant;

use anyhow::{Context, Result};
pub(super) use memberships::await_members;
use shoutd_tooling::interrupt;
use shoutd_tooling::terminal::show_progress;

use super::report::Finding;
use super::ways::{Ends, Way};
use super::{Found, Options};

/// Measures one or several figures; the second argument allows rough ones.
type Part = fn(&Ends, bool) -> Result<Vec<Finding>>;

/// The parts in order; those that disturb the cluster come last.
const PARTS: [(&str, Part); 12] = [
    ("memory and processor at rest", resources::at_rest),
    ("docker run", docker_run::measure),
    ("first words", first_words::measure),
    ("copies to hosts without receivers", memberships::copies),
    ("joins", memberships::joins),
    ("leaves", memberships::leaves),
    ("1,000 joins a second", resources::under_joins),
    ("address moves: takeover", takeover::measure),
    ("address moves: gratuitous ARP", moves::measure),
    ("loss", loss::measure),
    ("100 networks and 10,000 groups", resources::with_many),
    ("programs: size and start", programs::measure),
];

/// The parts that take minutes.
const LONG: [&str; 1] = ["100 networks and 10,000 groups"];

/// Measures one figure after the other, while there is time. Failures are noted.
pub(super) fn measure(
    ways: &[Ends],
    options: &Options,
    deadline: Instant,
    found: &mut Found,
) -> Result<()> {
    let ends = ways.iter().find(|ends| ends.way == Way::Shoutd).context("no way of shoutd's")?;
    for (name, part) in PARTS.into_iter().filter(|(name, _)| options.wants(name)) {
        if options.quick && LONG.contains(&name) {
            found.note(&format!("{name}: left out with --quick"));
            continue;
        }
        if Instant::now() > deadline {
            found.note(&format!("{name}: no time was left"));
            continue;
        }
        show_progress(&format!("measuring: {name}"));
        match part(ends, options.quick) {
            Ok(findings) => found.findings.extend(findings),
            Err(error) => {
                interrupt::await_exit_if_interrupted();
                found.note(&format!("{name}: {error:#}"));
            }
        }
    }
    Ok(())
}

fn finding(title: &str, unit: &'static str, samples: Vec<f64>) -> Finding {
    Finding { title: title.to_owned(), unit, samples, most: None, remark: String::new() }
}
