//! Options of a network, and the rate limit of each container.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use anyhow::{Result, ensure};
use shoutd_e2e::{Cluster, Container, GroupSocket, Network, SOON, Sources, await_members};
use shoutd_lab::wait_until;

/// A group, and the UDP port of all datagrams.
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 8, 8, 8);
const PORT: u16 = 6161;

/// Multicast and broadcast packets that each container may send, per second and in a burst.
const RATE: f64 = 50.0;
const BURST: f64 = 10.0;

pub fn options(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    for (option, words) in [
        ("shoutd.max-rat=5", ["shoutd.max-rat;", "shoutd.max-rate"]),
        ("shoutd.max-rate=much", ["much", "packets per second"]),
        ("shoutd.mac-moves=perhaps", ["perhaps", "on or off"]),
    ] {
        let output = hosts[0]
            .run(["docker", "network", "create", "--driver", "shoutd", "--opt", option, "foo"])?;
        let is_told = words.iter().all(|word| output.stderr.contains(word));
        ensure!(!output.success() && is_told, "{option} is not refused with {words:?}: {output}");
    }
    Ok(())
}

/// A burst far beyond the limit is mostly dropped on the sender's host, multicast and broadcast
/// alike. Unicast is not dropped, nor are packets of another container there.
pub fn max_rate(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let options = [&format!("--opt=shoutd.max-rate={RATE}"), "--opt=shoutd.mac-moves=off"];
    let network = Network::create(cluster, &hosts[0], "foo", &options)?;
    let (storming, modest) =
        (Container::start(&hosts[0], "foo", &[])?, Container::start(&hosts[0], "foo", &[])?);
    let receiver = Container::start(&hosts[1], "foo", &[])?;
    let receiving = GroupSocket::open(&receiver, true, PORT)?;
    receiving.join(GROUP.into(), Sources::All)?;
    await_members(&hosts[0], &GROUP.to_string(), &[&hosts[1]])?;
    let (own, other) = (storming.address("foo")?, receiver.address("foo")?);
    // They learn each other's MAC addresses now, since ARP requests are broadcast.
    for (one, another) in [(&storming, other), (&receiver, own)] {
        one.ping(&another.to_string())?;
    }
    let [storm, calm] =
        [GroupSocket::open(&storming, true, 0)?, GroupSocket::open(&modest, true, 0)?];
    for to in [GROUP, network.broadcast()?] {
        let begin = Instant::now();
        for number in 0..1000 {
            storm.send((to, PORT), b"storm")?;
            if number % 250 == 0 {
                calm.send((to, PORT), b"calm")?;
            }
        }
        storm.send((other, PORT), b"last")?;
        let mut received: Vec<(IpAddr, Vec<u8>)> = Vec::new();
        wait_until("unicast to be received", SOON, || {
            received.extend(receiving.received()?);
            Ok(received.iter().any(|(_, text)| text == b"last").then_some(()))
        })?;
        let took = begin.elapsed();
        let (passed, of_other) = (count(&received, b"storm")?, count(&received, b"calm")?);
        // One more, because a part of a packet counts as a whole one.
        let allowed = BURST + RATE * took.as_secs_f64() + 1.0;
        ensure!(
            f64::from(passed) <= allowed,
            "of 1000 datagrams to {to} in {took:?} {passed} passed"
        );
        ensure!(passed > 0 || to != GROUP, "no datagram to {to} passed");
        ensure!(of_other == 4, "of the other container's 4 datagrams to {to} {of_other} passed");
    }
    drop((storming, modest, receiver));
    network.remove_on(&hosts[2])
}

/// How many of the received datagrams have this text.
fn count(received: &[(IpAddr, Vec<u8>)], text: &[u8]) -> Result<u32> {
    Ok(received.iter().filter(|(_, other)| other == text).count().try_into()?)
}
