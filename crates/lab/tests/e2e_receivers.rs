//! Receivers as the protocols' older versions have them, several on one host, and their end.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests say what they expect by failing")]

mod common;

use anyhow::{Context, Result, ensure};
use common::{Cluster, Container, Datagrams, Network, SOON, Stream, WITH_IPV6, await_listeners, listen, run_checks};
use shoutd_lab::wait_until;

#[test]
fn receivers_are_known_while_they_listen() {
    let mut cluster = Cluster::up("receivers", 3).unwrap();
    cluster.form([1, 2, 3]).unwrap();
    run_checks(
        &mut cluster,
        &[
            ("receivers that know IGMPv1 and MLDv1", |cluster| older_versions(cluster, 1)),
            ("receivers that know IGMPv2 and MLDv1", |cluster| older_versions(cluster, 2)),
            ("each multicast route of a container is one network's", routes),
            ("one of two receivers on a host leaves, the other is killed", two_on_a_host),
            ("a receiver that only answers queries is served for several lifetimes", lifetimes),
        ],
    );
}

/// RFC 1112 or RFC 2236, and RFC 2710: they are heard of on other hosts, hear what is sent, and are forgotten with their container.
fn older_versions(cluster: &mut Cluster, igmp: u8) -> Result<()> {
    let [first, second, _] = cluster.three()?;
    let _network = Network::create(cluster, &first, "foo", &[])?;
    let sender = Container::start(&first, "foo", &[WITH_IPV6])?;
    let igmp = format!("--sysctl=net.ipv4.conf.all.force_igmp_version={igmp}");
    let options = [WITH_IPV6, &igmp, "--sysctl=net.ipv6.conf.all.force_mld_version=1"];
    let receiver = Container::start(&second, "foo", &options)?;
    for (group, receive, send) in [
        (
            "239.7.7.7",
            "UDP4-RECV:6091,ip-add-membership=239.7.7.7:shout0",
            "UDP4-DATAGRAM:239.7.7.7:6091,ip-multicast-ttl=4",
        ),
        (
            "ff15::7:7",
            "UDP6-RECV:6092,ipv6-join-group=[ff15::7:7]:shout0",
            "UDP6-DATAGRAM:[ff15::7:7]:6092,so-bindtodevice=shout0",
        ),
    ] {
        let datagrams = Datagrams { receive: receive.to_owned(), send: send.to_owned() };
        let listening = listen(&receiver, &datagrams)?;
        await_listeners(&first, group, &[&second])?;
        sender.sh(&format!("echo heard | socat -u - {send}"))?;
        wait_until("the datagram to be heard", SOON, || Ok(listening.printed().0.contains("heard").then_some(())))
            .context(group)?;
    }
    second.docker(["kill", &receiver.name])?;
    await_listeners(&first, "239.7.7.7", &[])?;
    await_listeners(&first, "ff15::7:7", &[])
}

/// A container on three networks, and on `bridge`: of what it sends, each network has what it is for; what a network that it leaves had goes to one that is for it, too.
fn routes(cluster: &mut Cluster) -> Result<()> {
    let [first, second, third] = cluster.three()?;
    let option = |value: &str| format!("--opt=shoutd.multicast-route={value}");
    let _all = Network::create(cluster, &first, "all", &["--subnet=10.41.0.0/24"])?;
    let _some = Network::create(cluster, &second, "some", &["--subnet=10.42.0.0/24", &option("239.0.0.0/8")])?;
    let _quiet = Network::create(cluster, &third, "quiet", &["--subnet=10.43.0.0/24", &option("off")])?;
    let sender = Container::start(&first, "quiet", &[])?;
    let routes = || -> Result<Vec<String>> {
        let shown = sender.sh("ip -4 route show")?;
        let multicast = shown.lines().filter(|line| line.starts_with("224.") || line.starts_with("239."));
        Ok(multicast.filter_map(|line| line.split_once(' ')).map(|(destination, _)| destination.to_owned()).collect())
    };
    ensure!(routes()?.is_empty(), "{:?}", routes()?);
    let docker = |action: &str, network: &str| first.docker(["network", action, network, &sender.name]).map(drop);
    ["some", "bridge", "all"].into_iter().try_for_each(|network| docker("connect", network))?;
    ensure!(routes()? == ["224.0.0.0/4", "239.0.0.0/8"], "{:?}", routes()?);

    let on_all = Container::start(&second, "all", &[])?;
    let on_some = Container::start(&third, "some", &[])?;
    hears(&sender, &on_all, "225.7.7.7")?;
    hears(&sender, &on_some, "239.7.7.7")?;

    docker("disconnect", "some")?;
    hears(&sender, &on_all, "239.7.7.8")?;
    docker("connect", "some")?;
    docker("disconnect", "all")?;
    hears(&sender, &on_some, "239.7.7.9")?;
    // The network that is for no multicast takes none, though no other is left for it.
    ensure!(routes()? == ["239.0.0.0/8"], "{:?}", routes()?);
    let refused = first.run(["docker", "network", "create", "--driver=shoutd", &option("10.0.0.0/8"), "no"])?;
    ensure!(!refused.success() && refused.stderr.contains("IPv4 multicast prefixes"), "{refused}");
    Ok(())
}

/// Whether one hears what the other sends to this group without naming an interface.
fn hears(sender: &Container, receiver: &Container, group: &str) -> Result<()> {
    let receive = format!("UDP4-RECV:6093,reuseaddr,ip-add-membership={group}:shout0");
    let listening = listen(receiver, &Datagrams { receive, send: String::new() })?;
    wait_until("the datagram to be heard", SOON, || {
        sender.sh(&format!("echo heard | socat -u - UDP4-DATAGRAM:{group}:6093,ip-multicast-ttl=4"))?;
        Ok(listening.printed().0.contains("heard").then_some(()))
    })
    .with_context(|| format!("from {} to {}, {group}", sender.name, receiver.name))
}

fn two_on_a_host(cluster: &mut Cluster) -> Result<()> {
    let [first, second, _] = cluster.three()?;
    let _network = Network::create(cluster, &first, "foo", &[])?;
    let sender = Container::start(&first, "foo", &[])?;
    let (staying, leaving) = (Container::start(&second, "foo", &[])?, Container::start(&second, "foo", &[])?);
    let stream = Stream::default().begin(&sender, &[&staying])?;
    let other = leaving.spawn("socat -u UDP4-RECV:5000,ip-add-membership=224.1.1.1:shout0 OPEN:/dev/null")?;
    // 224.1.1.1, as the kernel lists it; little endian.
    wait_until("the other to join", SOON, || Ok(leaving.sh("cat /proc/net/igmp")?.contains("010101E0").then_some(())))?;
    leaving.sh("killall socat")?;
    drop(other);
    // More than the second that the bridge's last-member queries take, and the host is still one that listens.
    stream.await_more(400)?;
    await_listeners(&first, "224.1.1.1", &[&second])?;
    stream.finish()?;
    let _listening = staying.spawn("socat -u UDP4-RECV:5000,ip-add-membership=224.1.1.1:shout0 OPEN:/dev/null")?;
    await_listeners(&first, "224.1.1.1", &[&second])?;
    second.docker(["kill", &staying.name])?;
    await_listeners(&first, "224.1.1.1", &[])
}

/// With the bridges' timers a fiftieth of RFC 3376's: a query every 2 s, and a membership that is not renewed ends after 5 s.
fn lifetimes(cluster: &mut Cluster) -> Result<()> {
    let [first, second, _] = cluster.three()?;
    let network = Network::create(cluster, &first, "foo", &[])?;
    let (sender, receiver) = (Container::start(&first, "foo", &[])?, Container::start(&second, "foo", &[])?);
    let segment = network.segment_name()?;
    // Querying anew makes the bridge use the interval at once, and not after the one that has begun.
    second.sh(&format!(
        "ip -netns {segment} link set shoutbr0 type bridge mcast_query_interval 200 mcast_startup_query_interval 200 \
         mcast_query_response_interval 100 mcast_membership_interval 500 mcast_querier 0 && \
         ip -netns {segment} link set shoutbr0 type bridge mcast_querier 1"
    ))?;
    let stream = Stream::default().begin(&sender, &[&receiver])?;
    wait_until("the membership to have a short life", SOON, || {
        let listed = second.sh(&format!("bridge -netns {segment} -statistics mdb show"))?;
        let left = listed
            .lines()
            .filter(|line| line.contains("grp 224.1.1.1 "))
            .filter_map(|line| line.split_whitespace().next_back()?.parse::<f32>().ok());
        Ok(left.into_iter().any(|seconds| seconds <= 5.0).then_some(()))
    })?;
    // 89 datagrams a second: more than three lives.
    for _ in 0..5 {
        stream.await_more(300)?;
    }
    let settings = second.sh(&format!("ip -netns {segment} -details link show shoutbr0"))?;
    ensure!(settings.contains("mcast_membership_interval 500 "), "shoutd changed the interval: {settings}");
    stream.finish()
}
