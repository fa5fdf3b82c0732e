//! Debian's Prometheus reads the metrics of shoutd; what it has is compared with what was sent.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use shoutd_e2e::{
    Cluster, Container, GroupSocket, Network, SOON, Sources, await_members, one_on_each, status,
};
use shoutd_lab::{Host, Process, wait_until};

const METRICS: &str = "http://127.0.0.1:7790/metrics";

/// The directory of the rules.
const CONTRIB: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../contrib/prometheus");

/// A group with a member, and one without.
const GROUP: Ipv4Addr = Ipv4Addr::new(224, 1, 1, 1);
const UNWANTED: Ipv4Addr = Ipv4Addr::new(224, 1, 1, 2);
const PORT: u16 = 5001;

/// Datagrams to each.
const SENT: u32 = 500;
const SENT_UNWANTED: u32 = 300;

/// Other packets of the containers in the meantime: ARP, duplicate address detection.
const OTHERS_MAX: f64 = 60.0;

/// Prometheus with a scrape of its host's shoutd each second.
const CONFIG: &str = r#"
mkdir -p /run/prometheus
cat > /run/prometheus/prometheus.yml <<END
global: {scrape_interval: 1s}
scrape_configs: [{job_name: shoutd, static_configs: [{targets: ["127.0.0.1:7790"]}]}]
END
"#;

pub(crate) fn scrape(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let [first, second, _] = &hosts;
    let _foo = Network::create(cluster, first, "foo", &[])?;
    let containers = one_on_each(&hosts, "foo", &[])?;
    checked_by_promtool(first)?;
    let _prometheus = start(first)?;
    let receiver = GroupSocket::open(&containers[1], true, PORT)?;
    receiver.join(GROUP.into(), Sources::All)?;
    await_members(first, &GROUP.to_string(), &[second])?;
    let names = ["sent_packets", "replicated_packets", "copies_sent", "copies_saved"];
    let names = names.map(|name| format!("shoutd_network_{name}_total{{network=\"foo\"}}"));
    let dropped = "shoutd_network_dropped_packets_total{network=\"foo\",reason=\"no-member\"}";
    let queries: Vec<&str> = names.iter().map(String::as_str).chain([dropped]).collect();
    await_value(first, "shoutd_network_remotes{network=\"foo\"}", 2.0)?;
    let before = queries.iter().map(|query| value(first, query)).collect::<Result<Vec<_>>>()?;
    send(&containers[0])?;
    let mut received = 0;
    wait_until("the receiver to have all datagrams", SOON, || {
        received += receiver.received()?.len();
        Ok((received == SENT as usize).then_some(()))
    })?;
    let (sent, unwanted) = (f64::from(SENT), f64::from(SENT_UNWANTED));
    // One of two hosts gets the first group, and none the second.
    let expected = [sent + unwanted, sent + unwanted, sent, sent + 2.0 * unwanted, unwanted];
    for ((query, before), expected) in queries.iter().zip(before).zip(expected) {
        wait_until(&format!("{query} to grow by {expected}"), SOON, || {
            Ok((value(first, query)? - before >= expected).then_some(()))
        })?;
        let grown = value(first, query)? - before;
        println!("{query} has grown by {grown}, expected {expected}");
        ensure!(grown <= expected + OTHERS_MAX, "{query} has grown by {grown}, not {expected}");
    }
    received_on(second)?;
    await_value(first, "count(shoutd_tunnel_up == 1)", 4.0)?;
    await_value(first, "shoutd_network_local_groups{network=\"foo\"}", 0.0)?;
    await_value(first, "shoutd_network_receivers{network=\"foo\"}", 1.0)?;
    await_value(first, "shoutd_problems", 0.0)?;
    let joins = "shoutd_plugin_call_duration_seconds_count{method=\"NetworkDriver.Join\"}";
    ensure!(value(first, joins)? >= 1.0, "Docker's calls are not counted");
    Ok(())
}

/// The receiver's host has timed the join, and has counted the datagrams.
fn received_on(host: &Host) -> Result<()> {
    let text = text(host, "")?;
    let find = |name: &str| -> Result<f64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.with_context(|| format!("{name} in {text}"))?.parse().context("a number")
    };
    ensure!(find("shoutd_join_to_programmed_seconds_count")? >= 1.0, "the join is not timed");
    let tunnel = find("shoutd_network_tunnel_received_packets_total{network=\"foo\"}")?;
    ensure!(tunnel >= f64::from(SENT), "only {tunnel} packets were received");
    Ok(())
}

fn send(sender: &Container) -> Result<()> {
    let socket = GroupSocket::open(sender, true, 0)?;
    for (group, count) in [(GROUP, SENT), (UNWANTED, SENT_UNWANTED)] {
        for _ in 0..count {
            socket.send((IpAddr::from(group), PORT), b"counted")?;
        }
    }
    Ok(())
}

/// `promtool` finds nothing to object to, in the rules either.
fn checked_by_promtool(host: &Host) -> Result<()> {
    let text = text(host, "")?;
    ensure!(text.contains("# TYPE shoutd_network_sent_packets_total counter\n"), "{text}");
    let open_metrics = self::text(host, "--header=Accept:application/openmetrics-text")?;
    ensure!(open_metrics.ends_with("# EOF\n"), "{open_metrics}");
    let printed = promtool(&["check", "metrics"], &text)?;
    ensure!(printed.trim().is_empty(), "promtool check metrics: {printed}");
    let printed = promtool(&["check", "config", "prometheus.yml"], "")?;
    ensure!(printed.contains("SUCCESS: 1 rule files found"), "promtool check config: {printed}");
    promtool(&["check", "rules", "shoutd.rules.yml"], "").map(drop)
}

/// Runs `promtool` with this input, and returns what it printed.
fn promtool(arguments: &[&str], input: &str) -> Result<String> {
    let mut promtool = Command::new("promtool")
        .args(arguments)
        .current_dir(Path::new(CONTRIB))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("run promtool")?;
    let mut stdin = promtool.stdin.take().context("its input")?;
    stdin.write_all(input.as_bytes()).context("write to promtool")?;
    drop(stdin);
    let output = promtool.wait_with_output().context("wait for promtool")?;
    let printed = [output.stdout, output.stderr].concat();
    let printed = String::from_utf8_lossy(&printed).into_owned();
    ensure!(output.status.success(), "promtool {} failed: {printed}", arguments.join(" "));
    Ok(printed)
}

/// The metrics of a host, with this option of `wget`.
fn text(host: &Host, option: &str) -> Result<String> {
    host.sh(&format!("busybox wget -q -O - {option} {METRICS}"))
}

/// Starts Prometheus on the host and waits until it has scraped shoutd.
fn start(host: &Host) -> Result<Process> {
    host.sh(CONFIG)?;
    let process = host.spawn([
        "prometheus",
        "--config.file=/run/prometheus/prometheus.yml",
        "--storage.tsdb.path=/run/prometheus/data",
        "--web.listen-address=127.0.0.1:9090",
    ])?;
    process.wait_for_line(SOON, |line| line.contains("Server is ready"))?;
    await_value(host, "up{job=\"shoutd\"}", 1.0)?;
    Ok(process)
}

/// What Prometheus answers to a query with one result.
fn value(host: &Host, query: &str) -> Result<f64> {
    let query: String = query.bytes().map(|octet| format!("%{octet:02x}")).collect();
    let url = format!("http://127.0.0.1:9090/api/v1/query?query={query}");
    let answer = host.sh(&format!("busybox wget -q -O - '{url}'"))?;
    let answer: Value = serde_json::from_str(&answer).with_context(|| answer.clone())?;
    let value = answer["data"]["result"][0]["value"][1].as_str();
    value.with_context(|| answer.to_string())?.parse().context("a number")
}

fn await_value(host: &Host, query: &str, wanted: f64) -> Result<()> {
    let mut last = None;
    let waited = wait_until(&format!("{query} to be {wanted}"), SOON, || {
        last = value(host, query).ok();
        Ok(last.filter(|value| (value - wanted).abs() < f64::EPSILON).map(drop))
    });
    waited.with_context(|| format!("it is {last:?}"))
}

/// Another program has the port: everything else works, and the metrics come as soon as it is free.
pub(crate) fn port_taken(cluster: &mut Cluster) -> Result<()> {
    let host = cluster.host(3)?;
    host.sh("shoutdctl stop")?;
    let mut other = host.spawn(["socat", "-d", "-d", "TCP-LISTEN:7790,bind=127.0.0.1", "PIPE"])?;
    other.wait_for_line(SOON, |line| line.contains("listening on"))?;
    host.start_shoutd(&[])?;
    let problem = |wanted: bool| {
        let problems = status(&host)?["problems"].to_string();
        Ok((problems.contains("--metrics-address") == wanted).then_some(()))
    };
    wait_until("the taken port to be a problem", SOON, || problem(true))?;
    host.kill_all("socat")?;
    other.wait(SOON)?;
    wait_until("no problem to be left", SOON, || problem(false))?;
    ensure!(text(&host, "")?.contains("\nshoutd_member 1.0\n"), "it is not a member");
    host.sh("shoutdctl stop")?;
    host.start_shoutd(&["--metrics-address=none"])?;
    let refused = host.run(["busybox", "wget", "-q", "-O", "-", METRICS])?;
    ensure!(!refused.success(), "metrics that are off were served: {refused}");
    host.sh("shoutdctl stop")?;
    host.start_shoutd(&[]).map(drop)
}
