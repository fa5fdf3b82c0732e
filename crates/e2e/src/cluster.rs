//! Clusters of lab hosts with a shoutd each.

use std::env;
use std::process;
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use shoutd_lab::{EngineSource, Host, Lab, LabOptions, wait_until};

use crate::{SOON, containers_of, is_leader, left_in_kernel, networks};

/// The Docker Engine of the hosts, as for `cargo xtask lab up --engine`: of all hosts, or, in mixed
/// clusters, of all but host1.
const ENGINE: &str = "SHOUTD_LAB_ENGINE";

/// The cluster's default for the encryption of networks, as for `shoutdctl start --encrypt`.
const ENCRYPT: &str = "SHOUTD_LAB_ENCRYPT";

/// The machine's own engine.
const INSTALLED: &str = "installed";

/// The engine of all hosts but host1 in mixed clusters.
const NEWER: &str = "debian-13";

/// The hosts of a lab.
#[derive(Debug)]
pub struct Cluster {
    lab: Lab,
}

/// Lengths of a host's logs at one time, in bytes: shoutd's and its engine's.
type LogLengths = (usize, usize);

impl Cluster {
    /// Brings up hosts with engines, without shoutd.
    pub fn up(name: &str, hosts: u8) -> Result<Self> {
        let engine = env::var(ENGINE).unwrap_or_else(|_| INSTALLED.to_owned());
        Self::up_with(name, hosts, &[&engine])
    }

    /// As [`Cluster::up`], with engines of different versions: host1 has the machine's, which is
    /// older than that of the others.
    pub fn up_mixed(name: &str, hosts: u8) -> Result<Self> {
        let newer = env::var(ENGINE).unwrap_or_else(|_| NEWER.to_owned());
        Self::up_with(name, hosts, &[INSTALLED, &newer])
    }

    fn up_with(name: &str, hosts: u8, engines: &[&str]) -> Result<Self> {
        let engines =
            engines.iter().map(|name| EngineSource::named(name)).collect::<Result<Vec<_>>>()?;
        let name = format!("{name}-{}", process::id());
        Ok(Self { lab: LabOptions::new(&name).hosts(hosts).engines(&engines).up()? })
    }

    /// Starts shoutd on these hosts, one after the other: the first founds the cluster, the others
    /// join it.
    pub fn form(&self, order: [u8; 3]) -> Result<()> {
        let [founder, others @ ..] = order;
        let founder = self.host(founder)?;
        let encrypt = env::var(ENCRYPT).map(|default| format!("--encrypt={default}"));
        let arguments: Vec<String> =
            [founder.address().to_string()].into_iter().chain(encrypt).collect();
        founder.start_shoutd(&arguments.iter().map(String::as_str).collect::<Vec<_>>())?;
        for other in others {
            self.join(&self.host(other)?, &founder)?;
        }
        Ok(())
    }

    /// Starts shoutd on `host` with this peer and the cluster's token.
    pub fn join(&self, host: &Host, peer: &Host) -> Result<()> {
        let peers = format!("--peer-addresses={}", peer.address());
        host.start_shoutd(&[&host.address().to_string(), &peers, &self.token()?]).map(|_| ())
    }

    /// `--token=...`, as `shoutdctl token show` prints it on the host where it was made.
    pub fn token(&self) -> Result<String> {
        for host in self.hosts() {
            let output = host.run(["shoutdctl", "token", "show"])?;
            if let Some(token) =
                output.stdout.split_whitespace().find(|word| word.starts_with("--token="))
            {
                return Ok(token.to_owned());
            }
        }
        bail!("no host shows a token")
    }

    /// The host with this number, from 1.
    pub fn host(&self, number: u8) -> Result<Host> {
        self.lab.host(number).cloned()
    }

    /// All hosts.
    pub fn hosts(&self) -> Vec<Host> {
        self.lab.hosts().to_vec()
    }

    /// The first three hosts.
    pub fn three(&self) -> Result<[Host; 3]> {
        Ok([self.host(1)?, self.host(2)?, self.host(3)?])
    }

    /// Adds a host without shoutd.
    pub fn add_host(&mut self) -> Result<Host> {
        self.lab.add_host().cloned()
    }

    /// The leader among the first three hosts, and the others, once they agree on it.
    pub fn leader_and_others(&self) -> Result<(Host, [Host; 2])> {
        let hosts = self.three()?;
        wait_until("a leader", SOON, || {
            let leads = hosts.iter().map(is_leader).collect::<Result<Vec<_>>>()?;
            let [a, b, c] = hosts.clone();
            Ok(match leads.as_slice() {
                [true, false, false] => Some((a, [b, c])),
                [false, true, false] => Some((b, [a, c])),
                [false, false, true] => Some((c, [a, b])),
                _ => None,
            })
        })
    }

    /// Waits until nothing is left of networks and containers on any host.
    pub fn await_clean(&self) -> Result<()> {
        let hosts = self.hosts();
        thread::scope(|scope| {
            let waiting: Vec<_> =
                hosts.iter().map(|host| scope.spawn(|| await_clean(host))).collect();
            waiting
                .into_iter()
                .try_for_each(|thread| thread.join().unwrap_or_else(|_| bail!("a thread panicked")))
        })
    }

    /// Removes by force whatever a failed check left behind, as far as possible.
    pub fn force_clean(&self) {
        for host in self.hosts() {
            // Each of these does nothing where it is not needed.
            _ = host.power_on();
            _ = host.mend();
            if host.pids_of("dockerd").is_ok_and(|pids| pids.is_empty()) {
                _ = host.start_engine();
            }
            // A manager of a Swarm removes them from all nodes.
            _ = host.sh("docker service ls --quiet | xargs --no-run-if-empty docker service rm");
            _ = host.sh("docker ps --all --quiet | xargs --no-run-if-empty docker rm --force");
            if host.pids_of("shoutd").is_ok_and(|pids| pids.is_empty()) {
                _ = host.start_shoutd(&[]);
            }
        }
        for host in self.hosts() {
            _ = host.sh("docker network ls --quiet --filter driver=shoutd | xargs \
                         --no-run-if-empty docker network rm");
        }
        for host in self.hosts() {
            _ = host.sh("docker network ls --quiet --filter driver=shoutd-swarm:latest | xargs \
                         --no-run-if-empty docker network rm");
        }
        if let Err(error) = self.await_clean() {
            println!("not clean for the next check: {error:#}");
        }
    }

    /// The lengths of all hosts' logs now.
    pub fn logs(&self) -> Vec<LogLengths> {
        let mut lengths = Vec::new();
        for host in self.hosts() {
            let [daemon, engine] =
                [host.shoutd_log(), host.engine_log()].map(|log| log.map_or(0, |log| log.len()));
            lengths.push((daemon, engine));
        }
        lengths
    }

    /// Shows the last lines of each log since [`Cluster::logs`] was called.
    pub fn show_logs_since(&self, lengths: &[LogLengths], lines: usize) {
        for (index, host) in self.hosts().iter().enumerate() {
            let (shoutd, engine) = lengths.get(index).copied().unwrap_or_default();
            show_log(host, "shoutd", host.shoutd_log(), shoutd, lines);
            show_log(host, "dockerd", host.engine_log(), engine, lines / 4);
        }
    }
}

fn show_log(host: &Host, daemon: &str, log: Result<String>, since: usize, lines: usize) {
    let log = log.unwrap_or_default();
    let new = log.get(since..).unwrap_or(&log).lines();
    // An engine logs much that has no meaning here.
    let new: Vec<&str> = new.filter(|line| !line.contains("level=info")).collect();
    let last = new.get(new.len().saturating_sub(lines)..).unwrap_or_default();
    if !last.is_empty() {
        println!("---- {daemon} on {}:\n{}", host.name(), last.join("\n"));
    }
}

fn await_clean(host: &Host) -> Result<()> {
    let mut left = String::new();
    let gone = wait_until("nothing to be left", SOON, || {
        left = left_on(host)?;
        Ok(left.is_empty().then_some(()))
    });
    gone.with_context(|| format!("{} still has: {left}", host.name()))
}

/// The networks and containers that a host still has, in words; empty if there are none.
fn left_on(host: &Host) -> Result<String> {
    let mut left = left_in_kernel(host)?;
    let docker =
        host.docker(["network", "ls", "--filter", "driver=shoutd", "--format", "{{.Name}}"])?;
    left.extend(docker.lines().map(|name| format!("Docker network {name}")));
    left.extend(containers_of(host)?.into_iter().map(|name| format!("container {name}")));
    if !host.pids_of("shoutd")?.is_empty() {
        left.extend(networks(host)?.iter().map(|network| format!("network {network}")));
    }
    Ok(left.join("; "))
}

/// Waits until `host` has the Docker network `name`.
pub fn await_network(host: &Host, name: &str) -> Result<()> {
    wait_until(&format!("network {name} on {}", host.name()), SOON, || {
        Ok(host.run(["docker", "network", "inspect", name])?.success().then_some(()))
    })
}

/// Waits until `host` does not have the Docker network `name`.
pub fn await_no_network(host: &Host, name: &str) -> Result<()> {
    wait_until(&format!("the end of network {name} on {}", host.name()), SOON, || {
        let listed = host.docker(["network", "ls", "--format", "{{.Name}}"])?;
        Ok((!listed.lines().any(|other| other == name)).then_some(()))
    })
}

/// Checks that shoutd runs on the host.
pub fn ensure_runs(host: &Host) -> Result<()> {
    ensure!(!host.pids_of("shoutd")?.is_empty(), "shoutd does not run on {}", host.name());
    Ok(())
}

/// Makes the engine leave containers running from now on.
pub fn live_restore(host: &Host) -> Result<()> {
    host.sh(r#"sed -i '0,/{/s//{ "live-restore": true,/' /etc/docker/daemon.json"#)?;
    host.signal("HUP", &host.pids_of("dockerd")?)?;
    wait_until("live-restore", SOON, || {
        Ok((host.docker(["info", "--format", "{{.LiveRestoreEnabled}}"])?.trim() == "true")
            .then_some(()))
    })
}
