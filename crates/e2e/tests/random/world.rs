//! The hosts, what was done to them, and which containers should run.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::ManuallyDrop;
use std::thread;

use anyhow::{Context, Result, bail};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use shoutd_e2e::{Cluster, Container, SOON, Stream};
use shoutd_lab::{Host, Output, wait_until};

use super::audit::Audit;
use super::operation::{Command, Known, Trouble, Verb};

/// shoutd compares its state with the engine's every ten seconds, and after a boot it looks four
/// times, ten seconds apart, for containers that were left down.
const AUDIT_DEADLINE: std::time::Duration = SOON.saturating_mul(2);

/// A cluster with the history of a run.
pub struct World<'a> {
    cluster: &'a Cluster,
    random: StdRng,
    done: usize,
    networks: BTreeSet<&'static str>,
    /// By host, each host's containers.
    containers: BTreeMap<u8, BTreeSet<&'static str>>,
    /// Containers, by host and name, with `--restart=always` that a user has started and not
    /// stopped.
    should_run: BTreeSet<(u8, String)>,
}

/// Events on a host within one step.
struct Event {
    host: Host,
    command: Option<Command>,
    trouble: Option<Trouble>,
}

impl<'a> World<'a> {
    /// A world of this cluster's hosts, with nothing on them.
    pub fn new(cluster: &'a Cluster, random: StdRng) -> Self {
        Self {
            cluster,
            random,
            done: 0,
            networks: BTreeSet::new(),
            containers: BTreeMap::new(),
            should_run: BTreeSet::new(),
        }
    }

    /// The number of operations so far.
    pub fn done(&self) -> usize {
        self.done
    }

    /// Runs several things at once: a command on one or two hosts, and often trouble on one of
    /// these or on the third.
    pub fn step(&mut self) -> Result<()> {
        let mut events = BTreeMap::new();
        for host in self.cluster.hosts() {
            events.insert(host.number(), Event { host, command: None, trouble: None });
        }
        let numbers: Vec<u8> = events.keys().copied().collect();
        let commands = self.random.random_range(1..=2);
        let busy: Vec<u8> = numbers.choose_multiple(&mut self.random, commands).copied().collect();
        for number in busy {
            if let Some(event) = events.get_mut(&number) {
                let containers = self.containers.get(&number).cloned().unwrap_or_default();
                let known = Known { networks: self.networks.clone(), containers };
                event.command = Command::draw(&mut self.random, &known);
            }
        }
        if self.random.random_bool(0.15) {
            let number = numbers.choose(&mut self.random).copied().unwrap_or(1);
            if let Some(event) = events.get_mut(&number) {
                event.trouble = Some(Trouble::draw(&mut self.random));
            }
        }
        let events: Vec<_> = events.into_values().collect();
        for event in &events {
            self.announce(event);
        }
        let outputs = happen(&events)?;
        for (event, output) in events.iter().zip(outputs) {
            self.learn(event, output);
        }
        Ok(())
    }

    fn announce(&mut self, event: &Event) {
        let name = event.host.name();
        if let Some(command) = &event.command {
            self.done += 1;
            println!("{:4} {name}: {command}", self.done);
        }
        if let Some(trouble) = &event.trouble {
            self.done += 1;
            println!("{:4} {name}: {trouble:?}", self.done);
        }
    }

    /// Updates which containers should run. A command during trouble may have been carried out or
    /// not.
    fn learn(&mut self, event: &Event, output: Option<Output>) {
        let (Some(command), Some(output)) = (&event.command, output) else { return };
        let is_certain = output.success() && event.trouble.is_none();
        if !output.success() {
            let said = output.stderr.lines().next_back().unwrap_or_default();
            println!("     {} refused: {said}", event.host.name());
        }
        let containers = self.containers.entry(event.host.number()).or_default();
        match command {
            Command::Create { network, .. } if output.success() => {
                _ = self.networks.insert(network);
            }
            Command::Remove { network, .. } if output.success() => {
                _ = self.networks.remove(network);
            }
            Command::Run { container, .. } if output.success() => _ = containers.insert(container),
            Command::Container { verb: Verb::Remove, container } => {
                _ = containers.remove(container);
            }
            _ => {}
        }
        let number = event.host.number();
        match command {
            Command::Run { container, always: true, .. } if is_certain => {
                self.should_run.insert((number, (*container).to_owned()));
            }
            // A container that failed to start still exists, and its name is taken.
            Command::Run { container, .. }
                if !output.success() && !output.stderr.contains("is already in use") =>
            {
                _ = event.host.run(["docker", "rm", "--force", *container]);
                self.should_run.remove(&(number, (*container).to_owned()));
            }
            Command::Container { verb: Verb::Start | Verb::Restart, container } if !is_certain => {
                self.should_run.remove(&(number, (*container).to_owned()));
            }
            Command::Container { verb: Verb::Stop | Verb::Kill | Verb::Remove, container } => {
                self.should_run.remove(&(number, (*container).to_owned()));
            }
            _ => {}
        }
    }

    /// Waits until Docker, agreed state and the kernel match on all hosts.
    pub fn audit(&mut self) -> Result<()> {
        println!("     audit after {} operations", self.done);
        let mut differences = Vec::new();
        let sound = wait_until("all to be as it should", AUDIT_DEADLINE, || {
            differences = Audit::take(&self.cluster.hosts())?.differences(&self.should_run);
            Ok(differences.is_empty().then_some(()))
        });
        sound.with_context(|| differences.join("\n"))?;
        println!("     networks: {:?}; containers: {:?}", self.networks, self.containers);
        Ok(())
    }

    /// On each network with several containers, one sends and all others must receive everything.
    pub fn receive_from_each_other(&self) -> Result<()> {
        for (network, members) in Audit::take(&self.cluster.hosts())?.members() {
            // They stay up for their other networks.
            let members =
                members.into_iter().map(|(host, name)| ManuallyDrop::new(Container { host, name }));
            let members: Vec<_> = members.collect();
            let containers: Vec<&Container> = members.iter().map(|member| &**member).collect();
            let [sender, receivers @ ..] = containers.as_slice() else { continue };
            if receivers.is_empty() {
                continue;
            }
            println!("     {network}: {} sends to {} others", sender.name, receivers.len());
            for container in &containers {
                _ = container.host.run(["docker", "unpause", &container.name]);
                lead_multicast_to(container, &network)?;
            }
            Stream::default().send(sender, receivers, 1).with_context(|| network.clone())?;
        }
        Ok(())
    }

    /// Removes all containers and networks and checks that nothing is left.
    pub fn clear(&self) -> Result<()> {
        for host in self.cluster.hosts() {
            host.sh("docker ps --all --quiet | xargs --no-run-if-empty docker rm --force")?;
        }
        let host = self.cluster.host(1)?;
        host.sh("docker network ls --quiet --filter driver=shoutd | xargs --no-run-if-empty \
                 docker network rm")?;
        self.cluster.await_clean()
    }
}

/// Moves the multicast route of a container to this network: it has only one.
fn lead_multicast_to(container: &Container, network: &str) -> Result<()> {
    let address = container.address(network)?;
    let pid = container.inspect("{{.State.Pid}}")?;
    let inside = format!("nsenter --net=/proc/{pid}/ns/net");
    let listed = container.host.sh(&format!("{inside} ip -4 -oneline address"))?;
    let line = listed.lines().find(|line| line.contains(&format!(" {address}/")));
    let interface = line.and_then(|line| line.split_whitespace().nth(1)).context("an interface")?;
    container
        .host
        .sh(&format!("{inside} ip route replace {} dev {interface}", Stream::default().group))
        .map(|_| ())
}

/// Runs all events at once; returns what each command printed.
fn happen(events: &[Event]) -> Result<Vec<Option<Output>>> {
    thread::scope(|scope| {
        let begun: Vec<_> = events
            .iter()
            .map(|event| {
                let trouble =
                    event.trouble.map(|trouble| scope.spawn(move || trouble.strike(&event.host)));
                let command =
                    event.command.as_ref().map(|command| scope.spawn(|| command.run(&event.host)));
                (event, trouble, command)
            })
            .collect();
        let mut outputs = Vec::new();
        for (event, trouble, command) in begun {
            let output =
                command.map(|thread| thread.join().unwrap_or_else(|_| bail!("a thread panicked")));
            let trouble =
                trouble.map(|thread| thread.join().unwrap_or_else(|_| bail!("a thread panicked")));
            trouble
                .transpose()
                .with_context(|| format!("{:?} on {}", event.trouble, event.host.name()))?;
            outputs.push(match output {
                // The power failed during the command or before it.
                Some(Err(_)) if matches!(event.trouble, Some(Trouble::Power { .. })) => None,
                Some(output) => Some(output.with_context(|| format!("on {}", event.host.name()))?),
                None => None,
            });
        }
        Ok(outputs)
    })
}
