//! Measures what multicast the containers of this host send, and how many copies leave the host.
//! Nothing is changed, and nothing is measured without a request.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use shoutd_core::Vni;
use shoutd_core::explain::SendsTo;
use shoutd_core::limits::RATED_FLOWS_MAX;
use shoutd_core::plane::{TUNNEL, namespace_name};
use shoutd_core::rates::{Flow, Measured};
use shoutd_netlink::{Namespace, PacketSample, PacketSampler, Route};

use super::forwarding::LinuxForwarding;
use super::registry::Registry;
use crate::forwarding::ForwardingTables;
use crate::kernel_error::KernelError;

/// How often samples are read.
const STEP: Duration = Duration::from_millis(50);

/// Samples of one network that are read at each step. Of more, the rates are estimated.
const SAMPLES_PER_STEP: usize = 2000;

/// A segment whose multicast is to be measured.
#[derive(Debug, Clone)]
pub struct Rated {
    /// The segment.
    pub vni: Vni,
    /// The flood entries of its VXLAN device, as they were observed.
    pub flood: BTreeSet<IpAddr>,
}

struct Segment<'a> {
    wanted: &'a Rated,
    namespace: Namespace,
    sampler: PacketSampler,
    samples: BTreeMap<(IpAddr, IpAddr), Flow>,
    read: u64,
}

/// Measures for this long. `directory` is that of the segments' namespaces. A segment that does not
/// exist, or vanishes, is left out.
///
/// # Errors
/// There are no descriptors left.
pub fn measure(
    directory: &Path,
    wanted: &[Rated],
    time: Duration,
) -> Result<BTreeMap<Vni, Measured>, KernelError> {
    let registry = Registry::new().map_err(KernelError::Descriptor)?;
    let mut segments: Vec<Segment<'_>> =
        wanted.iter().filter_map(|wanted| Segment::open(directory, wanted)).collect();
    let begin = Instant::now();
    while begin.elapsed() < time {
        thread::sleep(STEP.min(time.saturating_sub(begin.elapsed())));
        for segment in &mut segments {
            segment.read();
        }
    }
    let elapsed = begin.elapsed();
    for segment in &segments {
        registry.insert(segment.wanted.vni, segment.namespace.clone());
    }
    let mut tables = LinuxForwarding::new(registry);
    let measured = segments
        .into_iter()
        .filter_map(|segment| Some((segment.wanted.vni, segment.finish(&mut tables, elapsed)?)));
    Ok(measured.collect())
}

impl<'a> Segment<'a> {
    fn open(directory: &Path, wanted: &'a Rated) -> Option<Self> {
        let namespace = Namespace::open(&directory.join(namespace_name(wanted.vni))).ok()?;
        let device = Route::open(&namespace).ok()?.link(TUNNEL).ok()??;
        let sampler = PacketSampler::open(&namespace, device.index).ok()?;
        Some(Self { wanted, namespace, sampler, samples: BTreeMap::new(), read: 0 })
    }

    fn read(&mut self) {
        for PacketSample { source, group, length } in self.sampler.read(SAMPLES_PER_STEP) {
            self.read += 1;
            let known = self.samples.contains_key(&(source, group));
            if !known && self.samples.len() >= RATED_FLOWS_MAX {
                continue;
            }
            let flow = self.samples.entry((source, group)).or_insert_with(|| Flow {
                source,
                group,
                packets: 0,
                octets: 0,
                hosts: 0,
            });
            flow.packets += 1;
            flow.octets += length;
        }
    }

    /// `None` if the segment has vanished.
    fn finish(self, tables: &mut LinuxForwarding, elapsed: Duration) -> Option<Measured> {
        let passed = self.sampler.passed().ok()?;
        let mut flows: Vec<Flow> = self.samples.into_values().collect();
        if !flows.is_empty() {
            let tables = tables.read(self.wanted.vni).ok()?;
            for flow in &mut flows {
                let sends_to = SendsTo::read(&tables, &self.wanted.flood, flow.group);
                flow.hosts = sends_to.of(Some(flow.source)).len();
            }
        }
        let milliseconds = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        Some(Measured { milliseconds, read: self.read, passed: passed.max(self.read), flows })
    }
}
