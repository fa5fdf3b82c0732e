//! Containers.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use anyhow::{Context, Result, bail};
use shoutd_lab::{Host, IMAGE, Output, Process};

/// Turns IPv6 on in a container: Docker turns it off on networks that are not created with
/// `--ipv6`. [`Container::start`] adds what newer engines need.
pub const WITH_IPV6: &str = "--sysctl=net.ipv6.conf.all.disable_ipv6=0";

/// A container that stays until it is dropped, for commands to be run in.
#[derive(Debug)]
pub struct Container {
    /// The host it is on.
    pub host: Host,
    /// Its name, which is unique.
    pub name: String,
}

impl Container {
    /// Starts a container on `host`, on the network `network`, with these further options of
    /// `docker run`.
    pub fn start(host: &Host, network: &str, options: &[&str]) -> Result<Self> {
        let (container, output) = Self::try_start(host, network, options)?;
        if !output.success() {
            bail!("docker run on {} {}", host.name(), output);
        }
        Ok(container)
    }

    /// As [`Container::start`], but a refusal by Docker is not an error.
    pub fn try_start(host: &Host, network: &str, options: &[&str]) -> Result<(Self, Output)> {
        static COUNT: AtomicU32 = AtomicU32::new(1);
        // A name must not be hexadecimal: if no container has the name, Docker takes it as the
        // beginning of an id.
        let name = format!("test{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let network = network_option(host, network, options)?;
        let run = ["docker", "run", "--detach", "--init", "--name", &name, &network];
        let output = host.run(run.iter().chain(options).chain(&[IMAGE, "sleep", "100000"]))?;
        Ok((Self { host: host.clone(), name }, output))
    }

    /// Runs lines of shell in the container and returns what they printed to their standard output.
    pub fn sh(&self, script: &str) -> Result<String> {
        self.host.docker(["exec", &self.name, "sh", "-c", script])
    }

    /// Runs lines of shell in the container, whatever their exit code.
    pub fn try_sh(&self, script: &str) -> Result<Output> {
        self.host.run(["docker", "exec", &self.name, "sh", "-c", script])
    }

    /// Starts a command in the container. It ends with the container, not when the result is
    /// dropped.
    pub fn spawn(&self, command: &str) -> Result<Process> {
        self.host
            .spawn(["docker", "exec", &self.name].into_iter().chain(command.split_whitespace()))
    }

    /// The output of `docker inspect` with this template.
    pub fn inspect(&self, template: &str) -> Result<String> {
        let printed =
            self.host.docker(["container", "inspect", "--format", template, &self.name])?;
        Ok(printed.trim().to_owned())
    }

    /// Its IPv4 address on this network.
    pub fn address(&self, network: &str) -> Result<Ipv4Addr> {
        let text = self.inspect(&format!(
            "{{{{(index .NetworkSettings.Networks \"{network}\").IPAddress}}}}"
        ))?;
        text.parse().with_context(|| format!("the address of {} on {network}: {text:?}", self.name))
    }

    /// Checks that this address answers a ping.
    pub fn ping(&self, address: &str) -> Result<()> {
        self.sh(&format!("ping -c 1 -W 5 {address}")).map(|_| ()).with_context(|| {
            format!("{address} does not answer {} on {}", self.name, self.host.name())
        })
    }

    /// Starts it again after it has ended.
    pub fn start_again(&self) -> Result<()> {
        self.host.docker(["start", &self.name]).map(|_| ())
    }

    /// Removes it.
    pub fn remove(self) -> Result<()> {
        self.host.docker(["rm", "--force", &self.name]).map(|_| ())
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        _ = self.host.run(["docker", "rm", "--force", &self.name]);
    }
}

/// Runs lines of shell in a container that is removed afterwards.
pub fn run_once(host: &Host, network: &str, options: &[&str], script: &str) -> Result<Output> {
    let network = network_option(host, network, options)?;
    let run = ["docker", "run", "--rm", &network];
    host.run(run.iter().chain(options).chain(&[IMAGE, "sh", "-c", script]))
}

/// The option of `docker run` for the network.
fn network_option(host: &Host, network: &str, options: &[&str]) -> Result<String> {
    let needs_more = options.contains(&WITH_IPV6) && takes_sysctls_with_network(host)?;
    Ok(if needs_more {
        let setting = "com.docker.network.endpoint.sysctls=net.ipv6.conf.IFNAME.disable_ipv6=0";
        format!("--network=name={network},driver-opt={setting}")
    } else {
        format!("--network={network}")
    })
}

/// Whether an engine takes an interface's sysctls with the network (from 27 on, API 1.46) and not
/// with the container.
pub fn takes_sysctls_with_network(host: &Host) -> Result<bool> {
    let version = host.docker(["version", "--format", "{{.Server.APIVersion}}"])?;
    let minor = version.trim().strip_prefix("1.").and_then(|minor| minor.parse::<u32>().ok());
    Ok(minor.with_context(|| format!("an API version: {version}"))? >= 46)
}

/// Starts one container on each of these hosts, all at once.
pub fn one_on_each(hosts: &[Host], network: &str, options: &[&str]) -> Result<Vec<Container>> {
    thread::scope(|scope| {
        let started: Vec<_> = hosts
            .iter()
            .map(|host| scope.spawn(move || Container::start(host, network, options)))
            .collect();
        let joined = started.into_iter().map(thread::ScopedJoinHandle::join);
        joined.map(|result| result.unwrap_or_else(|_| bail!("a thread panicked"))).collect()
    })
}
