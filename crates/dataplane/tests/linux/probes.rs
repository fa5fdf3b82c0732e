//! Probes through the tunnel.

use shoutd_core::MacAddress;
use shoutd_dataplane::TunnelProbes;

use crate::support::{Capture, MTU, connected, eventually, vni};

const SOURCE: MacAddress = MacAddress([2, 0, 0, 0, 0, 8]);

/// EtherType of probes.
const PROBE: [u8; 2] = [0x88, 0xb5];

fn is_probe(frame: &[u8]) -> bool {
    frame[12..14] == PROBE
}

#[test]
fn probes_of_both_sizes_reach_the_other_host_and_no_container_sees_or_forges_one() {
    let (world, containers) = connected(2);
    let captures = containers.iter().map(|container| Capture::open(container, "eth0"));
    let captures: Vec<Capture> = captures.collect();
    let directories = world.hosts.iter().map(|host| host.segment_path());
    let mut probes: Vec<TunnelProbes> =
        directories.map(|path| TunnelProbes::new(path.parent().unwrap())).collect();
    let (mut small, mut full) = (false, false);
    eventually("probes of both sizes", || {
        // A socket is opened with the first probe that it sends.
        for probes in &mut probes {
            probes.send(vni(), SOURCE, b"probe", false).unwrap();
            probes.send(vni(), SOURCE, b"probe", true).unwrap();
        }
        for (_, content) in probes[1].received() {
            assert!(content.starts_with(b"probe"), "{content:?}");
            small |= content.len() < 100;
            full |= content.len() == usize::from(MTU);
        }
        small && full
    });

    // The first stays on the container's port, the second crosses the tunnel.
    for destination in [[0x01, 0x80, 0xc2, 0, 0, 0x0b], [0xff; 6]] {
        let forged = [&destination[..], &[0x02, 0, 0, 0, 0, 9], &PROBE, &b"forged"[..]].concat();
        captures[0].send(&forged);
    }
    let mark = [&[0xff; 6][..], &[0x02, 0, 0, 0, 0, 9], &[0x88, 0xb6], &[0; 46]].concat();
    captures[0].send(&mark);
    let mut seen = Vec::new();
    eventually("the frame behind the forged one", || {
        seen.extend(captures[1].pending());
        seen.iter().any(|frame| frame[12..14] == [0x88, 0xb6])
    });
    let is_forged = |frame: &Vec<u8>| frame[..6] == [0xff; 6];
    let probes_seen = seen.iter().filter(|frame| is_probe(frame) && !is_forged(frame));
    assert_eq!(probes_seen.count(), 0, "a container got a probe");
    let received = probes.iter().flat_map(TunnelProbes::received);
    assert!(!received.into_iter().any(|(_, content)| content.starts_with(b"forged")));
}
