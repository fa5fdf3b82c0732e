//! The configuration file, with a daemon that runs.

use anyhow::{Result, ensure};
use serde_json::Value;
use shoutd_e2e::{Cluster, SOON};
use shoutd_lab::{Host, wait_until};

use super::{new_hosts, shoutdctl};

const FILE: &str = "/etc/shoutd/shoutd.toml";

fn write(host: &Host, text: &str) -> Result<()> {
    host.sh(&format!("mkdir -p /etc/shoutd && printf '{text}' > {FILE} && chmod 644 {FILE}"))?;
    Ok(())
}

/// Value and origin of a setting.
fn setting(host: &Host, name: &str) -> Result<(Value, Value)> {
    let shown: Value = serde_json::from_str(&host.sh("shoutdctl config show --json")?)?;
    let settings = shown["settings"].as_array().cloned().unwrap_or_default();
    let found = settings.into_iter().find(|setting| setting["name"] == name).unwrap_or_default();
    Ok((found["value"].clone(), found["layer"]["kind"].clone()))
}

fn ensure_setting(host: &Host, name: &str, value: &str, kind: &str) -> Result<()> {
    let shown = setting(host, name)?;
    ensure!(shown == (value.into(), kind.into()), "{name} is {shown:?}");
    Ok(())
}

/// A host that is configured by its file alone; what changes while it runs, and what does not.
pub fn file(cluster: &mut Cluster) -> Result<()> {
    let [host, _] = new_hosts(cluster)?;
    write(&host, "advertise-interface = \"eth0\"\nlog = \"debug\"\n")?;
    host.start_shoutd(&["--metrics-address=none"])?;
    ensure_setting(&host, "advertise-interface", "eth0", "file")?;
    ensure_setting(&host, "metrics-address", "none", "command-line")?;
    ensure_setting(&host, "data-dir", "/var/lib/shoutd", "default")?;

    write(
        &host,
        "advertise-interface = \"eth0\"\ntunnel-probes = false\nreplication = \"flood\"\n",
    )?;
    let said = host.sh("shoutdctl config reload")?;
    let expected = "log, tunnel-probes changed; replication will change at the next start";
    ensure!(said.starts_with(expected), "{said}");
    ensure_setting(&host, "tunnel-probes", "off", "file")?;
    ensure_setting(&host, "log", "info", "default")?;

    write(&host, "tunel-probes = true\n")?;
    let output = shoutdctl(&host, &["config", "reload"])?;
    let why = "shoutd.toml, line 1: tunel-probes is not a setting; did you mean tunnel-probes?";
    ensure!(!output.success() && output.stderr.contains(why), "{output}");
    ensure_setting(&host, "tunnel-probes", "off", "file")?;
    // The state of a running daemon is shown all the same.
    ensure!(host.sh("shoutdctl hosts")?.contains("this host"), "no hosts");
    let checked = host.run(["shoutd", "--check-config"])?;
    ensure!(!checked.success() && checked.stderr.contains(why), "{checked}");

    write(&host, "tunnel-probes = true\n")?;
    host.sh("kill -HUP $(pidof shoutd)")?;
    wait_until("SIGHUP to be followed", SOON, || {
        Ok((setting(&host, "tunnel-probes")?.0 == "on").then_some(()))
    })?;
    // The address is remembered, and is the interface's.
    host.sh("shoutdctl stop && shoutdctl start")?;
    ensure_setting(&host, "advertise-interface", "eth0", "last-start")?;
    host.sh(&format!("rm {FILE}")).map(|_| ())
}
