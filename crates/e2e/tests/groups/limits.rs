//! What the options of a network allow, and what each container may send.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use anyhow::{Result, ensure};
use shoutd_lab::wait_until;

use shoutd_e2e::{Cluster, Container, GroupSocket, Network, SOON, Sources, await_listeners};

/// A group, and the UDP port of all datagrams.
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 8, 8, 8);
const PORT: u16 = 6161;

/// Multicast and broadcast packets that each container may send, in a second and at once.
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

/// Of many more in an instant than it may send most are dropped, on the sender's host, be they
/// multicast or broadcast. Unicast is not, nor what another container there sends.
pub fn max_rate(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let options = [&format!("--opt=shoutd.max-rate={RATE}"), "--opt=shoutd.mac-moves=off"];
    let network = Network::create(cluster, &hosts[0], "foo", &options)?;
    let (storming, modest) =
        (Container::start(&hosts[0], "foo", &[])?, Container::start(&hosts[0], "foo", &[])?);
    let receiver = Container::start(&hosts[1], "foo", &[])?;
    let listening = GroupSocket::open(&receiver, true, PORT)?;
    listening.join(GROUP.into(), Sources::All)?;
    await_listeners(&hosts[0], &GROUP.to_string(), &[&hosts[1]])?;
    let (own, other) = (storming.address("foo")?, receiver.address("foo")?);
    // They know each other's MAC addresses from now on: what asks for these is broadcast.
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
        let mut heard: Vec<(IpAddr, Vec<u8>)> = Vec::new();
        wait_until("unicast to be heard", SOON, || {
            heard.extend(listening.heard()?);
            Ok(heard.iter().any(|(_, text)| text == b"last").then_some(()))
        })?;
        let took = begin.elapsed();
        let count =
            |what: &[u8]| u32::try_from(heard.iter().filter(|(_, text)| text == what).count());
        // One more than that, as a part of a packet counts as a whole one.
        let (passed, allowed) = (count(b"storm")?, BURST + RATE * took.as_secs_f64() + 1.0);
        ensure!(
            f64::from(passed) <= allowed,
            "of 1000 datagrams to {to} in {took:?} {passed} passed"
        );
        ensure!(passed > 0 || to != GROUP, "no datagram to {to} passed");
        ensure!(
            count(b"calm")? == 4,
            "of the other container's 4 datagrams to {to} {} passed",
            count(b"calm")?
        );
    }
    drop((storming, modest, receiver));
    network.remove_on(&hosts[2])
}
