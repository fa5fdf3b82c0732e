//! The output of `shoutdctl` and `docker`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use shoutd_lab::{Host, wait_until};

use crate::SOON;

/// The exit code of `shoutdctl status` on a host that has problems.
pub const EXIT_PROBLEMS: i32 = 3;

/// The output of `shoutdctl <what> --json`.
pub fn view(host: &Host, what: &str) -> Result<Value> {
    let output = host.run(["shoutdctl", what, "--json"])?;
    let has_problems = what == "status" && output.code == EXIT_PROBLEMS;
    if !(output.success() || has_problems) {
        bail!("shoutdctl {what} failed on {}, {output}", host.name());
    }
    serde_json::from_str(&output.stdout)
        .with_context(|| format!("shoutdctl {what} --json printed: {}", output.stdout))
}

/// `shoutdctl status`.
pub fn status(host: &Host) -> Result<Value> {
    view(host, "status")
}

/// `shoutdctl networks`.
pub fn networks(host: &Host) -> Result<Vec<Value>> {
    list(view(host, "networks")?)
}

/// `shoutdctl endpoints`, from all hosts.
pub fn endpoints(host: &Host) -> Result<Vec<Value>> {
    let view = view(host, "endpoints")?;
    ensure!(
        view["unanswered"].as_array().is_some_and(Vec::is_empty),
        "hosts do not answer {}: {view}",
        host.name()
    );
    list(view["endpoints"].clone())
}

/// Whether the host is the leader.
pub fn is_leader(host: &Host) -> Result<bool> {
    Ok(status(host)?["role"] == "leader")
}

/// Every address in use as seen by `asked`: the host's name by network and address.
pub fn leased(asked: &Host) -> Result<BTreeMap<(String, IpAddr), String>> {
    let mut leased = BTreeMap::new();
    for row in endpoints(asked)? {
        let network = row["network"].as_str().context("a network")?;
        let host = row["host"].as_str().context("a host")?;
        for address in list(row["addresses"].clone())? {
            let address = address.as_str().context("an address")?.parse()?;
            leased.insert((network.to_owned(), address), host.to_owned());
        }
    }
    Ok(leased)
}

/// The names of all containers of the host, running or not.
pub fn containers_of(host: &Host) -> Result<Vec<String>> {
    let names = host.docker(["ps", "--all", "--format", "{{.Names}}"])?;
    Ok(names.lines().map(str::to_owned).collect())
}

/// Waits until `asked` has exactly these hosts as members of the group, all of them in sync.
pub fn await_members(asked: &Host, group: &str, wanted: &[&Host]) -> Result<()> {
    let mut wanted: Vec<String> = wanted.iter().map(|host| host.name()).collect();
    wanted.sort();
    wait_until(
        &format!("{wanted:?} to be the members of {group}, as seen by {}", asked.name()),
        SOON,
        || {
            let rows = view(asked, "groups")?;
            let rows =
                rows.as_array().context("a list")?.iter().filter(|row| row["group"] == group);
            let hosts = rows.filter_map(|row| row["hosts"].as_array()).flatten();
            let mut receiving: Vec<_> = hosts
                .filter(|host| host["in_sync"] == true)
                .filter_map(|host| host["name"].as_str().map(str::to_owned))
                .collect();
            receiving.sort();
            Ok((receiving == wanted).then_some(()))
        },
    )
}

fn list(value: Value) -> Result<Vec<Value>> {
    match value {
        Value::Array(rows) => Ok(rows),
        other => bail!("not a list: {other}"),
    }
}
