//! What all routers need: two networks, a sender on the one, and a container on both.

use anyhow::{Result, ensure};
use shoutd_e2e::{Cluster, Container, Network, SOON};
use shoutd_lab::wait_until;

/// The subnets of IPv4 and of both families.
pub const SUBNETS: [&[&str]; 2] = [&["--subnet=10.131.0.0/24"], &["--subnet=10.132.0.0/24"]];
pub const SUBNETS_WITH_IPV6: [&[&str]; 2] = [
    &["--subnet=10.131.0.0/24", "--ipv6", "--subnet=fd00:131::/64"],
    &["--subnet=10.132.0.0/24", "--ipv6", "--subnet=fd00:132::/64"],
];

/// Two networks and a container on both. All is removed when this is dropped.
#[derive(Debug)]
pub struct Routed {
    /// On host2, on both networks.
    pub router: Container,
    /// On host1, on the network `from`.
    pub sender: Container,
    /// `from` and `to`; dropped last, when no container uses them.
    pub networks: [Network; 2],
}

impl Routed {
    /// Creates the networks `from` and `to` with these options, and starts the sender and a router
    /// with the options of `docker run`. No routing program runs yet.
    pub fn start(cluster: &Cluster, networks: [&[&str]; 2], router: &[&str]) -> Result<Self> {
        let [first, second, third] = cluster.three()?;
        let [from, to] = networks;
        let from = Network::create(cluster, &first, "from", from)?;
        let to = Network::create(cluster, &third, "to", to)?;
        let sender = Container::start(&first, "from", &[])?;
        let router = Container::start(&second, "from", router)?;
        second.docker(["network", "connect", "to", &router.name])?;
        Ok(Self { router, sender, networks: [from, to] })
    }

    /// Checks that the router forwards while this container is a member, and no longer.
    pub fn ensure_comes_and_goes(&self, receiver: &Container, group: &Group) -> Result<()> {
        let receiving = receiver.spawn(&format!("socat -u {} -", group.receive))?;
        wait_until("a datagram to be forwarded", SOON, || {
            self.send(group)?;
            Ok(receiving.printed().0.contains("forwarded").then_some(()))
        })?;
        ensure!(self.forwards(group)?, "no route is seen of the group: {}", self.routes(group)?);
        receiver.sh("killall socat")?;
        wait_until("the router to notice that the group has no members", SOON, || {
            self.send(group)?;
            Ok((!self.forwards(group)?).then_some(()))
        })
    }

    fn send(&self, group: &Group) -> Result<()> {
        self.sender.sh(&format!("echo forwarded | socat -u - {}", group.send)).map(drop)
    }

    fn routes(&self, group: &Group) -> Result<String> {
        self.router.sh(&format!("cat {}", group.routes))
    }

    /// Whether the router's kernel forwards the group: a route with more than six columns has
    /// outgoing interfaces.
    fn forwards(&self, group: &Group) -> Result<bool> {
        let routes = self.routes(group)?;
        let mut of_group = routes.lines().filter(|line| line.starts_with(&group.shown));
        Ok(of_group.any(|line| line.split_whitespace().count() > 6))
    }
}

/// A group, as programs and the kernel have it.
#[derive(Debug)]
pub struct Group {
    /// socat's address to send to it, with a hop limit of more than one.
    pub send: String,
    /// socat's address to join it on the network and receive from it.
    pub receive: String,
    /// The kernel's file of multicast routes.
    pub routes: &'static str,
    /// How that file shows the group.
    pub shown: String,
}
