//! Programs that use multicast, in Debian's versions: virtual addresses, service discovery,
//! multicast routing.

#[path = "programs/prometheus.rs"]
mod prometheus;
#[path = "programs/ptp.rs"]
mod ptp;

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use shoutd_e2e::{Cluster, Container, Network, SOON, WITH_IPV6, run_checks};
use shoutd_lab::{Host, Process, wait_until};

/// Gives a container the machine's own programs and libraries, and what they need: interfaces of
/// their own, and the sysctls of its network namespace. Not `--privileged`, which fails on a
/// machine that lacks any of the kernel's capabilities.
const WITH_PROGRAMS: [&str; 9] = [
    "--cap-add=NET_ADMIN",
    "--security-opt=systempaths=unconfined",
    // Without it the kernel sends ARP requests from the virtual address with the interface's own
    // MAC address, and the neighbours learn that.
    "--sysctl=net.ipv4.conf.all.arp_announce=2",
    "--volume=/usr/lib:/usr/lib:ro",
    "--volume=/usr/sbin/keepalived:/usr/bin/keepalived:ro",
    "--volume=/usr/sbin/ucarp:/usr/bin/ucarp:ro",
    "--volume=/usr/sbin/avahi-daemon:/usr/bin/avahi-daemon:ro",
    "--volume=/usr/bin/avahi-browse:/usr/bin/avahi-browse:ro",
    "--volume=/usr/bin/dbus-daemon:/usr/bin/dbus-daemon:ro",
];

/// The address that moves. It is in the middle of the subnet, where neither Docker nor shoutd gives
/// out addresses.
const VIRTUAL: &str = "10.124.0.100";
const VIRTUAL_V6: &str = "fd00:124::100";

fn main() -> ExitCode {
    run_checks(
        || {
            let cluster = Cluster::up("programs", 3)?;
            cluster.form([1, 2, 3])?;
            Ok(cluster)
        },
        &[
            ("keepalived with a virtual MAC address", |cluster| keepalived(cluster, true, "false")),
            ("keepalived with the interface's own MAC address", |cluster| {
                keepalived(cluster, false, "false")
            }),
            ("keepalived with a virtual MAC address on an encrypted network", |cluster| {
                keepalived(cluster, true, "true")
            }),
            ("ucarp", ucarp),
            ("avahi finds services on other hosts, by IPv4 and IPv6", avahi),
            ("linuxptp's slaves follow a master on another host", ptp::multicast),
            (
                "linuxptp's slaves that send by unicast follow a master on another host",
                ptp::unicast,
            ),
            ("Prometheus has the packets that were sent and saved", prometheus::scrape),
            (
                "metrics whose port is taken are served as soon as it is free",
                prometheus::port_taken,
            ),
        ],
    )
}

/// Starts a container with Debian's programs and these options.
fn start(host: &Host, options: &[&str]) -> Result<Container> {
    let options: Vec<&str> = WITH_PROGRAMS.iter().chain(options).copied().collect();
    Container::start(host, "foo", &options)
}

/// Waits until the container that takes over a virtual address has reported it and has it, and
/// until a client that got the gratuitous ARP reaches it there.
fn await_owner(
    client: &Container,
    owner: (&Container, &Process),
    told: &str,
    mac: Option<&str>,
) -> Result<()> {
    let (container, program) = owner;
    program.wait_for_line(SOON, |line| line.contains(told))?;
    wait_until("the address to be there", SOON, || {
        Ok(container.sh("ip address")?.contains(VIRTUAL).then_some(()))
    })?;
    let wanted = match mac {
        Some(mac) => mac.to_owned(),
        None => container.sh("cat /sys/class/net/eth0/address")?.trim().to_owned(),
    };
    await_answer(client, &wanted)
}

/// Waits until a client reaches the virtual address at this MAC address. For a moment two
/// containers may have it and announce it by ARP.
fn await_answer(client: &Container, mac: &str) -> Result<()> {
    wait_until(&format!("{VIRTUAL} to answer {} at {mac}", client.name), SOON, || {
        let answered = client.try_sh(&format!("ping -c 1 -W 1 {VIRTUAL}"))?.success();
        let neighbours = client.sh("cat /proc/net/arp")?;
        let is_there =
            neighbours.lines().any(|line| line.starts_with(VIRTUAL) && line.contains(mac));
        Ok((answered && is_there).then_some(()))
    })
}

/// As [`await_owner`], but a single packet must find the owner: the client got the gratuitous ARP
/// by the time the owner reports it.
fn find_at_once(
    client: &Container,
    owner: (&Container, &Process),
    told: &str,
    mac: Option<&str>,
) -> Result<()> {
    owner.1.wait_for_line(SOON, |line| line.contains(told))?;
    wait_until("the address to be there", SOON, || {
        Ok(owner.0.sh("ip address")?.contains(VIRTUAL).then_some(()))
    })?;
    client.ping(VIRTUAL)?;
    await_owner(client, owner, told, mac)
}

/// The same for IPv6, with unsolicited neighbour advertisements.
fn find_v6_at_once(
    client: &Container,
    owner: (&Container, &Process),
    mac: Option<&str>,
) -> Result<()> {
    owner.1.wait_for_line(SOON, |line| {
        line.contains("Sending unsolicited Neighbour Advert") && line.contains(VIRTUAL_V6)
    })?;
    wait_until("the IPv6 address to be there", SOON, || {
        Ok(owner.0.sh("ip address")?.contains(VIRTUAL_V6).then_some(()))
    })?;
    client.sh(&format!("ping6 -c 1 -W 5 {VIRTUAL_V6}"))?;
    let wanted = match mac {
        Some(mac) => mac.to_owned(),
        None => owner.0.sh("cat /sys/class/net/eth0/address")?.trim().to_owned(),
    };
    // For a moment two may have it and advertise it.
    wait_until(&format!("{VIRTUAL_V6} to be at {wanted}"), SOON, || {
        let answered = client.try_sh(&format!("ping6 -c 1 -W 1 {VIRTUAL_V6}"))?.success();
        let neighbours = client.sh("ip -6 neigh")?;
        let is_there =
            neighbours.lines().any(|line| line.starts_with(VIRTUAL_V6) && line.contains(&wanted));
        Ok((answered && is_there).then_some(()))
    })
}

/// The configuration of keepalived: a virtual IPv4 address, and an IPv6 one, which needs version 3.
fn vrrp_config(priority: u8, use_vmac: bool) -> String {
    let vmac = if use_vmac { "use_vmac" } else { "" };
    let [one, two] = [51, 52].map(|id| {
        format!(
            "interface eth0\n state BACKUP\n virtual_router_id {id}\n priority {priority}\n \
             advert_int 1\n {vmac}"
        )
    });
    format!(
        "vrrp_instance one {{\n {one}\n virtual_ipaddress {{\n {VIRTUAL}/24\n }}\n}}\n\
         vrrp_instance two {{\n {two}\n version 3\n native_ipv6\n virtual_ipaddress {{\n \
         fe80::124\n {VIRTUAL_V6}/64\n }}\n}}\n"
    )
}

fn run_keepalived(container: &Container, priority: u8, use_vmac: bool) -> Result<Process> {
    // Left by the killed one: its process id belongs to another process now.
    container.sh("rm -f /run/keepalived.pid /run/vrrp.pid /run/keepalived/*.pid")?;
    let config = vrrp_config(priority, use_vmac).replace('\n', "\\n");
    container.sh(&format!("printf '{config}' > /tmp/keepalived.conf"))?;
    container.spawn(
        "keepalived --dont-fork --log-console --log-detail --vrrp \
         --use-file=/tmp/keepalived.conf",
    )
}

/// VRRP (RFC 5798): the master is killed, the backup takes over; the master comes back.
fn keepalived(cluster: &mut Cluster, use_vmac: bool, encrypted: &str) -> Result<()> {
    let [first, second, third] = cluster.three()?;
    let encrypted = format!("--opt=encrypted={encrypted}");
    let options = [&encrypted, "--subnet=10.124.0.0/24", "--ipv6", "--subnet=fd00:124::/64"];
    let _network = Network::create(cluster, &first, "foo", &options)?;
    let (master, backup) = (start(&first, &[])?, start(&second, &[])?);
    let client = Container::start(&third, "foo", &[])?;
    let told = "Sending gratuitous ARP on";
    let mac = use_vmac.then_some("00:00:5e:00:01:33");
    let mac_v6 = use_vmac.then_some("00:00:5e:00:02:34");
    let first_run = run_keepalived(&master, 200, use_vmac)?;
    find_at_once(&client, (&master, &first_run), told, mac)?;
    find_v6_at_once(&client, (&master, &first_run), mac_v6)?;
    let second_run = run_keepalived(&backup, 100, use_vmac)?;
    second_run.wait_for_line(SOON, |line| line.contains("(one) Entering BACKUP STATE"))?;
    // Killed, so that it sends no goodbye.
    first.docker(["kill", &master.name])?;
    find_at_once(&client, (&backup, &second_run), told, mac).context("the backup")?;
    find_v6_at_once(&client, (&backup, &second_run), mac_v6).context("the backup")?;
    master.start_again()?;
    let third_run = run_keepalived(&master, 200, use_vmac)?;
    find_at_once(&client, (&master, &third_run), told, mac).context("the master that came back")?;
    find_v6_at_once(&client, (&master, &third_run), mac_v6).context("the master that came back")?;
    second_run.wait_for_line(SOON, |line| line.contains("(one) Master received advert"))?;
    ensure!(!backup.sh("ip address")?.contains(VIRTUAL), "the backup still has the address");
    find_at_once(&client, (&master, &third_run), told, mac).context("the master alone")
}

fn run_ucarp(container: &Container, skew: u8) -> Result<Process> {
    for (script, verb) in [("up", "add"), ("down", "delete")] {
        container.sh(&format!(
            "printf '#!/bin/sh\\nip address {verb} {VIRTUAL}/24 dev $1\\n' > /tmp/{script}; \
             chmod +x /tmp/{script}"
        ))?;
    }
    let source = container.address("foo")?;
    container.spawn(&format!(
        "ucarp --interface=eth0 --srcip={source} --vhid=7 --pass=secret --addr={VIRTUAL} \
         --advskew={skew} --preempt --upscript=/tmp/up --downscript=/tmp/down"
    ))
}

/// CARP: the same, with the virtual host's MAC address in advertisements only, and gratuitous ARP
/// by the owner.
fn ucarp(cluster: &mut Cluster) -> Result<()> {
    let [first, second, third] = cluster.three()?;
    let _network = Network::create(cluster, &first, "foo", &["--subnet=10.124.0.0/24"])?;
    let (master, backup) = (start(&first, &[])?, start(&second, &[])?);
    let client = Container::start(&third, "foo", &[])?;
    let told = "Switching to state: MASTER";
    let first_run = run_ucarp(&master, 0)?;
    await_owner(&client, (&master, &first_run), told, None)?;
    let second_run = run_ucarp(&backup, 100)?;
    second_run.wait_for_line(SOON, |line| line.contains("Switching to state: BACKUP"))?;
    first.docker(["kill", &master.name])?;
    await_owner(&client, (&backup, &second_run), told, None).context("the backup")?;
    master.start_again()?;
    let third_run = run_ucarp(&master, 0)?;
    await_owner(&client, (&master, &third_run), told, None).context("the master that came back")?;
    wait_until("the backup to give the address up", SOON, || {
        Ok((!backup.sh("ip address")?.contains(VIRTUAL)).then_some(()))
    })?;
    await_owner(&client, (&master, &third_run), told, None).context("the master alone")
}

/// Prepares a container for avahi: a message bus without authentication, accounts, and one service
/// per host.
const AVAHI: &str = r#"
mkdir -p /run/dbus /etc/avahi/services
cat > /tmp/bus.conf <<END
<busconfig><type>system</type>
<listen>unix:path=/run/dbus/system_bus_socket</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/>
<allow send_destination="*"/><allow receive_sender="*"/></policy></busconfig>
END
echo avahi:x:103:109::/:/bin/false >> /etc/passwd
echo avahi:x:109: >> /etc/group
cat > /etc/avahi/services/lab.service <<END
<service-group><name>$1</name>
<service><type>_shoutlab._tcp</type><port>4242</port></service></service-group>
END
printf '[server]\nhost-name=%s\nallow-interfaces=eth0\nuse-ipv4=yes\nuse-ipv6=yes\n' $1 \
    > /tmp/avahi.conf
dbus-daemon --config-file=/tmp/bus.conf --fork
exec avahi-daemon --file=/tmp/avahi.conf --no-drop-root --no-chroot --no-rlimits
"#;

/// DNS-SD over mDNS (RFC 6762, RFC 6763): all find the services of all others.
fn avahi(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let _network = Network::create(cluster, &hosts[0], "foo", &["--subnet=10.124.0.0/24"])?;
    let containers =
        hosts.iter().map(|host| start(host, &[WITH_IPV6])).collect::<Result<Vec<_>>>()?;
    let mut daemons = Vec::new();
    for container in &containers {
        let script = AVAHI.replace("$1", &container.host.name());
        daemons.push(container.host.spawn([
            "docker",
            "exec",
            &container.name,
            "sh",
            "-c",
            &script,
        ])?);
    }
    for daemon in &daemons {
        daemon.wait_for_line(SOON, |line| line.contains("successfully established"))?;
    }
    for container in &containers {
        for family in ["IPv4", "IPv6"] {
            let mut found = String::new();
            let all = wait_until("all services to be found", SOON, || {
                found =
                    container.sh("avahi-browse --parsable --resolve --terminate _shoutlab._tcp")?;
                let are_found = hosts.iter().all(|host| {
                    let start = format!("=;eth0;{family};{};", host.name());
                    found.lines().any(|line| line.starts_with(&start))
                });
                Ok(are_found.then_some(()))
            });
            all.with_context(|| format!("{family}, on {}: {found}", container.host.name()))?;
        }
    }
    Ok(())
}
