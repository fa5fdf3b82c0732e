//! What the checks share.

pub(crate) mod doctor;
pub(crate) mod encryption;
pub(crate) mod faults;
pub(crate) mod hosts;
pub(crate) mod network;
pub(crate) mod packets;
pub(crate) mod page;
pub(crate) mod ping;
pub(crate) mod plane;
pub(crate) mod silent;
pub(crate) mod support;
pub(crate) mod watching;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use shoutd_e2e::EXIT_PROBLEMS;
use shoutd_lab::Host;

/// The group of all checks, and its UDP port.
pub(crate) const GROUP: &str = "224.1.1.1:5001";

/// What `shoutdctl why` with these options names first, as text; `None` if nothing is broken.
pub(crate) fn cause(asked: &Host, options: &[&str]) -> Result<Option<String>> {
    let network = if options.contains(&"--network") { &[][..] } else { &["--network", "foo"] };
    let command = ["shoutdctl", "why", "--json"].iter().chain(network);
    let output = asked.run(command.chain(options))?;
    let found: Value = serde_json::from_str(&output.stdout)
        .with_context(|| format!("shoutdctl why {} {output}", options.join(" ")))?;
    let findings = found["findings"].as_array().context("findings")?;
    let first = findings.iter().find(|finding| finding["verdict"] == "broken");
    let cause = first.map(|finding| finding["text"].as_str().unwrap_or_default().to_owned());
    let code = if cause.is_some() { EXIT_PROBLEMS } else { 0 };
    ensure!(output.code == code, "exit code {} for {cause:?}", output.code);
    if let Some(finding) = first {
        ensure!(finding["remedy"].is_string(), "no remedy: {finding}");
    }
    Ok(cause)
}

/// Checks that this is named first, whichever host is asked.
pub(crate) fn ensure_named(hosts: &[Host], options: &[&str], expected: &str) -> Result<()> {
    for host in hosts {
        let cause = cause(host, options)?;
        let found = cause.as_deref().unwrap_or("nothing");
        ensure!(found.contains(expected), "{} names {found:?}, not {expected:?}", host.name());
    }
    Ok(())
}
