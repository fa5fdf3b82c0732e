//! Encrypted networks, with the WireGuard that this kernel has, or the one in user space.

#[path = "encryption/coverage.rs"]
mod coverage;
#[path = "encryption/replayed.rs"]
mod replayed;
#[path = "encryption/settings.rs"]
mod settings;

use std::env;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use shoutd_e2e::{
    BOTH, Capture, Cluster, Container, Datagrams, Frame, GroupSocket, Network, SOON, Sources,
    Stream, WITH_IPV6, all_receive_from_all, await_members, one_on_each, run_checks,
    start_receiver, status,
};
use shoutd_lab::{Host, wait_until};

/// The environment variable that says that the kernel must have WireGuard.
const HAS_WIREGUARD: &str = "SHOUTD_LAB_WIREGUARD";

/// What containers send, to be looked for in the underlay.
const SECRET: &str = "these-words-must-not-be-seen";

/// Forged packets per way.
const FORGED: usize = 200;

/// The UDP port at which a container waits for forged packets.
const PORT: u16 = 6009;

/// The UDP port to which no program listens (RFC 863).
const DISCARD: u16 = 9;

/// Groups that every tier sends only to hosts with members: by its MAC address, the second one
/// cannot be taken for a group that all hosts get.
const SELECTIVE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(224, 1, 1, 1)),
    IpAddr::V6(Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 0x1234, 0x5678)),
];

/// Datagrams that are counted, and the time between two of them.
const BURST: u64 = 1000;
const PAUSE: Duration = Duration::from_millis(1);

fn main() -> ExitCode {
    run_checks(
        || {
            let cluster = Cluster::up("encryption", 3)?;
            cluster.form([1, 2, 3])?;
            Ok(cluster)
        },
        &[
            ("multicast, broadcast, unicast and names", all_traffic),
            ("only hosts with members get a group", selective),
            ("nothing of it can be read in the underlay", unreadable),
            ("packets that others forge do not arrive", forged),
            ("packets that are sent again, or back, do not arrive", replayed::replayed),
            ("daemons and WireGuard are killed", killed),
            ("a host that cannot encrypt starts no container", never_plain),
            ("the largest packet passes, and no larger one", coverage::largest),
            ("--internal, --ipv6, max-rate, mac-moves, addresses that move", coverage::options),
            ("the cluster's default encrypts all new networks", settings::always),
            ("another port of WireGuard", settings::port),
            ("another WireGuard", settings::tier),
            ("a removed host reaches nobody, and leaves nothing", removed),
        ],
    )
}

fn encrypted(cluster: &Cluster, name: &str) -> Result<Network> {
    let first = cluster.host(1)?;
    let network = Network::create(cluster, &first, name, &["--opt", "encrypted"])?;
    ensure!(network.row(&first)?["encrypted"] == true, "it is not shown to be encrypted");
    Ok(network)
}

fn all_traffic(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let network = encrypted(cluster, "foo")?;
    let containers = one_on_each(&hosts, "foo", &[WITH_IPV6])?;
    let tier = &status(&hosts[0])?["wireguard"]["tier"];
    ensure!(tier == "kernel" || env::var_os(HAS_WIREGUARD).is_none(), "WireGuard is in {tier}");
    // A plain one beside it, by another name of the option.
    let options = ["-o", "shoutd.encrypted=false", "--subnet=10.98.0.0/24"];
    let plain = Network::create(cluster, &hosts[1], "bar", &options)?;
    ensure!(plain.row(&hosts[0])?["encrypted"] == false, "it is shown to be encrypted");
    let others = one_on_each(&hosts, "bar", &[])?;
    for stream in BOTH {
        let [sender, receivers @ ..] = containers.as_slice() else { bail!("no containers") };
        stream.send_undisturbed(sender, &receivers.iter().collect::<Vec<_>>(), 2)?;
    }
    let broadcast = network.broadcast()?;
    for (receive, send) in [
        (
            "UDP4-RECV:6001,ip-add-membership=224.0.0.77:eth0".to_owned(),
            "UDP4-DATAGRAM:224.0.0.77:6001".to_owned(),
        ),
        (
            "UDP4-RECV:6002,broadcast".to_owned(),
            format!("UDP4-DATAGRAM:{broadcast}:6002,broadcast"),
        ),
    ] {
        all_receive_from_all(&containers, &Datagrams { receive, send })?;
    }
    for from in &containers {
        for to in &containers {
            from.ping(&to.name)?;
        }
    }
    Stream::default().send_undisturbed(&others[1], &[&others[0], &others[2]], 1)?;
    drop((containers, others));
    plain.remove_on(&hosts[2])?;
    network.remove_on(&hosts[1])
}

fn selective(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let network = encrypted(cluster, "foo")?;
    let containers = one_on_each(&hosts, "foo", &[WITH_IPV6])?;
    let [_, receiver, _] = containers.as_slice() else { bail!("no containers") };
    let mut joined = Vec::new();
    for group in SELECTIVE {
        let socket = GroupSocket::open(receiver, group.is_ipv4(), 0)?;
        socket.join(group, Sources::All)?;
        await_members(&hosts[0], &group.to_string(), &[&hosts[1]])?;
        goes_to_one_host(&containers[0], group, [&hosts[1], &hosts[2]])?;
        joined.push(socket);
    }
    drop((joined, containers));
    network.remove_on(&hosts[0])
}

/// Waits until datagrams to a group go to the first of two hosts, and not to the second. Probes of
/// the tunnels go to both.
fn goes_to_one_host(sender: &Container, group: IpAddr, hosts: [&Host; 2]) -> Result<()> {
    let socket = GroupSocket::open(sender, group.is_ipv4(), 0)?;
    wait_until(&format!("{group} to go to one host"), SOON, || {
        let [member, other] = hosts;
        let before = [through_wireguard(member)?, through_wireguard(other)?];
        for _ in 0..BURST {
            socket.send((group, DISCARD), b"selective")?;
            thread::sleep(PAUSE);
        }
        wait_until("the datagrams to reach the member's host", SOON, || {
            Ok((through_wireguard(member)? >= before[0] + BURST).then_some(()))
        })?;
        Ok((through_wireguard(other)? < before[1] + BURST / 2).then_some(()))
    })
}

/// The packets that a host's WireGuard device has received.
fn through_wireguard(host: &Host) -> Result<u64> {
    let counter = "/sys/class/net/shoutwg0/statistics/rx_packets";
    let shown = host.sh(&format!("ip netns exec shout-wg cat {counter}"))?;
    shown.trim().parse().with_context(|| format!("a number of packets in {shown:?}"))
}

/// A host's address in the encrypted underlay.
fn address_of(host: &Host) -> Result<String> {
    let shown = host.sh("ip -netns shout-wg -oneline -6 address show dev shoutwg0 scope global")?;
    let address = shown.split_whitespace().find_map(|word| word.strip_suffix("/48"));
    Ok(address.with_context(|| format!("no address in: {shown}"))?.to_owned())
}

fn unreadable(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    for (name, options, is_seen) in
        [("foo", ["--opt", "encrypted"], false), ("bar", ["--opt", "shoutd.names=on"], true)]
    {
        let network = Network::create(cluster, &hosts[0], name, &options)?;
        let containers = one_on_each(&hosts, name, &[])?;
        let captures = [Capture::of_underlay(&hosts[0])?, Capture::of_underlay(&hosts[1])?];
        let datagrams = Datagrams {
            receive: "UDP4-RECV:6001,ip-add-membership=224.0.0.77:eth0".to_owned(),
            send: "UDP4-DATAGRAM:224.0.0.77:6001".to_owned(),
        };
        let receiver = start_receiver(&containers[1], &datagrams)?;
        containers[0].sh(&format!("echo {SECRET} | socat -u - {}", datagrams.send))?;
        wait_until("the words to arrive", SOON, || {
            Ok(receiver.printed().0.contains(SECRET).then_some(()))
        })?;
        for capture in captures {
            let frames = capture.stop()?;
            let seen = frames.iter().any(|frame| frame.contains(SECRET.as_bytes()));
            ensure!(seen == is_seen, "on {name}, the words are seen: {seen}");
            let tunnelled = frames.iter().filter_map(Frame::tunnelled).count();
            ensure!((tunnelled > 0) == is_seen, "on {name}, {tunnelled} VXLAN packets are seen");
        }
        drop(containers);
        network.remove_on(&hosts[0])?;
    }
    Ok(())
}

fn forged(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let [victim, member, _] = &hosts;
    let network = encrypted(cluster, "foo")?;
    let containers = one_on_each(&hosts[..2], "foo", &[])?;
    let [receiver, inside] = containers.as_slice() else { bail!("no containers") };
    let process = receiver.spawn(&format!("socat -d -d -u UDP4-RECV:{PORT} -"))?;
    process.wait_for_line(SOON, |line| line.contains("starting data transfer loop"))?;
    let packet = forge(u32::try_from(network.vni()?)?, receiver)?;
    let send = |to: &str| {
        format!(
            "for n in $(seq {FORGED}); do printf '{packet}' | socat -u - {to}; done 2>/dev/null; \
             true"
        )
    };
    let underlay = victim.address();
    // A process and a container of a member's host, at the ports of VXLAN and WireGuard.
    for port in [7789, 7792] {
        member.sh(&send(&format!("UDP4-DATAGRAM:{underlay}:{port}")))?;
        inside.sh(&send(&format!("UDP4-DATAGRAM:{underlay}:{port}")))?;
    }
    let received = process.printed().0;
    ensure!(received.is_empty(), "forged packets arrived: {received}");
    // The same packet from the namespace that only shoutd uses: it is well formed.
    let to = format!("UDP6-DATAGRAM:[{}]:7789", address_of(victim)?);
    member.sh(&format!(
        "printf '{packet}' > /run/forged && ip netns exec shout-wg socat -u \
                        OPEN:/run/forged {to}; rm /run/forged"
    ))?;
    wait_until("the packet to arrive from a member", SOON, || {
        Ok(process.printed().0.contains("forged").then_some(()))
    })?;
    drop(containers);
    network.remove_on(member)
}

/// A VXLAN packet (RFC 7348) with a datagram to the container, as printf(1) takes it.
fn forge(vni: u32, to: &Container) -> Result<String> {
    let address = to.address("foo")?;
    let payload = b"forged\n";
    let length = u16::try_from(8 + payload.len())?;
    let source = Ipv4Addr::new(172, 31, 0, 1);
    let mut ip = vec![0x45, 0];
    ip.extend((20 + length).to_be_bytes());
    ip.extend([0, 1, 0, 0, 64, 17, 0, 0]);
    ip.extend(source.octets());
    ip.extend(address.octets());
    let sum: u32 = ip.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16))?;
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut packet = vec![0x08, 0, 0, 0];
    packet.extend((vni << 8).to_be_bytes());
    packet.extend([0xff; 6]);
    packet.extend([2, 0, 0, 0, 0, 9, 8, 0]);
    packet.extend(ip);
    packet.extend(9_u16.to_be_bytes());
    packet.extend(PORT.to_be_bytes());
    packet.extend(length.to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    let mut text = String::new();
    for octet in packet {
        write!(text, "\\{octet:03o}")?;
    }
    Ok(text)
}

fn killed(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let network = encrypted(cluster, "foo")?;
    let containers = one_on_each(&hosts, "foo", &[])?;
    let [sender, receivers @ ..] = containers.as_slice() else { bail!("no containers") };
    let running = Stream::default().begin(sender, &receivers.iter().collect::<Vec<_>>())?;
    for host in &hosts {
        let daemon =
            host.sh("sed -n 's/.*\"pid\": *\\([0-9]*\\).*/\\1/p' /run/shoutd/daemon.json")?;
        host.sh(&format!("kill -KILL {daemon}"))?;
        running.await_more(100)?;
        host.start_shoutd(&[])?;
        running.await_more(100)?;
        host.sh("shoutdctl stop")?;
        running.await_more(100)?;
        host.start_shoutd(&[])?;
    }
    running.finish()?;
    for host in &hosts {
        let Some(process) = userspace(host)? else { continue };
        host.sh(&format!("kill -KILL {process}"))?;
        wait_until("another WireGuard process", SOON, || {
            Ok(userspace(host)?.filter(|another| *another != process))
        })?;
        for to in receivers {
            wait_until("traffic to flow again", SOON, || {
                let address = to.address("foo")?;
                let ping = sender.try_sh(&format!("ping -c 1 -W 1 {address}"))?;
                Ok(ping.success().then_some(()))
            })?;
        }
    }
    drop(containers);
    network.remove_on(&hosts[0])
}

/// Kills the daemon, and not WireGuard's process.
fn kill_daemon(host: &Host) -> Result<()> {
    let record = host.sh("cat /run/shoutd/daemon.json")?;
    let record: serde_json::Value = serde_json::from_str(&record)?;
    let process = record["pid"].as_u64().with_context(|| format!("no process in {record}"))?;
    host.sh(&format!("kill -KILL {process}")).map(drop)
}

/// The process of WireGuard in user space, if this kernel needs one.
fn userspace(host: &Host) -> Result<Option<String>> {
    let found = host.sh("pgrep -x shoutd-wg || true")?;
    Ok(found.lines().next().map(str::to_owned))
}

fn never_plain(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let [first, second, _] = &hosts;
    let Some(process) = userspace(second)? else {
        println!("this kernel has WireGuard: there is no process to take away");
        return Ok(());
    };
    let network = encrypted(cluster, "foo")?;
    second.sh("mount --bind /dev/null /dev/net/tun")?;
    second.sh(&format!("kill -KILL {process}"))?;
    let told = wait_until("a container to be refused", SOON, || {
        let (container, output) = Container::try_start(second, "foo", &[])?;
        container.remove()?;
        Ok((!output.success()).then_some(output.stderr))
    })?;
    ensure!(told.contains("WireGuard"), "it is told: {told}");
    let status = second.run(["shoutdctl", "status"])?;
    ensure!(!status.success() && status.stdout.contains("encrypted underlay"), "{status}");
    second.sh("umount /dev/net/tun")?;
    let other = Container::start(first, "foo", &[])?;
    wait_until("a container to start again", SOON, || {
        let (container, output) = Container::try_start(second, "foo", &[])?;
        if output.success() {
            container.ping(&other.address("foo")?.to_string())?;
        }
        container.remove()?;
        Ok(output.success().then_some(()))
    })?;
    drop(other);
    network.remove_on(first)
}

fn removed(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let [first, second, third] = &hosts;
    let network = encrypted(cluster, "foo")?;
    let containers = one_on_each(&hosts[..2], "foo", &[])?;
    let to = address_of(first)?;
    third.sh(&format!("ip netns exec shout-wg ping -c 1 -W 5 {to}"))?;
    // Its WireGuard goes on with the keys that it has.
    kill_daemon(third)?;
    first.sh("shoutdctl remove --force host3")?;
    let begin = Instant::now();
    let ping = |count| {
        let words = ["ip", "netns", "exec", "shout-wg", "ping", "-c", count, "-W", "1", &to];
        third.run(words).map(|output| output.success())
    };
    let refused = wait_until("the removed host to be refused", SOON, || {
        let asked = begin.elapsed();
        Ok((!ping("1")?).then_some(asked))
    })?;
    println!("it was refused at most {} ms after the removal", refused.as_millis());
    ensure!(!ping("3")?, "the removed host is not refused for good");
    Stream::default().send_undisturbed(&containers[0], &[&containers[1]], 1)?;
    // With a new identity it joins again, and adopts the device that it left in the kernel.
    third.sh("rm -rf /var/lib/shoutd/*")?;
    cluster.join(third, first)?;
    let late = Container::start(third, "foo", &[])?;
    late.ping(&containers[0].address("foo")?.to_string())?;
    drop((late, containers));
    network.remove_on(second)?;
    second.sh("shoutdctl stop --leave")?;
    let left = second.sh("ip netns; pgrep -x shoutd-wg || true")?;
    ensure!(left.trim().is_empty(), "this is left: {left}");
    Ok(())
}
