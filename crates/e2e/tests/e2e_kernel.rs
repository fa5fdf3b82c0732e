//! Debian 12's kernel 6.1 in a virtual machine. It has no VXLAN MDB, so the data plane replicates
//! multicast by the groups' MAC addresses. It has WireGuard, which the machine's kernel may not
//! have.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests say what they expect by failing")]

use std::time::Duration;

use shoutd_e2e::test_program;
use shoutd_lab::run_on_older_kernel;

/// The tests that 6.1 can run.
const TESTS: [&str; 12] = [
    "probing::this_kernel_has_all_that_is_needed",
    "probing::lack_of_privilege_is_said_to_be_that",
    "igmp_mld_filter::igmp_and_mld_do_not_cross_and_all_else_does",
    "traffic::unicast_broadcast_and_multicast_reach_containers_of_other_hosts",
    "encryption::everything_passes_over_the_kernels_wireguard",
    "traffic::ipv6_multicast_and_neighbour_discovery_pass",
    "tiers::link_local_groups_that_share_a_mac_address_with_others_reach_who_they_should",
    "tiers::groups_that_nobody_listens_to_go_nowhere_by_mac_address_either",
    "queriers::who_joins_by_an_interface_of_a_vlan_stays_a_member",
    "stamps::a_multicast_datagram_to_another_host_has_one_time_stamp",
    "stamps::a_unicast_event_message_of_ptp_has_one_time_stamp_where_there_are_members",
    "tiers::groups_of_one_mac_address_go_to_the_hosts_that_listen_to_any",
];

/// The tests of `crates/netlink/tests/wireguard.rs`.
const WIREGUARD_TESTS: [&str; 4] = [
    "the_kernel_derives_the_public_key",
    "hosts_reach_each_other_while_their_preshared_keys_agree",
    "a_vxlan_device_in_a_third_namespace_sends_through_the_tunnel",
    "a_thousand_peers_are_set_read_and_removed",
];

/// Which tier it has, and that it has interfaces of VLANs and WireGuard.
const ENVIRONMENT: [(&str, &str); 3] =
    [("SHOUTD_TIER", "multicast-fdb"), ("SHOUTD_VLANS", "yes"), WIREGUARD];

/// That the kernel must have WireGuard.
const WIREGUARD: (&str, &str) = ("SHOUTD_WIREGUARD", "yes");

/// Memory of the virtual machine, in MiB.
const MEMORY: u32 = 1024;

/// How long the tests of one program may take: the virtual machine boots in seconds, and they are
/// ten times as slow as elsewhere.
const DEADLINE: Duration = Duration::from_secs(600);

#[test]
fn multicast_reaches_the_members_hosts_on_a_kernel_without_vxlan_mdb() {
    let shown = run("linux", &TESTS, &ENVIRONMENT);
    assert!(shown.contains("kernel 6.1."), "which kernel was it? {shown}");
    for test in TESTS {
        assert!(shown.contains(&format!("test {test} ... ok")), "{test} failed:\n{shown}");
    }
}

#[test]
fn hosts_reach_each_other_by_wireguard() {
    let shown = run("wireguard", &WIREGUARD_TESTS, &[WIREGUARD]);
    for test in WIREGUARD_TESTS {
        assert!(shown.contains(&format!("test {test} ... ok")), "{test} failed:\n{shown}");
    }
}

/// Runs these tests of a test program, and returns what they printed.
fn run(program: &str, tests: &[&str], environment: &[(&str, &str)]) -> String {
    let program = test_program(program).unwrap();
    let variables = environment.iter().map(|(name, value)| format!("export {name}={value}\n"));
    let runs = tests.iter().map(|test| {
        format!("'{}' --color=never --test-threads=1 --exact {test}\n", program.display())
    });
    let commands: String = variables.chain(runs).collect();
    let shown = run_on_older_kernel(&commands, MEMORY, DEADLINE).unwrap();
    println!("{shown}");
    shown
}
