//! Who belongs to which cluster: leaving, joining, tokens, addresses.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use shoutd_e2e::{Cluster, Container, Network, SOON, await_network, status, view};
use shoutd_lab::{Host, wait_until};

use super::{
    after, await_hosts, await_no_problem, await_problem, ensure_done, forget, formed, refused,
    remove_data,
};

/// `start` and `token show` print the same token as JSON.
fn as_json(host: &Host, token: &str) -> Result<()> {
    let json = |line: &str| -> Result<Value> { Ok(serde_json::from_str(&host.sh(line)?)?) };
    let (started, shown) = (json("shoutdctl start --json")?, json("shoutdctl token show --json")?);
    for found in [&started["join"], &shown] {
        let text = found["token"].as_str().context("a token")?;
        ensure!(token.ends_with(text) && found["peer_address"] == "10.77.0.2:7789", "{found}");
    }
    ensure!(started["hosts"] == 1 && started["has_leader"] == true, "{started}");
    Ok(())
}

/// It goes on in its own, and it leaves for the other one: as a member among others, and as the
/// only host.
pub fn other_cluster(cluster: &mut Cluster) -> Result<()> {
    let [first, second, third] = formed(cluster, 1)?;
    let token = cluster.token()?;
    second.start_shoutd(&["10.77.0.2"])?;
    let own = second.sh("shoutdctl token show")?;
    let own = own
        .split_whitespace()
        .find(|word| word.starts_with("--token="))
        .context("a token")?
        .to_owned();
    as_json(&second, &own)?;
    third.start_shoutd(&["10.77.0.3", "--peer-addresses=10.77.0.2", &own])?;
    let join = "shoutdctl start 10.77.0.3 --peer-addresses=10.77.0.1";
    third.sh("shoutdctl stop")?;
    let said =
        refused(&third, join, &["start it without --peer-addresses", "shoutdctl stop --leave"]);
    if let Err(error) = said {
        refused(&third, join, &["--peer-addresses is ignored", "shoutdctl stop --leave"])
            .with_context(|| format!("{error:#}"))?;
    }
    third.sh("shoutdctl start")?;
    await_hosts(&third, 2)?;
    third.sh(&format!("shoutdctl stop --leave && {join} {token}"))?;
    await_hosts(&first, 2)?;
    // The one that is left alone in its cluster is told what to do in two steps.
    second.docker(["network", "create", "--driver", "shoutd", "foo"])?;
    let join = "shoutdctl start 10.77.0.2 --peer-addresses=10.77.0.1";
    refused(&second, &format!("{join} {token}"), &["shoutdctl stop --leave"])?;
    let said = refused(
        &second,
        "shoutdctl stop --leave",
        &["only host", "docker network rm", "shoutdctl stop"],
    )?;
    ensure!(said.contains("remove its data directory"), "{said}");
    second.sh(&format!(
        "docker network rm foo && shoutdctl stop && {} && {join} {token}",
        remove_data()
    ))?;
    await_hosts(&first, 3)
}

/// They are stopped or disconnected, and the host leaves; also where somebody wanted to remove it
/// from elsewhere.
pub fn containers(cluster: &mut Cluster) -> Result<()> {
    let [first, second, third] = formed(cluster, 3)?;
    let network = Network::create(cluster, &first, "foo", &[])?;
    let stopped = Container::start(&second, "foo", &[])?;
    let disconnected = Container::start(&third, "foo", &[])?;
    refused(&second, "shoutdctl stop --leave", &["foo", "stop or disconnect them first"])?;
    let said = refused(
        &first,
        "shoutdctl remove host2",
        &["stop its containers", "shoutdctl stop --leave"],
    )?;
    second.sh(&format!("docker stop --time 1 {} && shoutdctl stop --leave", stopped.name))?;
    refused(&third, "shoutdctl stop --leave", &["foo"])?;
    third.sh(&format!(
        "docker network disconnect foo {} && shoutdctl stop --leave",
        disconnected.name
    ))?;
    await_hosts(&first, 1)?;
    ensure!(said.contains("shoutdctl remove --force host2"), "{said}");
    drop((stopped, disconnected));
    // Somebody insists.
    forget(&third)?;
    cluster.join(&third, &first)?;
    await_network(&third, "foo")?;
    let container = Container::start(&third, "foo", &[])?;
    wait_until("its container to be known", SOON, || {
        Ok(view(&first, "endpoints")?.to_string().contains(&container.name).then_some(()))
    })?;
    let said = refused(&first, "shoutdctl remove host3", &["remove --force host3"])?;
    first.sh(after(&said, "or use ")?)?;
    await_hosts(&first, 1)?;
    drop(container);
    // "delete its data directory, and let it join again".
    wait_until("host3 to end", SOON, || Ok(third.pids_of("shoutd")?.is_empty().then_some(())))?;
    refused(&third, "shoutdctl start", &["removed", "join again"])?;
    forget(&third)?;
    cluster.join(&third, &first)?;
    await_hosts(&first, 2)?;
    network.remove_on(&first)
}

/// The command by which the second host joins the first.
fn join(token: &str) -> String {
    format!("shoutdctl start 10.77.0.2 --peer-addresses=10.77.0.1 --timeout=10 {token}")
}

/// Revoked, expired and used up: the named command prints one that does.
pub fn tokens(cluster: &mut Cluster) -> Result<()> {
    let [first, second, _] = formed(cluster, 1)?;
    let revoked = cluster.token()?;
    first.sh("shoutdctl token rotate")?;
    let said = refused(&second, &join(&revoked), &["was revoked"])?;
    first.sh(after(&said, "get a new one with:")?)?;
    second.sh(&join(&cluster.token()?))?;
    first.sh("shoutdctl token rotate --single-use")?;
    let used = cluster.token()?;
    let third = cluster.host(3)?;
    third.sh(&join(&used).replace("10.77.0.2", "10.77.0.3"))?;
    for host in [&second, &third] {
        host.sh("shoutdctl stop --leave")?;
    }
    let said = refused(&second, &join(&used), &["as many hosts as it allows"])?;
    first.sh(after(&said, "get a new one with:")?)?;
    second.sh(&join(&cluster.token()?))?;
    second.sh("shoutdctl stop --leave")?;
    first.sh("shoutdctl token rotate --expires 1s")?;
    let expired = cluster.token().ok();
    wait_until("the token to expire", SOON, || Ok(cluster.token().is_err().then_some(())))?;
    if let Some(expired) = expired {
        let said = refused(&second, &join(&expired), &["expired"])?;
        first.sh(after(&said, "get a new one with:")?)?;
    }
    first.sh("shoutdctl token rotate --expires 1s")?;
    wait_until("the token to expire", SOON, || Ok(cluster.token().is_err().then_some(())))?;
    let said = refused(&first, "shoutdctl token show", &["no valid token"])?;
    first.sh(after(&said, "create one with:")?)?;
    second.sh(&join(&cluster.token()?))?;
    await_hosts(&first, 2)?;
    // One that was prepared names no peers by itself.
    forget(&second)?;
    let prepared = second.sh("shoutdctl token prepare")?;
    let line = format!("shoutdctl start 10.77.0.2 --token={}", prepared.trim());
    refused(&second, &line, &["with --peer-addresses"])?;
    forget(&third)?;
    let other =
        format!("shoutdctl start 10.77.0.3 --token={} --peer-addresses=10.77.0.2", prepared.trim());
    let mut starting = third.spawn(["sh", "-c", &other])?;
    second.sh(&format!("{line} --peer-addresses=10.77.0.3"))?;
    ensure_done(&starting.wait(SOON)?)?;
    await_hosts(&second, 2)
}

/// All were moved, and no one was told where the others are: one is started with their addresses.
pub fn renumbered(cluster: &mut Cluster) -> Result<()> {
    let hosts = formed(cluster, 3)?;
    let moved = move_all(&hosts);
    for host in &hosts {
        host.sh(&format!(
            "shoutdctl stop; {}; ip address del 10.77.0.10{}/24 dev eth0; ip address add {}/24 \
             dev eth0 || true",
            remove_data(),
            host.number(),
            host.address()
        ))?;
    }
    moved.and_then(|()| formed(cluster, 3).map(|_| ()))
}

fn move_all(hosts: &[Host]) -> Result<()> {
    hosts.iter().try_for_each(|host| host.sh("shoutdctl stop").map(|_| ()))?;
    for host in hosts {
        let own = host.address();
        let line = "ip address del OWN/24 dev eth0 && ip address add 10.77.0.10NUMBER/24 dev eth0";
        host.sh(&line
            .replace("OWN", &own.to_string())
            .replace("NUMBER", &host.number().to_string()))?;
        host.start_shoutd(&[&format!("10.77.0.10{}", host.number())])?;
    }
    let advice = "if hosts have new addresses, start one with --peer-addresses of the others";
    await_problem(&hosts[0], advice)?;
    hosts[0].sh("shoutdctl start --peer-addresses=10.77.0.102,10.77.0.103")?;
    for host in hosts {
        await_no_problem(host, "no change can be committed")?;
        wait_until("the new addresses to be known", SOON, || {
            let known = view(host, "hosts")?.to_string();
            Ok((1..=3)
                .all(|number| known.contains(&format!("10.77.0.10{number}:7789")))
                .then_some(()))
        })?;
    }
    ensure!(status(&hosts[0])?["hosts"] == 3, "{}", status(&hosts[0])?);
    Ok(())
}
