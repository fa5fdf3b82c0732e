//! A container's only interface, its gateway, and its way out.

use std::net::Ipv4Addr;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use shoutd_e2e::{
    Cluster, Container, Network, SOON, Stream, await_network, live_restore, one_on_each, run_checks,
};
use shoutd_lab::{Host, Process, wait_until};

/// The MAC address of every gateway.
const GATEWAY_MAC: &str = "02:73:00:00:00:01";
/// Beyond the hosts: the gateway of the underlay.
const WORLD: &str = "10.77.0.254";

fn main() -> ExitCode {
    run_checks(
        || {
            let cluster = Cluster::up_mixed("wayout", 3)?;
            cluster.form([1, 2, 3])?;
            for host in cluster.hosts() {
                live_restore(&host)?;
            }
            Ok(cluster)
        },
        &[
            ("a container has one interface, with everything on it", one_interface),
            ("with published ports, the network's interface comes first", published),
            ("of several networks, Docker chooses the gateway", several_networks),
            ("no container can take over a gateway", take_over),
            ("the way out leads to nothing that Docker keeps apart", isolation),
            ("connections survive shoutd, the engine and a prune", connections_survive),
            ("packets that are too large for the way out are told", path_mtu),
            ("a way out that is in the way of a network gets another subnet", in_the_way),
        ],
    )
}

/// The gateway of a network that Docker chose: the first address.
fn gateway_of(network: &Network) -> Result<String> {
    let (subnet, _) = network.subnet()?;
    Ok(Ipv4Addr::from(u32::from(subnet) + 1).to_string())
}

/// The interfaces of a container, without loopback.
fn interfaces(container: &Container) -> Result<Vec<String>> {
    let listed = container.sh("ls /sys/class/net")?;
    Ok(listed.split_whitespace().filter(|name| *name != "lo").map(str::to_owned).collect())
}

fn ensure_only(container: &Container, gateway: &str, interface: &str) -> Result<()> {
    ensure!(interfaces(container)? == [interface], "{:?}", interfaces(container)?);
    let routes = container.sh("ip route")?;
    let default = format!("default via {gateway} dev {interface}");
    ensure!(routes.contains(&default) && routes.contains("224.0.0.0/4"), "{routes}");
    container.ping(gateway)?;
    container.ping(WORLD)?;
    let neighbours = container.sh("ip neigh")?;
    let is_gateway = |line: &str| line.starts_with(gateway) && line.contains(GATEWAY_MAC);
    ensure!(neighbours.lines().any(is_gateway), "{neighbours}");
    Ok(())
}

fn one_interface(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let first = Network::create(cluster, &hosts[0], "foo", &[])?;
    let gateway = gateway_of(&first)?;
    let containers = one_on_each(&hosts, "foo", &[])?;
    for (container, other) in containers.iter().zip(hosts.iter().cycle().skip(1)) {
        ensure_only(container, &gateway, "eth0")
            .with_context(|| format!("on {}", container.host.name()))?;
        container.ping(&other.address().to_string())?;
    }
    let options =
        ["--subnet=10.125.0.0/24", "--gateway=10.125.0.77", "--opt=shoutd.interface-prefix=shout"];
    let _bar = Network::create(cluster, &hosts[1], "bar", &options)?;
    for container in one_on_each(&hosts, "bar", &[])? {
        ensure_only(&container, "10.125.0.77", "shout0")?;
    }
    Ok(())
}

fn published(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let _foo = Network::create(cluster, &hosts[0], "foo", &[])?;
    let containers = one_on_each(&hosts, "foo", &["--publish=8080:80"])?;
    for (container, other) in containers.iter().zip(hosts.iter().cycle().skip(1)) {
        ensure!(interfaces(container)? == ["eth0", "eth1"], "{:?}", interfaces(container)?);
        let own = container.sh("ip address show dev eth0")?;
        ensure!(own.contains(&container.address("foo")?.to_string()), "{own}");
        let index = |name| container.sh(&format!("cat /sys/class/net/{name}/ifindex"));
        let (first, second) = (index("eth0")?, index("eth1")?);
        ensure!(first.trim().parse::<u32>()? < second.trim().parse()?, "{first} {second}");
        let serving =
            container.spawn("socat -d -d -U TCP4-LISTEN:80,reuseaddr,fork OPEN:/etc/hostname")?;
        serving.wait_for_line(SOON, |line| line.contains("listening on"))?;
        let ask = format!("socat -u TCP4:{}:8080,connect-timeout=10 -", container.host.address());
        ensure!(other.sh(&ask)? == container.sh("cat /etc/hostname")?, "the port is not published");
    }
    let [sender, receivers @ ..] = containers.as_slice() else { bail!("no containers") };
    Stream::default().send(sender, &receivers.iter().collect::<Vec<_>>(), 1)
}

fn several_networks(cluster: &mut Cluster) -> Result<()> {
    let [first, second, _] = cluster.three()?;
    let a = Network::create(cluster, &first, "a-net", &[])?;
    let b = Network::create(cluster, &first, "b-net", &["--subnet=10.126.0.0/24"])?;
    let (by_a, by_b) = (gateway_of(&a)?, gateway_of(&b)?);
    let container = Container::start(&first, "b-net", &[])?;
    let peer = Container::start(&second, "b-net", &[])?;
    let goes_by = |gateway: &str| -> Result<()> {
        let routes = container.sh("ip route")?;
        let defaults: Vec<&str> =
            routes.lines().filter(|line| line.starts_with("default")).collect();
        ensure!(
            defaults.len() == 1 && defaults[0].contains(&format!("via {gateway} ")),
            "{gateway}: {routes}"
        );
        container.ping(WORLD)
    };
    goes_by(&by_b)?;
    first.docker(["network", "connect", "a-net", &container.name])?;
    goes_by(&by_a).context("Docker prefers the first name")?;
    Stream::default().send(&container, &[&peer], 1)?;
    first.docker(["network", "disconnect", "a-net", &container.name])?;
    goes_by(&by_b)?;
    first.docker(["network", "connect", "a-net", &container.name])?;
    first.docker(["network", "disconnect", "b-net", &container.name])?;
    goes_by(&by_a)
}

fn take_over(cluster: &mut Cluster) -> Result<()> {
    let [first, second, _] = cluster.three()?;
    let network = Network::create(cluster, &first, "foo", &[])?;
    let gateway = gateway_of(&network)?;
    let victim = Container::start(&first, "foo", &[])?;
    victim.ping(WORLD)?;
    let claims = [
        // With default capabilities: unsolicited ARP requests and replies.
        ("", format!("arping -c 3 -U -I eth0 {gateway}; arping -c 3 -A -I eth0 {gateway}; true")),
        // With NET_ADMIN: the address itself, and the MAC address.
        (
            "--cap-add=NET_ADMIN",
            format!(
                "ip address add {gateway}/32 dev eth0; arping -c 3 -U -I eth0 {gateway}; arping -c \
                 3 -A -I eth0 {gateway}; true"
            ),
        ),
        (
            "--cap-add=NET_ADMIN",
            format!(
                "ip link set eth0 address {GATEWAY_MAC}; ping -c 3 -W 1 {}; true",
                victim.address("foo")?
            ),
        ),
    ];
    for host in [&first, &second] {
        for (capability, claim) in &claims {
            let options: Vec<&str> = [*capability].into_iter().filter(|o| !o.is_empty()).collect();
            let attacker = Container::start(host, "foo", &options)?;
            attacker.sh(claim)?;
            let neighbours = victim.sh("ip neigh")?;
            let of_gateway = neighbours.lines().filter(|line| line.starts_with(&gateway));
            ensure!(
                of_gateway.clone().all(|line| line.contains(GATEWAY_MAC)),
                "after {claim:?} on {}: {neighbours}",
                host.name()
            );
            victim.ping(WORLD).with_context(|| format!("after {claim:?}"))?;
        }
    }
    Ok(())
}

/// Serves TCP port 7000 in a container.
fn serve(container: &Container) -> Result<Process> {
    let serving =
        container.spawn("socat -d -d -U TCP4-LISTEN:7000,reuseaddr,fork OPEN:/dev/null")?;
    serving.wait_for_line(SOON, |line| line.contains("listening on"))?;
    Ok(serving)
}

fn isolation(cluster: &mut Cluster) -> Result<()> {
    let [first, second, _] = cluster.three()?;
    let own = Network::create(cluster, &first, "foo", &[])?;
    let bar = Network::create(cluster, &first, "bar", &["--subnet=10.126.0.0/24"])?;
    let container = Container::start(&first, "foo", &[])?;
    let other = Container::start(&first, "bar", &[])?;
    let docker0 = Container::start(&first, "bridge", &[])?;
    let publishing = Container::start(&first, "foo", &["--publish=8081:80"])?;
    let servers = [&other, &docker0, &publishing].map(serve);
    let _servers = servers.into_iter().collect::<Result<Vec<_>>>()?;
    let host_server = first.spawn([
        "socat",
        "-d",
        "-d",
        "TCP4-LISTEN:7000,bind=127.0.0.1,reuseaddr,fork",
        "PIPE",
    ])?;
    host_server.wait_for_line(SOON, |line| line.contains("listening on"))?;
    let uplink = |network: &Network| {
        first.sh(&format!(
            "ip -netns {} -o -4 address show dev shoutup0 | awk '{{print $4}}' | cut -d/ -f1",
            network.segment_name()?
        ))
    };
    let gateway_bridge =
        publishing.sh("ip -4 address show dev eth1 | grep -o 'inet [0-9.]*' | cut -d' ' -f2")?;
    let bridge_of =
        "ip -4 address show dev shoutd_gwbridge | grep -o 'inet [0-9.]*' | cut -d' ' -f2";
    let forbidden = [
        ("a container of another network", other.address("bar")?.to_string()),
        ("the gateway of another network", gateway_of(&bar)?),
        ("the uplink of another network", uplink(&bar)?),
        ("a container on docker0", docker0.address("bridge")?.to_string()),
        ("a container on docker_gwbridge", gateway_bridge),
        ("the host's loopback, by its own gateway", gateway_of(&own)?),
        ("the host's loopback, by the way-out bridge", first.sh(bridge_of)?),
    ];
    for (what, address) in forbidden {
        let address = address.trim();
        let tried =
            container.try_sh(&format!("socat -u TCP4:{address}:7000,connect-timeout=2 -"))?;
        ensure!(!tried.success(), "{what} can be reached at {address}");
    }
    // The cluster's own ports on other hosts, too.
    let port = format!("socat -u TCP4:{}:7789,connect-timeout=2 -", second.address());
    ensure!(!container.try_sh(&port)?.success(), "the agreement port can be reached");
    // The same addresses answer where they may.
    let allowed = Container::start(&first, "bar", &[])?;
    allowed.sh(&format!("socat -u TCP4:{}:7000,connect-timeout=10 -", other.address("bar")?))?;
    Ok(())
}

/// A TCP connection from a container to another host, which counts the lines that arrive.
struct Connection {
    server: Host,
    _processes: [Process; 2],
}

impl Connection {
    fn open(container: &Container, server: &Host) -> Result<Self> {
        // Without `fork` it serves one connection only.
        let listen = "TCP4-LISTEN:7007,reuseaddr";
        let serving = server.spawn(["socat", "-d", "-d", "-u", listen, "CREATE:/run/lines"])?;
        serving.wait_for_line(SOON, |line| line.contains("listening on"))?;
        let script = format!(
            "while echo line; do sleep 0.1; done | socat -u - TCP4:{}:7007",
            server.address()
        );
        let sending = ["docker", "exec", &container.name, "sh", "-c", &script];
        let sending = container.host.spawn(sending)?;
        Ok(Self { server: server.clone(), _processes: [serving, sending] })
    }

    /// Waits until more lines have arrived.
    fn goes_on(&self, after: &str) -> Result<()> {
        let count = || -> Result<u32> {
            Ok(self.server.sh("wc -l < /run/lines 2>/dev/null || echo 0")?.trim().parse()?)
        };
        let before = count()?;
        wait_until("more lines to arrive", SOON, || Ok((count()? > before + 3).then_some(())))
            .with_context(|| format!("after {after}"))
    }
}

fn connections_survive(cluster: &mut Cluster) -> Result<()> {
    let [first, second, third] = cluster.three()?;
    let _foo = Network::create(cluster, &second, "foo", &[])?;
    let container = Container::start(&first, "foo", &[])?;
    let connection = Connection::open(&container, &third)?;
    connection.goes_on("the start")?;
    first.kill_shoutd()?;
    connection.goes_on("the death of shoutd")?;
    first.boot_shoutd()?;
    first.start_shoutd(&[])?;
    connection.goes_on("the start of shoutd")?;
    first.kill_engine()?;
    connection.goes_on("the death of the engine")?;
    first.start_engine()?;
    connection.goes_on("the start of the engine")?;
    first.stop_engine()?;
    first.start_engine()?;
    connection.goes_on("a restart of the engine")?;
    let pruned = first.docker(["network", "prune", "--force"])?;
    ensure!(pruned.contains("shoutd_gwbridge"), "{pruned}");
    connection.goes_on("a prune of networks")?;
    first.sh("nft flush table ip nat; nft flush table ip filter; true")?;
    first.stop_engine()?;
    first.start_engine()?;
    connection.goes_on("a flush of Docker's rules and a restart of the engine")?;
    let new = Container::start(&first, "foo", &[])?;
    new.ping(WORLD)?;
    ensure!(interfaces(&new)? == ["eth0"], "{:?}", interfaces(&new)?);
    Ok(())
}

fn path_mtu(cluster: &mut Cluster) -> Result<()> {
    let [first, _, third] = cluster.three()?;
    let network = Network::create(cluster, &first, "foo", &[])?;
    let container = Container::start(&first, "foo", &[])?;
    container.ping(WORLD)?;
    first.sh("ip link set shoutd_gwbridge mtu 1280")?;
    let segment = format!("ip -netns {} link show shoutup0", network.segment_name()?);
    wait_until("the uplink to follow", SOON, || {
        Ok(first.sh(&segment)?.contains("mtu 1280").then_some(()))
    })?;
    // `InDestUnreachs`: the gateway tells that fragmentation is needed.
    let unreachable = || container.sh("awk '/^Icmp:/ && ++n == 2 {print $5}' /proc/net/snmp");
    let before = unreachable()?;
    // Both ways, in segments that are larger than the way allows.
    third.sh("dd if=/dev/urandom of=/run/sent bs=64k count=16 2>/dev/null")?;
    let listen = "TCP4-LISTEN:7008,reuseaddr,fork";
    let serving = third.spawn(["socat", "-d", "-d", listen, "SYSTEM:cat"])?;
    serving.wait_for_line(SOON, |line| line.contains("listening on"))?;
    let echoed = container.sh(&format!(
        "dd if=/dev/zero bs=64k count=16 2>/dev/null | socat -t 10 - TCP4:{}:7008 | wc -c",
        third.address()
    ))?;
    ensure!(echoed.trim() == "1048576", "{echoed}");
    let told = unreachable()?;
    ensure!(told != before, "no ICMP error reached the container");
    first.sh("ip link set shoutd_gwbridge mtu 1500").map(drop)
}

/// The engine of a host that joins later chooses a subnet that a network of the cluster has: it
/// does not know the network yet.
fn in_the_way(cluster: &mut Cluster) -> Result<()> {
    let first = cluster.host(1)?;
    let _foo = Network::create(cluster, &first, "foo", &["--subnet=172.21.0.0/16"])?;
    let fourth = cluster.add_host()?;
    for subnet in ["172.19.0.0/16", "172.20.0.0/16"] {
        let name = subnet.replace(['.', '/'], "-");
        fourth.docker(["network", "create", "--subnet", subnet, &name])?;
    }
    cluster.join(&fourth, &first)?;
    let template = "{{range .IPAM.Config}}{{.Subnet}}{{end}}";
    let subnet = || fourth.docker(["network", "inspect", "--format", template, "shoutd_gwbridge"]);
    await_network(&fourth, "foo")?;
    wait_until("another subnet", SOON, || {
        // Between the removal of the old one and the creation of the new one there is none.
        Ok(subnet().is_ok_and(|subnet| !subnet.trim().starts_with("172.21.")).then_some(()))
    })?;
    let container = Container::start(&fourth, "foo", &[])?;
    ensure_only(&container, "172.21.0.1", "eth0")?;
    let status = fourth.sh("shoutdctl status || true")?;
    let mut problems = status.lines().filter(|line| line.trim_start().starts_with("problem"));
    ensure!(!problems.any(|line| line.contains("shoutd_gwbridge")), "{status}");
    Ok(())
}
