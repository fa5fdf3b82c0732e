//! Reads what the kernel has counted of a segment.

use std::path::Path;

use shoutd_core::Vni;
use shoutd_core::plane::{TUNNEL, UPLINK, namespace_name};
use shoutd_core::traffic::{FilterReading, PortReading, SegmentReading, TunnelReading, Volume};
use shoutd_netlink::{FilteredPackets, IgmpMldFilter, LinkCounters, Namespace, Route};

use crate::kernel_error::KernelError;

/// Reads the counters of a segment's devices and of its IGMP/MLD filter. `directory` is that of the
/// segments' namespaces. The probes are not counted by the kernel and are 0.
///
/// # Errors
/// The segment does not exist or cannot be read.
pub fn segment_counters(directory: &Path, vni: Vni) -> Result<SegmentReading, KernelError> {
    let namespace = Namespace::open(&directory.join(namespace_name(vni)))?;
    let mut reading = SegmentReading::default();
    for link in Route::open(&namespace)?.link_counters()? {
        if link.name == TUNNEL {
            reading.tunnel = Some((link.index, tunnel(&link.counters)));
        } else if link.is_veth && link.name != UPLINK {
            reading.ports.insert(link.index, port(&link.counters));
        }
    }
    let FilteredPackets { spread, refused, unicast, over_rate, group_management } =
        IgmpMldFilter::open(&namespace)?.counts()?;
    reading.filter = FilterReading { spread, refused, unicast, over_rate, group_management };
    Ok(reading)
}

/// The bridge's end of a container's veth receives what the container sends.
fn port(counters: &LinkCounters) -> PortReading {
    PortReading {
        sent: received(counters),
        received: sent(counters),
        dropped: counters.received_dropped.saturating_add(counters.sent_dropped),
    }
}

/// A packet whose only destination is [`VNI_NOWHERE`](shoutd_core::limits::VNI_NOWHERE) counts as
/// an error and as nothing else (`encap_bypass_if_local`). Other errors count as what they are, too
/// (`vxlan_xmit_one`).
fn tunnel(counters: &LinkCounters) -> TunnelReading {
    TunnelReading {
        sent: sent(counters),
        received: received(counters),
        unsent: counters.sent_errors,
        routeless: counters.collisions.saturating_add(counters.carrier_errors),
        dropped: counters.sent_dropped,
    }
}

fn sent(counters: &LinkCounters) -> Volume {
    Volume { packets: counters.sent_packets, octets: counters.sent_octets }
}

fn received(counters: &LinkCounters) -> Volume {
    Volume { packets: counters.received_packets, octets: counters.received_octets }
}
