//! One cluster of hosts with engines of different versions: host1 has the machine's, host2 and
//! host3 have a newer one.

use std::process::ExitCode;

use anyhow::{Result, bail, ensure};
use shoutd_e2e::{Cluster, Container, Network, Stream, one_on_each, run_checks};

fn main() -> ExitCode {
    run_checks(
        || {
            let cluster = Cluster::up_mixed("engines", 3)?;
            cluster.form([1, 2, 3])?;
            Ok(cluster)
        },
        &[
            ("the engines are of different versions", versions),
            ("the four lines, created by the older engine", |cluster| {
                four_lines(cluster, [1, 2, 3])
            }),
            ("the four lines, created by the newer engine", |cluster| {
                four_lines(cluster, [2, 1, 3])
            }),
            ("the older engine is stopped and started", |cluster| engine_restarted(cluster, 1)),
            ("the newer engine is stopped and started", |cluster| engine_restarted(cluster, 2)),
        ],
    )
}

fn versions(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let format = "{{.Client.Version}} {{.Server.Version}}";
    let versions = hosts
        .iter()
        .map(|host| host.docker(["version", "--format", format]))
        .collect::<Result<Vec<_>>>()?;
    let [first, second, third] = versions.as_slice() else { bail!("three versions") };
    ensure!(second == third && first != second, "the hosts have {versions:?}");
    println!("host1 has {first}, host2 and host3 have {second}");
    Ok(())
}

/// The README's four lines. The network is created on the first of these hosts and removed on the
/// second. Every host sends.
fn four_lines(cluster: &mut Cluster, order: [u8; 3]) -> Result<()> {
    let hosts = order.map(|number| cluster.host(number)).into_iter().collect::<Result<Vec<_>>>()?;
    let network = Network::create(cluster, &hosts[0], "foo", &[])?;
    let containers = one_on_each(&hosts, "foo", &[])?;
    for sender in &containers {
        let receivers: Vec<_> =
            containers.iter().filter(|container| container.name != sender.name).collect();
        Stream::default().send(sender, &receivers, 1)?;
    }
    drop(containers);
    network.remove_on(&hosts[1])
}

/// The containers of an engine stop with it; when it is back, the network and the containers are
/// there again.
fn engine_restarted(cluster: &mut Cluster, number: u8) -> Result<()> {
    let (host, other) = (cluster.host(number)?, cluster.host(3)?);
    let _network = Network::create(cluster, &host, "foo", &[])?;
    let here = Container::start(&host, "foo", &[])?;
    let there = Container::start(&other, "foo", &[])?;
    let before = here.address("foo")?;
    host.stop_engine()?;
    host.start_engine()?;
    here.start_again()?;
    ensure!(
        here.address("foo")? == before,
        "its address was {before} and is {}",
        here.address("foo")?
    );
    Stream::default().send(&there, &[&here], 1)?;
    Stream::default().send(&here, &[&there], 1)
}
