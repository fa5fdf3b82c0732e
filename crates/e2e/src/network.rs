//! Networks of the cluster.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use shoutd_lab::{Host, wait_until};
use shoutd_netlink::{Namespace, Route, TunnelGroup};

use crate::{Cluster, SOON, await_network, await_no_network, networks};

/// The routing protocol that marks shoutd's entries in the kernel's tables.
const PROTOCOL: u8 = 115;

/// A network of the cluster, created on one host. Removed when dropped.
#[derive(Debug)]
pub struct Network {
    /// Its name.
    pub name: String,
    origin: Host,
    hosts: Vec<Host>,
}

impl Network {
    /// `docker network create --driver shoutd <options> <name>` on `origin`; returns when all hosts
    /// have it.
    pub fn create(cluster: &Cluster, origin: &Host, name: &str, options: &[&str]) -> Result<Self> {
        let network = Self::create_here(cluster, origin, name, options)?;
        for host in &network.hosts {
            await_network(host, name)?;
        }
        Ok(network)
    }

    /// As [`Network::create`], without waiting for the other hosts.
    pub fn create_here(
        cluster: &Cluster,
        origin: &Host,
        name: &str,
        options: &[&str],
    ) -> Result<Self> {
        origin.docker(
            ["network", "create", "--driver", "shoutd"].iter().chain(options).chain(&[name]),
        )?;
        Ok(Self { name: name.to_owned(), origin: origin.clone(), hosts: cluster.hosts() })
    }

    /// `docker network rm` on `host`, once the cluster knows that no host uses the network any
    /// longer; returns when it is gone from all hosts.
    pub fn remove_on(self, host: &Host) -> Result<()> {
        wait_until(&format!("network {} to be unused", self.name), SOON, || {
            let rows = networks(host)?;
            let mut own = rows.iter().filter(|row| row["name"] == self.name.as_str());
            let used = own.any(|row| row["hosts"].as_array().is_none_or(|hosts| !hosts.is_empty()));
            Ok((!used).then_some(()))
        })?;
        host.docker(["network", "rm", &self.name])?;
        for host in &self.hosts {
            await_no_network(host, &self.name)?;
        }
        Ok(())
    }

    /// Its row in `shoutdctl networks` on `asked`.
    pub fn row(&self, asked: &Host) -> Result<Value> {
        let rows = networks(asked)?;
        let mut named = rows.into_iter().filter(|row| row["name"] == self.name.as_str());
        match (named.next(), named.next()) {
            (Some(row), None) => Ok(row),
            (None, _) => bail!("{} does not know network {}", asked.name(), self.name),
            (Some(_), Some(_)) => bail!("{} knows two networks named {}", asked.name(), self.name),
        }
    }

    /// Its VXLAN network identifier.
    pub fn vni(&self) -> Result<u64> {
        self.row(&self.origin)?["vni"].as_u64().context("a VNI")
    }

    /// The network namespace of its segment on `host`, as the machine sees it.
    pub fn segment(&self, host: &Host) -> Result<std::path::PathBuf> {
        host.file(&format!("/run/netns/{}", self.segment_name()?))
    }

    /// The name of its segment's network namespace.
    pub fn segment_name(&self) -> Result<String> {
        Ok(format!("shout-{}", self.vni()?))
    }

    /// The entries by which a host's kernel sends groups to other hosts, as shoutd programmed them.
    pub fn tunnel_groups(&self, host: &Host) -> Result<Vec<TunnelGroup>> {
        let mut route = Route::open(&Namespace::open(&self.segment(host)?)?)?;
        let tunnel = route.link("shoutvx0")?.context("no VXLAN device")?.index;
        Ok(route.tunnel_groups(tunnel, PROTOCOL)?)
    }

    /// Removes the entries of a group from a host's kernel, as something else could.
    pub fn remove_tunnel_group(&self, host: &Host, group: IpAddr) -> Result<()> {
        let mut route = Route::open(&Namespace::open(&self.segment(host)?)?)?;
        let tunnel = route.link("shoutvx0")?.context("no VXLAN device")?.index;
        let entries = route.tunnel_groups(tunnel, PROTOCOL)?.into_iter();
        let removals: Vec<_> =
            entries.filter(|entry| entry.group == group).map(|entry| (entry, false)).collect();
        route.change_tunnel_groups(tunnel, PROTOCOL, &removals)?;
        Ok(())
    }

    /// Its IPv4 subnet: the network address and the length of its prefix.
    pub fn subnet(&self) -> Result<(Ipv4Addr, u32)> {
        let row = self.row(&self.origin)?;
        let subnets = row["subnets"].as_array().context("subnets")?;
        let parsed = subnets.iter().find_map(|subnet| {
            let (address, length) = subnet.as_str()?.split_once('/')?;
            Some((address.parse().ok()?, length.parse().ok()?))
        });
        parsed.with_context(|| format!("an IPv4 subnet in {row}"))
    }

    /// Its IPv4 broadcast address (RFC 919): all ones in the host part.
    pub fn broadcast(&self) -> Result<Ipv4Addr> {
        let (address, length) = self.subnet()?;
        Ok(Ipv4Addr::from_bits(address.to_bits() | u32::MAX.checked_shr(length).unwrap_or(0)))
    }

    /// Whether an address lies in its IPv4 subnet.
    pub fn contains(&self, address: Ipv4Addr) -> Result<bool> {
        let (network, length) = self.subnet()?;
        let shift = 32 - length;
        Ok(address.to_bits().checked_shr(shift) == network.to_bits().checked_shr(shift))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // The check may have removed it, or something that is dropped later may still use it.
        _ = self.origin.run(["docker", "network", "rm", &self.name]);
    }
}
