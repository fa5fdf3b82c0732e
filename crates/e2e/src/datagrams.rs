//! Single datagrams between all containers, by socat.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use shoutd_lab::{Process, wait_until};

use crate::Container;

/// How long a program in a container may take to start.
const START_DEADLINE: Duration = Duration::from_secs(30);

/// How long a datagram may be on its way, on a busy machine.
const WAY_DEADLINE: Duration = Duration::from_secs(10);

/// How many datagrams each sends.
const COUNT: usize = 3;

/// How datagrams are received and sent: two of socat's addresses.
#[derive(Debug, Clone)]
pub struct Datagrams {
    /// What the receivers open.
    pub receive: String,
    /// What the senders open.
    pub send: String,
}

/// Lets every container send, one after the other; fails unless each of the others hears each
/// datagram, and once only.
pub fn everyone_hears_everyone(containers: &[Container], datagrams: &Datagrams) -> Result<()> {
    let listeners = containers
        .iter()
        .map(|container| listen(container, datagrams))
        .collect::<Result<Vec<_>>>()?;
    for sender in containers {
        let (name, send) = (&sender.name, &datagrams.send);
        sender.sh(&format!(
            "for n in $(seq {COUNT}); do echo {name}-$n | socat -u - {send} || exit; done"
        ))?;
        for (listener, heard) in
            containers.iter().zip(&listeners).filter(|(one, _)| one.name != sender.name)
        {
            await_lines(listener, heard, &sender.name)?;
        }
    }
    for (container, listener) in containers.iter().zip(&listeners) {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        let (heard, _) = listener.printed();
        // Of its own it hears what its own kernel loops back.
        heard.lines().filter(|line| !line.starts_with(&format!("{}-", container.name))).for_each(
            |line| {
                *counts.entry(line).or_default() += 1;
            },
        );
        let wanted = (containers.len() - 1) * COUNT;
        let all_once = counts.len() == wanted && counts.values().all(|count| *count == 1);
        ensure!(all_once, "{} on {} heard {counts:?}", container.name, container.host.name());
    }
    Ok(())
}

/// Starts to listen; returns when it does.
pub fn listen(container: &Container, datagrams: &Datagrams) -> Result<Process> {
    let process = container.spawn(&format!("socat -d -d -u {} -", datagrams.receive))?;
    process.wait_for_line(START_DEADLINE, |line| line.contains("starting data transfer loop"))?;
    Ok(process)
}

/// Waits for all datagrams of a sender.
fn await_lines(listener: &Container, process: &Process, sender: &str) -> Result<()> {
    let what = format!("{} on {} to hear {sender}", listener.name, listener.host.name());
    wait_until(&what, WAY_DEADLINE, || {
        let (heard, _) = process.printed();
        let all = (1..=COUNT)
            .all(|number| heard.lines().any(|line| line == format!("{sender}-{number}")));
        Ok(all.then_some(()))
    })
}
