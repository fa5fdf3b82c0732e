//! `cargo xtask demo`: the four lines of the README on three hosts, with multicast received on all
//! of them.

use std::process::{self, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use shoutd_lab::{Host, Lab, LabOptions, Process, wait_until};
use shoutd_tooling::terminal::{HostOutput, show_command, show_progress, show_verdict};
use shoutd_tooling::{interrupt, iperf, machine, programs};

/// The line that creates the network, on one host.
const CREATE_NETWORK: &str = "docker network create --driver shoutd foo";

/// The command on the receiving hosts.
const RECEIVE: &str = "docker run --rm --network=foo debian iperf -u -s -B 224.1.1.1 -p 5000 -i 1";

/// The command on the sending host.
const SEND: &str =
    "docker run --rm --network=foo debian iperf -u -c 224.1.1.1 -p 5000 -t 8 -T 2 -i 1";

/// How long [`SEND`] sends, in seconds.
const SEND_SECONDS: f64 = 8.0;

/// The group 224.1.1.1 as `/proc/net/igmp` shows it: in hexadecimal, read in the byte order of the
/// machine.
const GROUP: u32 = u32::from_ne_bytes([224, 1, 1, 1]);

/// How long a network created on one host may take to appear on the others.
const MIRROR_DEADLINE: Duration = Duration::from_secs(30);

/// How long a container may take from `docker run` until its program has joined the group.
const LISTEN_DEADLINE: Duration = Duration::from_secs(30);

/// How long the sender may take: its 8 s, and the container's start and end.
const SEND_DEADLINE: Duration = Duration::from_secs(40);

/// How long a receiver may take to report after the sender's end.
const REPORT_DEADLINE: Duration = Duration::from_secs(10);

/// Lines of each host's log that are shown when something fails.
const LOG_LINES: usize = 15;

/// # Errors
///
/// Fails when a step fails; the exit code tells whether all was received.
pub(crate) fn run() -> Result<ExitCode> {
    machine::prepare()?;
    show_progress("building shoutd and shoutdctl");
    let directory = programs::build()?;
    let name = format!("demo-{}", process::id());
    interrupt::take_down_on_interrupt(&name)?;
    show_progress("bringing up three hosts, each with its own Docker engine");
    let lab = LabOptions::new(&name).hosts(3).programs(&directory).progress(show_progress).up()?;
    let heard = four_lines(&lab);
    if heard.is_err() {
        interrupt::await_exit_if_interrupted();
        show_logs(&lab);
    }
    show_progress("taking the hosts down");
    let down = lab.down();
    let verdict = heard?;
    down?;
    show_verdict(&verdict);
    Ok(ExitCode::SUCCESS)
}

/// Types the four lines; returns the verdict if every receiver got every datagram.
fn four_lines(lab: &Lab) -> Result<String> {
    let [first, others @ ..] = lab.hosts() else { bail!("the lab has no hosts") };
    let peer = first.address();
    let printed = typed(first, &format!("shoutdctl start {peer}"))?;
    // The line that the first host prints for the others has the token.
    let token = printed.split_whitespace().find(|word| word.starts_with("--token="));
    let token = token.context("the first host did not print what to type on the others")?;
    for host in others {
        typed(
            host,
            &format!("shoutdctl start {} --peer-addresses={peer} {token}", host.address()),
        )?;
    }
    typed(first, CREATE_NETWORK)?;
    for host in others {
        wait_until(&format!("network foo on {}", host.name()), MIRROR_DEADLINE, || {
            let found = host.run(["docker", "network", "inspect", "foo"])?;
            Ok(found.success().then_some(()))
        })?;
    }
    show_progress("the network is there on all hosts");

    let receivers = others
        .iter()
        .map(|host| start(host, RECEIVE).map(|process| (host, process)))
        .collect::<Result<Vec<_>>>()?;
    for (host, receiver) in &receivers {
        receiver.wait_for_line(LISTEN_DEADLINE, |line| line.contains("Joining multicast group"))?;
        await_membership(host)?;
    }
    let mut sender = start(first, SEND)?;
    let output = sender.wait(SEND_DEADLINE)?;
    ensure!(output.success(), "the sender failed with exit code {}", output.code);
    let sent = output
        .stdout
        .lines()
        .find_map(iperf::sent)
        .context("the sender did not say how much it sent")?;
    let judged: Vec<String> = receivers
        .iter()
        .filter_map(|(host, receiver)| {
            judge(host, receiver, sent).err().map(|error| error.to_string())
        })
        .collect();
    ensure!(judged.is_empty(), "{}", judged.join("; "));
    Ok(format!(
        "{sent} datagrams sent to 224.1.1.1 on {}: all received on the other {} hosts",
        first.name(),
        others.len()
    ))
}

/// Shows the end of each shoutd's log.
fn show_logs(lab: &Lab) {
    for host in lab.hosts() {
        let log = host.shoutd_log().unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let last = lines.get(lines.len().saturating_sub(LOG_LINES)..).unwrap_or_default();
        if !last.is_empty() {
            show_progress(&format!(
                "{}: the end of shoutd's log:\n{}",
                host.name(),
                last.join("\n")
            ));
        }
    }
}

/// Runs a line on a host, shows it and its output, and fails if it fails. Returns the output.
fn typed(host: &Host, line: &str) -> Result<String> {
    let output = start(host, line)?.wait(Duration::from_secs(60))?;
    ensure!(output.success(), "`{line}` failed on {} with exit code {}", host.name(), output.code);
    Ok(output.stdout)
}

/// Starts a line on a host and shows it and its output as it comes.
fn start(host: &Host, line: &str) -> Result<Process> {
    show_command(&host.name(), line);
    let output = HostOutput::of(&host.name());
    host.spawn_showing(line.split(' '), move |piece| output.show(piece))
}

/// Waits until the container on this host has joined the group: it cannot receive what is sent
/// before.
fn await_membership(host: &Host) -> Result<()> {
    let group = format!("{GROUP:08X}");
    wait_until(
        &format!("the container on {} to join the group", host.name()),
        LISTEN_DEADLINE,
        || {
            let container = host.docker(["ps", "--quiet"])?;
            let groups = host.docker(["exec", container.trim(), "cat", "/proc/net/igmp"])?;
            Ok(groups.contains(&group).then_some(()))
        },
    )
}

/// Compares a receiver's report with what was sent.
fn judge(host: &Host, receiver: &Process, sent: u64) -> Result<()> {
    let mut report = None;
    let reported = receiver.wait_for_line(REPORT_DEADLINE, |line| {
        report = iperf::received(line, SEND_SECONDS);
        report.is_some()
    });
    let name = host.name();
    let report = report.with_context(|| match reported {
        Ok(_) => format!("{name} did not report"),
        Err(_) => format!("{name} received nothing, or not the end"),
    })?;
    ensure!(report.lost == 0, "{name} lost {} of {} datagrams", report.lost, report.total);
    // The last datagram, which marks the end, is sent but not counted.
    ensure!(report.total + 1 >= sent, "{name} received {} of {sent} datagrams", report.total);
    Ok(())
}
