//! Single datagrams between all containers, by socat.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use shoutd_lab::{Process, wait_until};

use crate::Container;

/// How long a program in a container may take to start.
const START_DEADLINE: Duration = Duration::from_secs(30);

/// How long a datagram may be in flight, on a busy machine.
const WAY_DEADLINE: Duration = Duration::from_secs(10);

/// Datagrams that each container sends.
const COUNT: usize = 3;

/// How datagrams are received and sent: two addresses of socat(1).
#[derive(Debug, Clone)]
pub struct Datagrams {
    /// The address that receivers open.
    pub receive: String,
    /// The address that senders open.
    pub send: String,
}

/// Lets the containers send, one after the other, and checks that each of the others receives each
/// datagram exactly once.
pub fn all_receive_from_all(containers: &[Container], datagrams: &Datagrams) -> Result<()> {
    let receivers = containers
        .iter()
        .map(|container| start_receiver(container, datagrams))
        .collect::<Result<Vec<_>>>()?;
    for sender in containers {
        let (name, send) = (&sender.name, &datagrams.send);
        sender.sh(&format!(
            "for n in $(seq {COUNT}); do echo {name}-$n | socat -u - {send} || exit; done"
        ))?;
        for (receiver, process) in
            containers.iter().zip(&receivers).filter(|(one, _)| one.name != sender.name)
        {
            await_lines(receiver, process, &sender.name)?;
        }
    }
    for (container, receiver) in containers.iter().zip(&receivers) {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        let (received, _) = receiver.printed();
        // A container also receives its own datagrams, which its kernel loops back.
        received
            .lines()
            .filter(|line| !line.starts_with(&format!("{}-", container.name)))
            .for_each(|line| {
                *counts.entry(line).or_default() += 1;
            });
        let wanted = (containers.len() - 1) * COUNT;
        let all_once = counts.len() == wanted && counts.values().all(|count| *count == 1);
        ensure!(all_once, "{} on {} received {counts:?}", container.name, container.host.name());
    }
    Ok(())
}

/// Starts a receiver and returns when it is ready.
pub fn start_receiver(container: &Container, datagrams: &Datagrams) -> Result<Process> {
    let process = container.spawn(&format!("socat -d -d -u {} -", datagrams.receive))?;
    process.wait_for_line(START_DEADLINE, |line| line.contains("starting data transfer loop"))?;
    Ok(process)
}

/// Waits for all datagrams of a sender.
fn await_lines(receiver: &Container, process: &Process, sender: &str) -> Result<()> {
    let what = format!("{} on {} to receive from {sender}", receiver.name, receiver.host.name());
    wait_until(&what, WAY_DEADLINE, || {
        let (received, _) = process.printed();
        let all = (1..=COUNT)
            .all(|number| received.lines().any(|line| line == format!("{sender}-{number}")));
        Ok(all.then_some(()))
    })
}
