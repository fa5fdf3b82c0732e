//! FRR's pim6d, which routes IPv6 multicast and learns by MLD. Debian has it from release 13 on.

use std::net::Ipv6Addr;

use anyhow::{Context, Result};
use shoutd_e2e::{Cluster, Container};
use shoutd_lab::{Process, newer_frr};

use crate::setup::{Group, Routed, SUBNETS_WITH_IPV6};

const GROUP: Ipv6Addr = Ipv6Addr::new(0xff15, 0, 0, 0, 0, 0, 0x131, 3);

/// A forwarding host is in the all-routers group, to which MLDv1 sends Done messages (RFC 2710,
/// section 5).
const AS_ROUTER: [&str; 3] =
    ["--cap-add=NET_ADMIN", "--cap-add=SYS_ADMIN", "--sysctl=net.ipv6.conf.all.forwarding=1"];

/// Checks that the router forwards while a container on another host is a member, and no longer.
pub fn pim6(cluster: &mut Cluster) -> Result<()> {
    let [first, _, third] = cluster.three()?;
    let root = newer_frr()?;
    // Its loader and libraries are those of its release.
    let volumes = ["/usr/lib", "/usr/lib64", "/usr/share/yang"]
        .map(|path| format!("--volume={}{path}:{path}:ro", root.display()));
    let [libraries, loader, models] = volumes.each_ref().map(String::as_str);
    let options = [&AS_ROUTER[..], &[libraries, loader, models]].concat();
    let routed = Routed::start(cluster, SUBNETS_WITH_IPV6, &options)?;
    let receivers = [Container::start(&third, "to", &[])?, Container::start(&first, "to", &[])?];
    // socat has no name for the hop limit of IPv6 multicast (`IPPROTO_IPV6`,
    // `IPV6_MULTICAST_HOPS`), so the option is numeric.
    let hops = "so-bindtodevice=eth0,setsockopt-int=41:18:8";
    let group = Group {
        send: format!("UDP6-DATAGRAM:[{GROUP}]:6114,{hops}"),
        receive: format!("UDP6-RECV:6114,ipv6-join-group=[{GROUP}]:eth0"),
        routes: "/proc/net/ip6_mr_cache",
        // With all its zeros.
        shown: GROUP.segments().map(|segment| format!("{segment:04x}")).join(":"),
    };
    for (version, receivers) in [(2, &receivers[..]), (1, &receivers[..1])] {
        let routing = start(&routed.router, version)?;
        for receiver in receivers {
            routed.ensure_comes_and_goes(receiver, &group).with_context(|| {
                let printed: String = routing.iter().map(|process| process.printed().1).collect();
                format!("MLDv{version}, {}: {printed}", receiver.host.name())
            })?;
        }
        routed.router.sh("killall pim6d zebra 2>/dev/null; rm -f /tmp/*.pid /tmp/*.api; true")?;
    }
    Ok(())
}

/// Starts pim6d, which is the rendezvous point itself and queries every 8 s instead of every 125 s.
fn start(router: &Container, version: u8) -> Result<Vec<Process>> {
    let address =
        router.inspect("{{(index .NetworkSettings.Networks \"from\").GlobalIPv6Address}}")?;
    // In tenths of a second. It has to be less than the interval, and to come first.
    let times = "ipv6 mld query-max-response-time 30\\n ipv6 mld query-interval 8\\n";
    let lines = format!("ipv6 pim\\n ipv6 mld\\n ipv6 mld version {version}\\n {times}");
    let point = format!("router pim6\\n rp {address} ff00::/8\\nexit");
    let interfaces =
        ["eth0", "eth1"].map(|name| format!("interface {name}\\n {lines}exit\\n")).concat();
    let config = format!("{point}\\n{interfaces}");
    router.sh(&format!(
        "grep -q frrvty /etc/group || echo frrvty:x:9999:root >> /etc/group; mkdir -p \
         /var/tmp/frr /var/run/frr /var/lib/frr; printf '{config}' > /tmp/pim6d.conf"
    ))?;
    let options = "-u root -g root -z /tmp/zserv.api --vty_socket /tmp --log stdout";
    Ok(vec![
        router.spawn(&format!("/usr/lib/frr/zebra {options} -i /tmp/zebra.pid"))?,
        router
            .spawn(&format!("/usr/lib/frr/pim6d {options} -i /tmp/pim6d.pid -f /tmp/pim6d.conf"))?,
    ])
}
