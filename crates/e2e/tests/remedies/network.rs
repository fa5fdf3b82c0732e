//! Networks, their options and addresses.

use anyhow::{Context, Result, ensure};
use shoutd_e2e::{Cluster, Container, Network, SOON, await_network, await_no_network};
use shoutd_lab::wait_until;

use super::{
    after, await_hosts, await_no_problem, await_problem, ensure_done, formed, network_on, refused,
    remove_data,
};

pub fn mtu(cluster: &mut Cluster) -> Result<()> {
    let [host, ..] = formed(cluster, 1)?;
    let option = "com.docker.network.driver.mtu";
    let network =
        Network::create_here(cluster, &host, "large", &["--opt", &format!("{option}=8000")])?;
    let container = Container::start(&host, "large", &[])?;
    await_problem(&host, "Increase the MTU of the underlay")?;
    host.sh("ip link set eth0 mtu 9000")?;
    await_no_problem(&host, "Increase the MTU")?;
    host.sh("ip link set eth0 mtu 1500")?;
    await_problem(&host, "create the network again with a smaller")?;
    container.remove()?;
    network.remove_on(&host)?;
    for options in [vec!["--opt".to_owned(), format!("{option}=1400")], vec![]] {
        let options: Vec<_> = options.iter().map(String::as_str).collect();
        let network = Network::create_here(cluster, &host, "large", &options)?;
        let container = Container::start(&host, "large", &[])?;
        await_no_problem(&host, "Increase the MTU")?;
        container.remove()?;
        network.remove_on(&host)?;
    }
    Ok(())
}

/// It has a name that shoutd needs: it is renamed, or deleted.
pub fn foreign_device(cluster: &mut Cluster) -> Result<()> {
    let [host, ..] = formed(cluster, 1)?;
    for mend in ["set shoutbr0 name other", "del shoutbr0"] {
        let network = Network::create_here(cluster, &host, "foo", &[])?;
        let segment = network.segment_name()?;
        // The namespace must not have the name before it has the device: shoutd removes an empty
        // one.
        host.sh(&format!(
            "ip netns add foreign && ip -n foreign link add shoutbr0 type bridge && touch \
             /run/netns/{segment} && mount --bind /run/netns/foreign /run/netns/{segment} && ip \
             netns delete foreign"
        ))?;
        let (refused, output) = Container::try_start(&host, "foo", &[])?;
        let said =
            format!("device shoutbr0 in namespace {segment} is not shoutd's: rename or delete it");
        ensure!(!output.success() && output.stderr.contains(&said), "{output}");
        refused.remove()?;
        host.sh(&format!("ip -n {segment} link {mend}"))?;
        let container = Container::start(&host, "foo", &[]).with_context(|| mend.to_owned())?;
        container.ping(&container.address("foo")?.to_string())?;
        container.remove()?;
        host.sh(&format!("ip -n {segment} link del other 2>/dev/null || true"))?;
        network.remove_on(&host)?;
    }
    Ok(())
}

/// What is refused at creation, what the refusal advises, and the options that follow the advice.
const REFUSED: [[&str; 3]; 11] = [
    ["--opt com.docker.network.bridge.enable_icc=false", "leave it out", ""],
    ["--opt com.docker.network.bridge.host_binding_ipv4=127.0.0.1", "leave it out", ""],
    ["--opt com.docker.network.bridge.enable_ip_masquerade=false", "use --internal", "--internal"],
    ["--opt com.docker.network.bridge.gateway_mode_ipv4=routed", "use --internal", "--internal"],
    ["--opt com.docker.network.host_ipv4=10.77.0.1", "leave it out", ""],
    ["--opt com.docker.network.bridge.name=br0", "leave it out", ""],
    ["--opt parent=eth0", "leave it out", ""],
    [
        "--opt com.docker.network.driver.mtu=70000",
        "give a number from 1280 to 65535",
        "--opt com.docker.network.driver.mtu=1280",
    ],
    ["--opt shoutd.names=some", "give ", "--opt shoutd.names=all"],
    ["--opt shoutd.mac-moves=maybe", "give ", "--opt shoutd.mac-moves=off"],
    ["--opt shoutd.max-rate=much", "give ", "--opt shoutd.max-rate=1000"],
];

pub fn refused_options(cluster: &mut Cluster) -> Result<()> {
    let [host, ..] = formed(cluster, 1)?;
    for [options, advice, instead] in REFUSED {
        let [create, create_instead] = [options, instead]
            .map(|options| format!("docker network create --driver shoutd {options} foo"));
        refused(&host, &create, &[advice])?;
        host.sh(&create_instead)
            .with_context(|| format!("{instead:?} in the place of {options}"))?;
        host.docker(["network", "rm", "foo"])?;
        await_no_network(&host, "foo")?;
    }
    // An IPv6 pool that shoutd would have to choose.
    let ask = r#"{"AddressSpace":"local","Pool":"","SubPool":"","Options":{},"V6":true}"#;
    let post = format!(
        "printf 'POST /IpamDriver.RequestPool HTTP/1.1\r\nHost: x\r\nConnection: \
         close\r\nContent-Length: {}\r\n\r\n{ask}' |
            socat -T 2 -t 0.1 -,ignoreeof UNIX-CONNECT:/run/docker/plugins/shoutd.sock",
        ask.len()
    );
    let said = host.sh(&post)?;
    ensure!(said.contains("--ipv6 --subnet <subnet>"), "{said}");
    let six =
        "docker network create --driver shoutd --ipam-driver shoutd --ipv6 --subnet fd44::/64";
    host.sh(&format!("{six} foo && docker network rm foo"))?;
    // No subnet is free, as the host has routes everywhere.
    let pools = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"];
    pools
        .iter()
        .try_for_each(|pool| host.sh(&format!("ip route add {pool} dev lo")).map(|_| ()))?;
    let create = "docker network create --driver shoutd --ipam-driver shoutd";
    let mut said = String::new();
    wait_until("the routes to be known", SOON, || {
        let output = host.run(["sh", "-c", &format!("{create} full")])?;
        if output.success() {
            host.docker(["network", "rm", "full"])?;
            return Ok(None);
        }
        said = output.stderr;
        Ok(Some(()))
    })?;
    ensure!(
        said.contains("no subnet is free on every host; choose one: --subnet <subnet>"),
        "{said}"
    );
    host.sh(&format!("{create} --subnet 198.18.0.0/24 full && docker network rm full"))?;
    pools.iter().try_for_each(|pool| host.sh(&format!("ip route del {pool} dev lo")).map(|_| ()))
}

/// Addresses that are another container's: "choose another one", "give another one, or none".
pub fn addresses(cluster: &mut Cluster) -> Result<()> {
    let [first, second, _] = formed(cluster, 2)?;
    let network = network_on(cluster, &[&first, &second], &["--subnet", "10.44.0.0/24"])?;
    let mac = "--mac-address=02:42:0a:2c:00:63";
    let holder = Container::start(&first, "foo", &["--ip", "10.44.0.99", mac])?;
    let (none, output) = Container::try_start(&second, "foo", &["--ip", "10.44.0.99"])?;
    ensure!(output.stderr.contains("choose another one with --ip"), "{output}");
    none.remove()?;
    let (other, output) = Container::try_start(&second, "foo", &["--ip", "10.44.0.98"])?;
    ensure_done(&output)?;
    other.ping("10.44.0.99")?;
    let mut said = String::new();
    wait_until("the MAC address to be known as taken", SOON, || {
        let (none, output) = Container::try_start(&second, "foo", &[mac])?;
        none.remove()?;
        said = output.stderr.clone();
        Ok((!output.success()).then_some(()))
    })?;
    ensure!(said.contains("give another one, or none"), "{said}");
    for options in [&["--mac-address=02:42:0a:2c:00:64"][..], &[]] {
        let (another, output) = Container::try_start(&second, "foo", options)?;
        ensure_done(&output)?;
        another.ping("10.44.0.99")?;
    }
    drop((holder, other));
    // A full subnet, where Docker chooses: a larger one, or shoutd's IPAM.
    let small = Network::create_here(cluster, &first, "small", &["--subnet", "10.45.0.0/29"])?;
    await_network(&second, "small")?;
    let all =
        (0..5).map(|_| Container::start(&second, "small", &[])).collect::<Result<Vec<_>>>()?;
    let (none, output) = Container::try_start(&first, "small", &[])?;
    let words = "remove containers, or create a network with a larger subnet";
    ensure!(output.stderr.contains(words), "{output}");
    none.remove()?;
    let larger = Network::create_here(cluster, &first, "larger", &["--subnet", "10.46.0.0/28"])?;
    drop(Container::start(&first, "larger", &[])?);
    drop(all);
    wait_until("an address that was freed", SOON, || {
        let (container, output) = Container::try_start(&first, "small", &[])?;
        container.remove()?;
        Ok(output.success().then_some(()))
    })?;
    [network, small, larger].into_iter().try_for_each(|network| network.remove_on(&second))
}

/// A removal waits for a host that will not come back, until that is removed.
pub fn removal(cluster: &mut Cluster) -> Result<()> {
    let [first, second, third] = formed(cluster, 3)?;
    let network = Network::create(cluster, &first, "foo", &["--ipam-driver", "shoutd"])?;
    // It keeps addresses in stock.
    Container::start(&third, "foo", &[])?.remove()?;
    third.kill_shoutd()?;
    let said = refused(
        &first,
        "shoutdctl network rm --timeout 5 foo",
        &["the removal of network foo waits for host3"],
    )?;
    ensure!(after(&said, "or are removed with:")? == "shoutdctl remove <host>", "{said}");
    first.sh("shoutdctl remove host3")?;
    for host in [&first, &second] {
        await_no_network(host, "foo")?;
    }
    await_hosts(&first, 2)?;
    third.sh(&remove_data())?;
    cluster.join(&third, &first)?;
    drop(network);
    Ok(())
}
