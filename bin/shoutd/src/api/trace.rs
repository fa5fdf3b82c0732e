//! Where the packets of a group come, and where they stop: has all hosts that have the network
//! count at the same time.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use futures::future::join_all;
use shoutd_core::explain::{
    Answer, AskCounts, AskFacts, AskTrace, Counts, HostFacts, Kept, Trace, TraceProbe, find, trace,
};
use shoutd_core::limits::{
    COUNTED_HOSTS_MAX, COUNTING_MS_MAX, COUNTINGS_MAX, KEPT_PACKETS_MAX, TRACE_PROBES_MAX,
};
use shoutd_dataplane::{Counting, CountsWanted, Keeper, Subject, send_probe};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};

use crate::api::views::Views;
use crate::plane::NAMESPACES;

/// Path at which peers ask this host to count packets.
pub const COUNTS: &str = "/v1/counts";

/// How long hosts count before a probe is sent, so that all of them have begun.
const LEAD: Duration = Duration::from_secs(1);

/// How long they count after it was sent, so that the last datagram has arrived.
const TAIL: Duration = Duration::from_millis(500);

/// How long programs' packets are counted, if the user does not say.
const USUAL: Duration = Duration::from_secs(5);

/// How long a host may take besides counting.
const ANSWER_DEADLINE: Duration = Duration::from_secs(3);

/// How often kept packets are read.
const KEEPING: Duration = Duration::from_millis(20);

/// Limits how often packets are counted at a time on this host.
#[derive(Debug, Clone)]
pub struct Countings(Arc<Semaphore>);

impl Default for Countings {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(COUNTINGS_MAX)))
    }
}

impl Countings {
    /// Permits to count. Keeping packets takes all of them: its buffers take up to 60 MiB.
    ///
    /// # Errors
    /// Packets are counted too often at once.
    pub(super) fn begin(&self, permits: usize) -> Result<OwnedSemaphorePermit, String> {
        let permits = u32::try_from(permits).map_err(|error| error.to_string())?;
        self.0.clone().try_acquire_many_owned(permits).map_err(|_| {
            format!("packets are counted up to {COUNTINGS_MAX} times at once, and others count now")
        })
    }
}

impl Views {
    /// `shoutdctl trace`.
    ///
    /// # Errors
    /// The user asks for what does not exist, or for too much.
    pub async fn trace(&self, asked: &AskTrace) -> Result<Trace> {
        let group = asked.why.group.ok_or_else(|| anyhow!("name the group to trace"))?;
        let milliseconds = duration(asked)?;
        let (id, title) = self.network(&asked.why.network)?;
        let facts = AskFacts { network: id, group };
        let known = self.facts_of_all(&facts).await;
        let mut wanted = AskCounts {
            facts,
            port: asked.why.port.or(asked.probe.map(|_| TraceProbe::PORT)),
            source: None,
            milliseconds,
            containers: [].into(),
            hosts: [].into(),
            probe: None,
            is_exact: asked.probe.is_some(),
            kept: asked.kept.min(KEPT_PACKETS_MAX),
        };
        for (name, is_sender) in [(&asked.why.from, true), (&asked.why.to, false)] {
            let Some(name) = name else { continue };
            let (host, container) = find(&asked.why, name, &title, &known)?;
            if is_sender {
                let mut addresses = container.addresses.iter();
                wanted.source =
                    addresses.find(|address| address.is_ipv4() == group.is_ipv4()).copied();
                wanted.probe = asked.probe.map(|probe| (container.endpoint.clone(), probe));
            }
            wanted.containers.insert(container.endpoint.clone());
            wanted.hosts.insert(host);
        }
        if asked.why.from.is_none() || asked.why.to.is_none() {
            // The other end may be any container.
            wanted.containers.clear();
            wanted.hosts.clear();
        }
        if asked.probe.is_some() && wanted.probe.is_none() {
            bail!("a probe needs a sender: name it with --from");
        }
        let answers = self.ask_all(&wanted).await;
        Ok(trace(&asked.why, &title, &answers, milliseconds)?)
    }

    async fn ask_all(&self, wanted: &AskCounts) -> Vec<Answer> {
        let me = self.services.agreement.me;
        let deadline = Duration::from_millis(wanted.milliseconds) + ANSWER_DEADLINE;
        let answers = self.hosts_with(&wanted.facts.network).into_iter().map(async |(id, host)| {
            let facts = if id == me {
                Ok(self.own_counts(wanted).await)
            } else {
                let peers = &self.services.peers;
                let asked = peers.call_host(id, host.address, COUNTS, wanted, deadline).await;
                asked.map_err(|error| error.to_string())
            };
            let vtep = self.vtep(&wanted.facts.network, (id, &host));
            Answer { host: host.name, vtep, facts }
        });
        let mut answers = join_all(answers).await;
        answers.sort_by(|a, b| a.host.cmp(&b.host));
        answers
    }

    /// The facts of this host, with what it counted, or why it did not count. If the sender is on
    /// this host, it sends the probe.
    pub async fn own_counts(&self, asked: &AskCounts) -> HostFacts {
        let counted = self.count(asked).await;
        let mut facts = self.own_facts(&asked.facts).await;
        match counted {
            Ok(Some((counts, kept))) => {
                facts.counts = Some(counts);
                facts.kept = kept;
            }
            Ok(None) => {}
            Err(why) => facts.uncounted = Some(why),
        }
        facts
    }

    /// What this host counted and kept; `None` if it has no container on the network.
    async fn count(&self, asked: &AskCounts) -> Result<Option<(Counts, Vec<Kept>)>, String> {
        if asked.milliseconds > COUNTING_MS_MAX
            || asked.probe.as_ref().is_some_and(|(_, probe)| probe.count > TRACE_PROBES_MAX)
        {
            return Err(format!("packets are counted for {COUNTING_MS_MAX} ms at most"));
        }
        // A peer must not have a container send to any other address.
        if !asked.facts.group.is_multicast() {
            return Err(format!("{} is not a multicast address", asked.facts.group));
        }
        let permits = if asked.kept > 0 { COUNTINGS_MAX } else { 1 };
        let _permit = self.countings.begin(permits)?;
        let begin = Instant::now();
        let Some((wanted, hosts_left_out)) = self.counts_wanted(asked) else { return Ok(None) };
        let directory = Path::new(NAMESPACES);
        let opened = wanted.clone();
        let counting = blocking(move || Counting::open(directory, &opened)).await?;
        let end = begin + Duration::from_millis(asked.milliseconds);
        let (counted, sent) =
            tokio::join!(count_until(end, counting, asked.kept), self.send(asked, wanted));
        sent?;
        let elapsed = begin.elapsed().as_millis();
        let (mut counts, kept) = counted?;
        counts.milliseconds = u64::try_from(elapsed).unwrap_or(u64::MAX);
        counts.is_exact = asked.is_exact;
        counts.left_out += hosts_left_out;
        Ok(Some((counts, kept)))
    }

    /// Sends the probe if the sender is on this host.
    async fn send(&self, asked: &AskCounts, wanted: CountsWanted) -> Result<(), String> {
        let Some((from, probe)) = asked.probe.clone() else { return Ok(()) };
        let sender = wanted.subjects.iter().find(|subject| subject.endpoint == from).cloned();
        let Some(sender) = sender else { return Ok(()) };
        tokio::time::sleep(LEAD).await;
        blocking(move || send_probe(Path::new(NAMESPACES), &wanted, &sender, &probe)).await
    }

    /// What to count, and how many hosts are left out; `None` if this host has no container on the
    /// network.
    fn counts_wanted(&self, asked: &AskCounts) -> Option<(CountsWanted, usize)> {
        let local = self.services.local.get();
        let facts = self.wanted(&asked.facts, &local)?;
        let is_wanted = |subject: &Subject| {
            asked.containers.is_empty() || asked.containers.contains(&subject.endpoint)
        };
        let me = self.services.agreement.me;
        let peers = self.hosts_with(&asked.facts.network).into_iter().filter(|(id, _)| *id != me);
        let peers = peers.map(|(id, host)| self.vtep(&asked.facts.network, (id, &host)));
        let is_counted = |address: &IpAddr| asked.hosts.is_empty() || asked.hosts.contains(address);
        let mut peers: BTreeSet<IpAddr> = peers.filter(is_counted).collect();
        let left_out = peers.len().saturating_sub(COUNTED_HOSTS_MAX);
        while peers.len() > COUNTED_HOSTS_MAX {
            peers.pop_last();
        }
        let wanted = CountsWanted {
            vni: facts.vni,
            encrypted: self.is_encrypted(&asked.facts.network),
            keeps: asked.kept > 0,
            group: asked.facts.group,
            source: asked.source,
            port: asked.port,
            subjects: facts.subjects.into_iter().filter(is_wanted).collect(),
            peers,
        };
        Some((wanted, left_out))
    }
}

/// Counts until the end, and keeps so many packets of each place.
async fn count_until(
    end: Instant,
    counting: Counting,
    kept: usize,
) -> Result<(Counts, Vec<Kept>), String> {
    let mut keeper = Keeper::new(kept);
    while kept > 0 && Instant::now() < end {
        sleep_until(end.min(Instant::now() + KEEPING)).await;
        keeper.read(&counting);
    }
    sleep_until(end).await;
    let counts = blocking(move || counting.finish()).await?;
    Ok((counts, keeper.finish()))
}

/// Runs what blocks on a thread made for that.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, shoutd_dataplane::KernelError> + Send + 'static,
) -> Result<T, String> {
    let done = tokio::task::spawn_blocking(move || work().map_err(|error| error.to_string()));
    done.await.unwrap_or_else(|error| Err(error.to_string()))
}

/// How long to count, in milliseconds.
fn duration(asked: &AskTrace) -> Result<u64> {
    let probe = asked.probe.as_ref();
    if let Some(TraceProbe { count, .. }) = probe
        && !(1..=TRACE_PROBES_MAX).contains(count)
    {
        bail!("a probe has 1 to {TRACE_PROBES_MAX} datagrams");
    }
    let usual = probe.map_or(USUAL, |probe| LEAD + probe.duration() + TAIL);
    let usual = u64::try_from(usual.as_millis())?;
    let wanted = asked.milliseconds.unwrap_or(usual);
    if !(100..=COUNTING_MS_MAX).contains(&wanted) {
        bail!("packets are counted for 100 ms to {} s", COUNTING_MS_MAX / 1000);
    }
    Ok(wanted.max(if probe.is_some() { usual } else { 0 }))
}
