//! Streams of numbered datagrams to a group, by iperf (version 2), and what was received.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use shoutd_lab::{Host, Process, wait_until};

use crate::Container;

/// How long a program in a container may take to start or to end.
const PROGRAM_DEADLINE: Duration = Duration::from_secs(30);

/// The longest stream that is ended by hand, in seconds.
const LONGEST: u32 = 300;

/// The receivers' socket buffer, for the time in which others have the processor. The kernel may
/// give less.
const BUFFER: &str = "4M";

/// A stream to be sent.
#[derive(Debug, Clone, Copy)]
pub struct Stream<'a> {
    /// The group, IPv4 or IPv6.
    pub group: &'a str,
    /// UDP port.
    pub port: u16,
    /// As iperf takes it: `1M` is 1 Mbit/s (of 2^20, as it counts).
    pub rate: &'a str,
    /// Length of a datagram, in octets.
    pub length: u16,
}

/// One IPv4 and one IPv6 stream.
pub const BOTH: [Stream<'static>; 2] = [
    Stream { group: "224.1.1.1", port: 5000, rate: "1M", length: 1470 },
    Stream { group: "ff05::1:5", port: 5001, rate: "1M", length: 1470 },
];

/// Commands for a container that join the groups of [`BOTH`], for all sources, until they are
/// killed.
pub const JOIN_BOTH: [&str; 2] = [
    "socat -u UDP4-RECV:5000,ip-add-membership=224.1.1.1:eth0 OPEN:/dev/null",
    "socat -u UDP6-RECV:5001,ipv6-join-group=[ff05::1:5]:eth0 OPEN:/dev/null",
];

impl Default for Stream<'_> {
    fn default() -> Self {
        let [default, _] = BOTH;
        default
    }
}

impl<'a> Stream<'a> {
    /// Sends for `seconds` and checks that all receivers receive everything.
    pub fn send(
        self,
        sender: &'a Container,
        receivers: &[&'a Container],
        seconds: u32,
    ) -> Result<()> {
        let starved = self.begin_for(Inside::by_engine, sender, receivers, seconds)?.judge()?;
        ensure!(
            starved == 0,
            "{starved} datagrams were delivered, but not read in time by the receiving program"
        );
        Ok(())
    }

    /// As [`Stream::send`], but tries again if datagrams were lost only because the receiving
    /// program did not read its socket in time: then the machine is busy, and the network is not at
    /// fault.
    pub fn send_undisturbed(
        self,
        sender: &'a Container,
        receivers: &[&'a Container],
        seconds: u32,
    ) -> Result<()> {
        for _ in 0..4 {
            if self.begin_for(Inside::by_engine, sender, receivers, seconds)?.judge()? == 0 {
                return Ok(());
            }
        }
        bail!("the machine is too busy: programs do not get to read their sockets in time");
    }

    /// Starts receivers and then the sender; returns when all receivers receive. The stream goes on
    /// until [`Running::finish`].
    pub fn begin(self, sender: &'a Container, receivers: &[&'a Container]) -> Result<Running<'a>> {
        self.begin_by(Inside::by_engine, sender, receivers)
    }

    /// As [`Stream::begin`], with programs that go on without an engine.
    pub fn begin_apart(
        self,
        sender: &'a Container,
        receivers: &[&'a Container],
    ) -> Result<Running<'a>> {
        self.begin_by(Inside::apart, sender, receivers)
    }

    fn begin_by(
        self,
        enter: Enter<'a>,
        sender: &'a Container,
        receivers: &[&'a Container],
    ) -> Result<Running<'a>> {
        let running = self.begin_for(enter, sender, receivers, LONGEST)?;
        for receiver in &running.receivers {
            receiver
                .process
                .wait_for_line(PROGRAM_DEADLINE, |line| line.contains("connected with"))?;
        }
        Ok(running)
    }

    fn begin_for(
        self,
        enter: Enter<'a>,
        sender: &'a Container,
        receivers: &[&'a Container],
        seconds: u32,
    ) -> Result<Running<'a>> {
        let receivers = thread::scope(|scope| {
            let started: Vec<_> = receivers
                .iter()
                .map(|container| scope.spawn(move || self.receive(enter(container)?)))
                .collect();
            let joined = started.into_iter().map(thread::ScopedJoinHandle::join);
            joined
                .map(|result| result.unwrap_or_else(|_| bail!("a thread panicked")))
                .collect::<Result<_>>()
        })?;
        let Self { port, rate, length, .. } = self;
        let (sender, to) = (enter(sender)?, self.destination());
        let process = sender
            .spawn(&format!("iperf {to} -p {port} -t {seconds} -T 2 -b {rate} -l {length}"))?;
        let deadline = Duration::from_secs(seconds.into()) + PROGRAM_DEADLINE;
        Ok(Running { stream: self, sender, process, receivers, deadline, dropped: dropped()? })
    }

    /// Starts a receiver that ends with the first stream that it receives; returns when it has
    /// joined the group.
    fn receive(self, container: Inside<'a>) -> Result<Receiver<'a>> {
        let Self { group, port, length, .. } = self;
        let before = losses(&container)?;
        // Only IPv4 has a route that selects the interface for a group.
        let at = if self.is_v6() { format!("-V -B {group}%eth0") } else { format!("-B {group}") };
        let process = container
            .spawn(&format!("iperf -u -s {at} -p {port} -l {length} -w {BUFFER} -P 1 -i 0.5"))?;
        process.wait_for_line(PROGRAM_DEADLINE, |line| line.contains("Joining multicast"))?;
        await_membership(&container, group)?;
        Ok(Receiver { container, process, before })
    }

    /// Whether the group is IPv6.
    fn is_v6(self) -> bool {
        self.group.contains(':')
    }

    /// The sender's first arguments, which no other sender on the host has.
    fn destination(self) -> String {
        if self.is_v6() {
            format!("-u -V -c {}%eth0", self.group)
        } else {
            format!("-u -c {}", self.group)
        }
    }

    /// The protocol's name in the kernel's counters.
    fn protocol(self) -> &'static str {
        if self.is_v6() { "Udp6" } else { "Udp" }
    }
}

/// How programs are started in a container.
type Enter<'a> = fn(&'a Container) -> Result<Inside<'a>>;

/// A container to start programs in: through its engine, or without it, in the container's network
/// namespace only.
#[derive(Debug)]
struct Inside<'a> {
    container: &'a Container,
    /// The namespace, if programs are started without the engine.
    namespace: Option<String>,
}

impl<'a> Inside<'a> {
    #[allow(clippy::unnecessary_wraps, reason = "it is an `Enter`")]
    fn by_engine(container: &'a Container) -> Result<Self> {
        Ok(Self { container, namespace: None })
    }

    fn apart(container: &'a Container) -> Result<Self> {
        let pid = container.inspect("{{.State.Pid}}")?;
        Ok(Self { container, namespace: Some(format!("--net=/proc/{pid}/ns/net")) })
    }

    fn host(&self) -> &'a Host {
        &self.container.host
    }

    fn sh(&self, script: &str) -> Result<String> {
        match &self.namespace {
            Some(namespace) => self.host().sh(&format!("nsenter {namespace} sh -c '{script}'")),
            None => self.container.sh(script),
        }
    }

    fn spawn(&self, command: &str) -> Result<Process> {
        match &self.namespace {
            Some(namespace) => self
                .host()
                .spawn(["nsenter", namespace].into_iter().chain(command.split_whitespace())),
            None => self.container.spawn(command),
        }
    }

    /// Ends the iperf that was started with these first arguments, as Ctrl-C would.
    fn interrupt(&self, process: &Process, arguments: &str) -> Result<()> {
        match &self.namespace {
            // It is the only one on the host.
            Some(_) => self.host().sh(&format!("pkill -INT -f \"[i]perf {arguments} \"")),
            None => self.sh(&format!(
                "for pid in $(pidof iperf); do tr '\\0' ' ' < /proc/$pid/cmdline | grep -q -- \
                 '^iperf {arguments} ' && kill -INT $pid; done; true"
            )),
        }
        .map(|_| ())
        .with_context(|| process.what().to_owned())
    }
}

/// A stream in progress.
#[derive(Debug)]
pub struct Running<'a> {
    stream: Stream<'a>,
    sender: Inside<'a>,
    process: Process,
    receivers: Vec<Receiver<'a>>,
    deadline: Duration,
    /// [`dropped`] before the stream.
    dropped: u64,
}

#[derive(Debug)]
struct Receiver<'a> {
    container: Inside<'a>,
    process: Process,
    /// [`losses`] before the stream.
    before: BTreeMap<String, u64>,
}

/// Starts [`BOTH`] from one sender.
pub fn begin_both<'a>(
    sender: &'a Container,
    receivers: &[&'a Container],
) -> Result<Vec<Running<'a>>> {
    BOTH.into_iter().map(|stream| stream.begin(sender, receivers)).collect()
}

/// Waits until every receiver of each stream has received this many more datagrams, all at the same
/// time.
pub fn await_more(streams: &[Running<'_>], count: u64) -> Result<()> {
    thread::scope(|scope| {
        let waiting: Vec<_> =
            streams.iter().map(|stream| scope.spawn(move || stream.await_more(count))).collect();
        waiting
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or_else(|_| bail!("a thread panicked")))
    })
}

impl Running<'_> {
    /// Waits until every receiver has received this many more datagrams.
    pub fn await_more(&self, count: u64) -> Result<()> {
        for receiver in &self.receivers {
            let container = &receiver.container;
            let protocol = self.stream.protocol();
            let before = counter(container, protocol, "InDatagrams")?;
            let what = format!("{count} datagrams more on {}", container.host().name());
            wait_until(&what, PROGRAM_DEADLINE, || {
                let now = counter(container, protocol, "InDatagrams")?;
                Ok((now >= before + count).then_some(()))
            })?;
        }
        Ok(())
    }

    /// Ends the stream and checks that all receivers received everything.
    pub fn finish(mut self) -> Result<()> {
        ensure!(
            !self.process.has_ended()?,
            "the stream ended by itself: {}",
            self.process.printed().1
        );
        // The sender still marks its last datagram.
        self.sender.interrupt(&self.process, &self.stream.destination())?;
        let starved = self.judge()?;
        ensure!(
            starved == 0,
            "{starved} datagrams were delivered, but not read in time by the receiving program"
        );
        Ok(())
    }

    /// Waits for the end and fails if the network lost a datagram. Returns how many were delivered
    /// but not read in time.
    fn judge(mut self) -> Result<u64> {
        let output = self.process.wait(self.deadline)?;
        let sent = output.stdout.lines().find_map(sent);
        let sent =
            sent.with_context(|| format!("the sender did not say how much it sent, {output}"))?;
        let mut starved = 0;
        let mut faults = Vec::new();
        for receiver in &mut self.receivers {
            match receiver.judge(sent, self.stream.protocol()) {
                Ok(unread) => starved += unread,
                Err(error) => faults.push(format!("{error:#}")),
            }
        }
        let dropped = dropped()? - self.dropped;
        if !faults.is_empty() {
            let hosts = self
                .receivers
                .iter()
                .map(|receiver| receiver.container.host())
                .chain([self.sender.host()]);
            let drops: Vec<_> = hosts.map(drops).collect();
            bail!(
                "{} (in that time the machine's processors dropped {dropped} packets; since the \
                 hosts are up: {})",
                faults.join("; "),
                drops.join("; ")
            );
        }
        Ok(starved)
    }
}

impl Receiver<'_> {
    /// Compares the receiver's report with what was sent.
    fn judge(&mut self, sent: u64, protocol: &str) -> Result<u64> {
        let name = self.container.host().name();
        let output = self
            .process
            .wait(PROGRAM_DEADLINE)
            .with_context(|| format!("{name} did not receive the end"))?;
        let report = output.stdout.lines().filter_map(received).next_back();
        let (lost, total) = report.with_context(|| format!("{name} did not report, {output}"))?;
        let mut losses = losses(&self.container)?;
        losses
            .iter_mut()
            .for_each(|(name, count)| *count -= self.before.get(name).copied().unwrap_or_default());
        let unread = losses
            .get(&format!("{protocol} RcvbufErrors"))
            .copied()
            .context("the counter of a full socket")?;
        losses.retain(|_, count| *count > 0);
        ensure!(
            lost <= unread,
            "{name} lost {lost} of {total} datagrams, at {}; its kernel's counters: {losses:?}",
            moments_of_loss(&output.stdout).join(", ")
        );
        // The last datagram, which marks the end, is sent but not counted.
        ensure!(total + 1 >= sent, "{name} received {total} of {sent} datagrams");
        Ok(lost)
    }
}

/// The intervals of a receiver's report in which datagrams were lost, in seconds since the first
/// one.
fn moments_of_loss(report: &str) -> Vec<String> {
    let lossy = report.lines().filter(|line| received(line).is_some_and(|(lost, _)| lost > 0));
    let interval = lossy
        .filter_map(|line| line.split_once(']')?.1.split_once(" sec"))
        .map(|(interval, _)| interval);
    interval.map(|interval| format!("{} s", interval.trim())).collect()
}

/// Packets that the machine's processors dropped because their queues were full
/// (`netdev_max_backlog`), on any network: a sign of a busy machine.
fn dropped() -> Result<u64> {
    let table =
        fs::read_to_string("/proc/net/softnet_stat").context("read /proc/net/softnet_stat")?;
    let counts = table
        .lines()
        .map(|line| line.split_whitespace().nth(1).map(|count| u64::from_str_radix(count, 16)));
    counts.map(|count| count.context("a count")?.context("a count")).sum()
}

/// Where a host's kernel has dropped packets since the host came up: at its interfaces, at those of
/// segments, and in connection tracking.
fn drops(host: &Host) -> String {
    let script = r#"for ns in "" $(ls /run/netns 2>/dev/null); do
            ${ns:+ip netns exec $ns} cat /proc/net/dev |
                awk -v ns="$ns" 'NR > 2 && $4 + $5 + $12 + $13 {
                    print ns, $1, "in:", $4 + $5, "out:", $12 + $13
                }'
        done
        awk 'NR == 1 { for (i = 1; i <= NF; i++) name[i] = $i; next }
            { for (i = 1; i <= NF; i++) {
                if (name[i] ~ /drop|failed|clash|error/ && $i != "00000000") print name[i], "0x" $i
            } }' /proc/net/stat/nf_conntrack"#;
    let counted = host.sh(script).unwrap_or_else(|error| format!("{error:#}"));
    format!("{}: {}", host.name(), counted.lines().collect::<Vec<_>>().join(", "))
}

/// The kernel's counters in this container for each way to lose what arrived, by protocol: a full
/// socket, fragments that never became a datagram, and so on.
fn losses(container: &Inside<'_>) -> Result<BTreeMap<String, u64>> {
    const SIGNS: [&str; 5] = ["Errors", "Fails", "Timeout", "Discards", "NoPorts"];
    let mut counters = counters(container)?;
    counters.retain(|name, _| SIGNS.iter().any(|sign| name.contains(sign)));
    Ok(counters)
}

/// A counter of a container's kernel.
fn counter(container: &Inside<'_>, protocol: &str, name: &str) -> Result<u64> {
    let counters = counters(container)?;
    counters
        .get(&format!("{protocol} {name}"))
        .copied()
        .with_context(|| format!("{name} of {protocol}: {counters:?}"))
}

/// The kernel's counters in a container, by protocol and name. For IPv4, one line has the names and
/// the next one the numbers; for IPv6, each counter has its line.
fn counters(container: &Inside<'_>) -> Result<BTreeMap<String, u64>> {
    let table = container.sh("grep -hE \"^(Ip|Udp)(:|6)\" /proc/net/snmp /proc/net/snmp6")?;
    let (v6, v4): (Vec<&str>, Vec<&str>) = table.lines().partition(|line| !line.contains(':'));
    let mut counters = BTreeMap::new();
    for pair in v4.chunks_exact(2) {
        let [names, values] = pair else { continue };
        let (names, values) = (names.split_whitespace(), values.split_whitespace());
        let protocol = names.clone().next().unwrap_or_default().trim_end_matches(':');
        for (name, value) in names.zip(values).skip(1) {
            counters.insert(
                format!("{protocol} {name}"),
                value.parse().with_context(|| format!("{name} in {table}"))?,
            );
        }
    }
    for line in v6 {
        let (name, value) = line.split_once(char::is_whitespace).context("a name and a number")?;
        let (protocol, name) = name.split_once('6').context("a protocol")?;
        let value = value.trim().parse().with_context(|| format!("{name} in {table}"))?;
        counters.insert(format!("{protocol}6 {name}"), value);
    }
    Ok(counters)
}

/// Waits until the container has joined a group: it cannot receive what is sent before.
fn await_membership(container: &Inside<'_>, group: &str) -> Result<()> {
    // In hexadecimal; IPv4 addresses in the machine's byte order.
    let (table, listed) = match group.parse()? {
        IpAddr::V4(address) => ("igmp", format!("{:08X}", u32::from_ne_bytes(address.octets()))),
        IpAddr::V6(address) => ("igmp6", format!("{:032x}", address.to_bits())),
    };
    let what =
        format!("{} on {} to join {group}", container.container.name, container.host().name());
    wait_until(&what, PROGRAM_DEADLINE, || {
        Ok(container.sh(&format!("cat /proc/net/{table}"))?.contains(&listed).then_some(()))
    })
}

/// Reads from a receiver's report how many datagrams were lost and how many there were.
fn received(line: &str) -> Option<(u64, u64)> {
    // [  1] 0.0000-8.0153 sec  1.00 MBytes  1.05 Mbits/sec   0.012 ms 3/716 (0.42%)
    let (_, counts) = line.split_once(" ms")?;
    let (lost, total) = counts.split_once('/')?;
    Some((lost.trim().parse().ok()?, total.split_whitespace().next()?.parse().ok()?))
}

/// Reads a sender's report of how many datagrams it sent.
fn sent(line: &str) -> Option<u64> {
    // [  1] Sent 717 datagrams
    line.split_once("] Sent ")?.1.strip_suffix(" datagrams")?.parse().ok()
}
