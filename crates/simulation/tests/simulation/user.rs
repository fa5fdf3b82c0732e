//! Simulated users of one host.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
use shoutd_core::cluster::{Command, Description, Pass, Pool, Settings, Token};
use shoutd_core::{EndpointId, HostId, NetworkId, TokenHash};
use tokio::time::sleep;

use super::agent::Agent;

/// Subnets of networks: few, so that they clash.
const SUBNETS: usize = 12;

/// Names of networks: few, so that they clash.
const NAMES: usize = 8;

/// Does one random action after the other while the simulation is busy.
pub(crate) async fn run(agent: Arc<Agent>) {
    loop {
        let pause = agent.chance.lock().millis(20..=700);
        sleep(pause).await;
        if !agent.is_member() {
            continue;
        }
        if !*agent.world.busy.lock() {
            return;
        }
        let dice = agent.chance.lock().below(100);
        match dice {
            0..15 => create_network(&agent).await,
            15..20 => remove_network(&agent).await,
            20..65 => start_container(&agent).await,
            65..90 => stop_container(&agent).await,
            90..97 => enroll_hosts(&agent).await,
            _ => report_subnets(&agent).await,
        }
    }
}

fn pick<T: Clone>(agent: &Agent, items: &[T]) -> Option<T> {
    agent.chance.lock().pick(items).cloned()
}

fn below(agent: &Agent, bound: usize) -> usize {
    agent.chance.lock().below(bound)
}

fn subnet(agent: &Agent) -> Ipv4Net {
    let third = u8::try_from(below(agent, SUBNETS)).unwrap();
    let prefix = [25, 26, 27, 28, 29][below(agent, 5)];
    Ipv4Net::new_assert(Ipv4Addr::new(10, 200, third, 0), prefix)
}

/// The settings of a network with this subnet, as from Docker.
pub(super) fn settings(subnet: Ipv4Net, docker_ipam: bool) -> Settings {
    let gateway = subnet.hosts().next().map(IpAddr::V4);
    let pool = Pool { subnet: IpNet::V4(subnet), gateway, auxiliary: BTreeMap::new(), range: None };
    Settings {
        pools: vec![pool],
        options: BTreeMap::new(),
        internal: false,
        ipv6: false,
        docker_ipam,
        swarm: false,
    }
}

async fn create_network(agent: &Agent) {
    let id: NetworkId = format!("{:064x}", agent.chance.lock().next()).parse().unwrap();
    let subnet = subnet(agent);
    let settings = settings(subnet, below(agent, 2) == 0);
    let command = Command::CreateNetwork { id: id.clone(), origin: agent.me(), settings };
    if agent.ask(command).await.is_ok() {
        let name = format!("net{}", below(agent, NAMES));
        let description = Description {
            name,
            labels: BTreeMap::new(),
            attachable: true,
            ..Description::default()
        };
        let _ = agent.ask(Command::DescribeNetwork { id, description }).await;
    }
}

fn networks(agent: &Agent) -> Vec<NetworkId> {
    agent.node.cluster().networks.keys().cloned().collect()
}

async fn remove_network(agent: &Agent) {
    if let Some(id) = pick(agent, &networks(agent)) {
        agent.settle().await;
        let _ = agent.ask(Command::RemoveNetwork { id }).await;
    }
}

async fn start_container(agent: &Agent) {
    let Some(network) = pick(agent, &networks(agent)) else { return };
    let cluster = agent.node.cluster();
    let Some(pool) =
        cluster.networks.get(&network).and_then(|network| network.settings.pools.first())
    else {
        return;
    };
    // Some users request a specific address.
    let wanted = (below(agent, 4) == 0).then(|| pool.lowest_free(&BTreeMap::new(), 20));
    let wanted = wanted.and_then(|addresses| pick(agent, &addresses));
    let _ = agent.start_container(&network, wanted).await;
}

async fn stop_container(agent: &Agent) {
    let endpoints: Vec<EndpointId> = agent.local().endpoints.keys().cloned().collect();
    if let Some(id) = pick(agent, &endpoints) {
        let _ = agent.stop_container(&id).await;
    }
}

/// Makes a token for a few hosts, and enrolls one host more than it allows.
async fn enroll_hosts(agent: &Agent) {
    let number = agent.chance.lock().next();
    let hash: TokenHash = format!("{number:064x}").parse().unwrap();
    let (now, uses) = (agent.now(), below(agent, 2) + 1);
    let token =
        Token { expires: Some(now + Duration::from_secs(3600)), uses: u32::try_from(uses).ok() };
    if agent.ask(Command::AddToken { hash, token, now }).await.is_err() {
        return;
    }
    for host in 0..=u64::try_from(uses).unwrap() {
        let host = HostId::new((number | 1 << 40).wrapping_add(host)).unwrap();
        let _ =
            agent.ask(Command::Enroll { host, pass: Pass::Token(hash), now: agent.now() }).await;
    }
}

async fn report_subnets(agent: &Agent) {
    let reported = shoutd_core::cluster::ReportedSubnet {
        subnet: IpNet::V4(subnet(agent)),
        user: "bridge".to_owned(),
        exclusive: below(agent, 2) == 0,
        remote: false,
    };
    let _ = agent.ask(Command::ReportSubnets { host: agent.me(), subnets: vec![reported] }).await;
}
