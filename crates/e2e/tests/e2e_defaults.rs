//! Programs that are told neither an interface nor an address: their own defaults find the network.

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use shoutd_e2e::{Cluster, Container, Network, SOON, run_checks};
use shoutd_lab::{Host, Process, wait_until};

/// Gives a container the machine's own programs and libraries.
const WITH_PROGRAMS: [&str; 6] = [
    "--volume=/usr/lib:/usr/lib:ro",
    "--volume=/usr/share:/usr/share:ro",
    "--volume=/etc:/machine:ro",
    "--volume=/usr/bin/python3:/usr/bin/python3:ro",
    "--volume=/usr/bin/gssdp-discover:/usr/bin/gssdp-discover:ro",
    "--volume=/usr/bin/ddsperf:/usr/bin/ddsperf:ro",
];

fn main() -> ExitCode {
    run_checks(
        || {
            let cluster = Cluster::up("defaults", 3)?;
            cluster.form([1, 2, 3])?;
            Ok(cluster)
        },
        &[
            ("JGroups finds its members", jgroups),
            ("SSDP: GSSDP discovers, and is heard", gssdp),
            ("DDS: Cyclone finds its peers", cyclone),
            ("C and Python list the network first, and send by it", first_listed),
        ],
    )
}

/// Starts a container with Debian's programs on each host.
fn start(hosts: &[Host]) -> Result<Vec<Container>> {
    hosts.iter().map(|host| Container::start(host, "foo", &WITH_PROGRAMS)).collect()
}

/// Its stack is that of the default, UDP. Java looks for its configuration in `/etc`.
fn jgroups(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let _network = Network::create(cluster, &hosts[0], "foo", &[])?;
    let containers = start(&hosts)?;
    let mut members: Vec<Process> = Vec::new();
    for container in &containers {
        container.sh("for java in /machine/java-*; do ln -s $java /etc/; done")?;
        let java = container.sh("ls /usr/lib/jvm/*/bin/java | head -n 1")?;
        let member = container.spawn(&format!(
            "{} -Djava.net.preferIPv4Stack=true -cp /usr/share/java/jgroups.jar \
             org.jgroups.demos.ViewDemo",
            java.trim()
        ))?;
        let address = format!("physical address={}:", container.address("foo")?);
        member
            .wait_for_line(SOON, |line| line.contains("physical address="))
            .and_then(|line| {
                ensure!(line.contains(&address), "{line:?} instead of {address}");
                Ok(())
            })
            .with_context(|| format!("on {}", container.host.name()))?;
        members.push(member);
    }
    for (member, container) in members.iter().zip(&containers) {
        let is_whole =
            |line: &str| line.starts_with("** New view") && line.matches(", ").count() == 2;
        member
            .wait_for_line(SOON, is_whole)
            .with_context(|| format!("a view of three on {}", container.host.name()))?;
    }
    Ok(())
}

/// UPnP's discovery: `M-SEARCH` to 239.255.255.250, and announcements to the same group.
fn gssdp(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let _network = Network::create(cluster, &hosts[0], "foo", &[])?;
    let containers = start(&hosts)?;
    for (seeker, device) in containers.iter().zip(containers.iter().cycle().skip(1)) {
        let searched = device.spawn(
            "socat -d -d -u UDP4-RECV:1900,reuseaddr,ip-add-membership=239.255.255.250:eth0 -",
        )?;
        searched.wait_for_line(SOON, |line| line.contains("starting data transfer"))?;
        let seeking = seeker.spawn("gssdp-discover --rescan-interval=1")?;
        searched
            .wait_for_line(SOON, |line| line.starts_with("M-SEARCH"))
            .with_context(|| format!("a search from {}", seeker.host.name()))?;
        let notice = "NOTIFY * HTTP/1.1\\r\\nHOST: 239.255.255.250:1900\\r\\nCACHE-CONTROL: \
                      max-age=60\\r\\nLOCATION: http://lab/\\r\\nNT: urn:lab:device\\r\\nNTS: \
                      ssdp:alive\\r\\nUSN: uuid:lab::urn:lab:device\\r\\n\\r\\n";
        let announce = format!("printf '{notice}' | socat -u - UDP4-DATAGRAM:239.255.255.250:1900");
        let is_found = || seeking.printed().0.contains("uuid:lab::urn:lab:device");
        wait_until("the device to be found", SOON, || {
            device.sh(&announce)?;
            Ok(is_found().then_some(()))
        })
        .with_context(|| format!("on {}: {:?}", seeker.host.name(), seeking.printed()))?;
    }
    Ok(())
}

fn cyclone(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let _network = Network::create(cluster, &hosts[0], "foo", &[])?;
    let containers = start(&hosts)?;
    let pongs = containers.iter().map(|container| container.spawn("ddsperf pong"));
    let _pongs = pongs.collect::<Result<Vec<_>>>()?;
    for container in &containers {
        let ping = container.spawn("ddsperf ping")?;
        for peer in &containers {
            let name = peer.sh("hostname")?;
            let answer = format!(" {}:", name.trim());
            ping.wait_for_line(SOON, |line| line.contains(&answer) && line.contains(" mean "))
                .with_context(|| format!("{} on {}", peer.name, container.host.name()))?;
        }
    }
    Ok(())
}

/// Prints the first interface that is not loopback, and the address from which it sends to a group.
const IN_PYTHON: &str = "
import socket
names = [name for _, name in socket.if_nameindex() if name != 'lo']
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
out.connect(('224.1.1.1', 5000))
print(names[0], out.getsockname()[0])
";
const IN_C: &str = r#"
#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <stdio.h>
int main(void) {
    struct ifaddrs *all, *one;
    if (getifaddrs(&all)) return 1;
    for (one = all; one && ((one->ifa_flags & IFF_LOOPBACK) || !one->ifa_addr ||
         one->ifa_addr->sa_family != AF_INET);) one = one->ifa_next;
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(5000)}, from;
    socklen_t length = sizeof from;
    inet_aton("224.1.1.1", &to.sin_addr);
    int out = socket(AF_INET, SOCK_DGRAM, 0);
    if (!one || connect(out, (void *)&to, sizeof to)) return 2;
    getsockname(out, (void *)&from, &length);
    printf("%s %s\n", one->ifa_name, inet_ntoa(from.sin_addr));
}
"#;

fn first_listed(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let _network = Network::create(cluster, &hosts[0], "foo", &[])?;
    for publish in ["--publish=8080:80", "--label=without"] {
        let options: Vec<&str> = WITH_PROGRAMS.iter().copied().chain([publish]).collect();
        let container = Container::start(&hosts[1], "foo", &options)?;
        let file = |name: &str| format!("/tmp/{}-{name}", container.name);
        container.host.sh(&format!(
            "cat > {0} <<'END'\n{IN_C}END\ncat > {1} <<'END'\n{IN_PYTHON}END\ncc -o {2} {0}",
            file("list.c"),
            file("list.py"),
            file("list")
        ))?;
        for name in ["list", "list.py"] {
            let to = format!("{}:/tmp/{name}", container.name);
            container.host.docker(["cp", &file(name), &to])?;
        }
        let wanted = format!("eth0 {}", container.address("foo")?);
        for program in ["/tmp/list", "python3 /tmp/list.py"] {
            let listed = container.sh(program)?;
            ensure!(listed.trim() == wanted, "{program} {publish}: {listed} instead of {wanted}");
        }
    }
    Ok(())
}
