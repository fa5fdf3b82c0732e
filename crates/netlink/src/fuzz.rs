//! Fuzzing of the parsers of kernel messages and queries. The corpora are messages of real kernels.

use std::collections::BTreeSet;

use shoutd_fuzz::fuzz;

use crate::nftables::{Family, TableName};
use crate::wire::Frames;
use crate::{address, fdb, generic, ip_route, joins, link, monitor, nftables, query, socket};
use crate::{statistics, wireguard};

/// Passes each datagram to every parser: none may rely on getting only its own kind of message.
#[test]
fn fuzz_netlink() {
    fuzz("netlink", env!("CARGO_MANIFEST_DIR"), |datagram| {
        let frames = Frames(datagram).map(|frame| {
            let attributes: Vec<_> = frame
                .attributes(4)
                .map(|attribute| {
                    (attribute.text().len(), attribute.ip(), attribute.nested().count())
                })
                .collect();
            let index = frame.word(4);
            let table = TableName { family: Family::Bridge, name: "shoutd" };
            let tables =
                (nftables::parse_table(table, &frame), nftables::parse_chain(table, &frame));
            let rules = (
                nftables::parse_rule(table, &frame),
                nftables::parse_count(table, &frame),
                nftables::is_of_elements(&frame),
            );
            let sets = (
                nftables::parse_set_elements(table, &frame),
                nftables::parse_set_keys(table, &frame),
            );
            let tables = (tables, rules, sets);
            let devices = (
                (link::parse(&frame), statistics::parse(&frame)),
                fdb::parse(&frame, index),
                fdb::is_flood(&frame),
                fdb::is_learned(&frame),
            );
            let addresses = (address::parse(&frame), ip_route::parse(&frame), joins::event(&frame));
            (
                attributes.len(),
                tables,
                devices,
                addresses,
                monitor::is_change(&frame),
                socket::verdict(&frame),
            )
        });
        frames.collect::<Vec<_>>()
    });
}

/// Answers about WireGuard devices, several messages each, and about the family.
#[test]
fn fuzz_wireguard() {
    fuzz("wireguard", env!("CARGO_MANIFEST_DIR"), |datagrams| {
        let (mut dump, mut family) = (wireguard::Dump::default(), None);
        for frame in Frames(datagrams) {
            dump.add(&frame);
            family = family.or(generic::parse(&frame));
        }
        let device = dump.finish().map_err(|fault| fault.to_string());
        device.map(|device| {
            let peers = device.peers.values();
            let kinds = peers.map(|peer| {
                let has_time = peer.last_handshake.is_some();
                let is_ipv6 = peer.endpoint.map(|endpoint| endpoint.is_ipv6());
                (has_time, is_ipv6, peer.preshared_key.is_some(), peer.allowed_ips.len().min(3))
            });
            let keys = (device.private_key.is_some(), device.public_key.is_some());
            (family.is_some(), keys, kinds.collect::<BTreeSet<_>>())
        })
    });
}

/// Queries come from containers and are not trusted.
#[test]
fn fuzz_queries() {
    fuzz("queries", env!("CARGO_MANIFEST_DIR"), |frame| {
        let query = query::parse(frame)?;
        Some((
            query.is_ipv6,
            query.version,
            query.group.is_some(),
            query.sources.len(),
            query.within.as_millis() > 12_700,
        ))
    });
}
