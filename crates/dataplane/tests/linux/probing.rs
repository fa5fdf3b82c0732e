//! Probing the kernel's features and the underlay.

use std::net::{IpAddr, SocketAddr};

use shoutd_core::cluster::HostRoute;
use shoutd_core::limits::PORT;
use shoutd_core::own_address::{AddressChoice, NoAddress};
use shoutd_core::plane::Tier;
use shoutd_dataplane::{
    Capabilities, Incapable, NoInterface, host_routes, probe, underlay_interface,
};

use crate::support::{World, enter_own_namespaces, eventually, ip, ipv6_address};

#[test]
fn this_kernel_has_all_that_is_needed() {
    // On older kernels the caller of the test states the tier.
    let tier = std::env::var("SHOUTD_TIER").map_or(Tier::VxlanMdb, |tier| tier.parse().unwrap());
    assert_eq!(probe().unwrap(), Capabilities { ipv6: true, tier });
}

#[test]
fn lack_of_privilege_is_said_to_be_that() {
    let refusal = std::thread::spawn(|| {
        // SAFETY: the raw system call takes three numbers and changes the credentials of this
        // thread only.
        let result = unsafe { nix::libc::syscall(nix::libc::SYS_setresuid, 65534, 65534, 65534) };
        assert_eq!(result, 0);
        probe().unwrap_err()
    });
    let refusal = refusal.join().unwrap();
    assert!(matches!(refusal, Incapable::NotRoot), "{refusal}");
}

fn fixed(address: IpAddr) -> AddressChoice {
    AddressChoice::fixed(SocketAddr::new(address, PORT))
}

#[test]
fn the_underlays_interface_is_found_by_its_address() {
    let world = World::new(2);
    let host = &world.hosts[1];
    host.namespace
        .run(|| {
            let found = underlay_interface(&fixed(host.address)).unwrap();
            assert_eq!(
                (found.name.as_str(), found.mtu, found.network.to_string()),
                ("eth2", 1500, "192.0.2.2/24".to_owned())
            );
            let missing: IpAddr = "192.0.2.77".parse().unwrap();
            let refusal = underlay_interface(&fixed(missing)).unwrap_err();
            assert_eq!(
                refusal.to_string(),
                "no interface has the address 192.0.2.77; this host has 192.0.2.2 (eth2), \
                 10.99.0.1 (shoutd_gwbridge), 2001:db8::2 (eth2)"
            );
            assert!(matches!(refusal, NoInterface::Address(NoAddress::None { .. })));
        })
        .unwrap();
}

/// An IPv6 address cannot be used during duplicate address detection, and never if it is a
/// duplicate.
#[test]
fn an_ipv6_address_can_be_used_after_duplicate_address_detection() {
    let world = World::new(2);
    world.hosts[1]
        .namespace
        .run(|| {
            let (free, taken) = ("2001:db8::77".parse().unwrap(), ipv6_address(1));
            for address in [free, taken] {
                ip(&["address", "add", &format!("{address}/64"), "dev", "eth2"]);
            }
            let early = underlay_interface(&fixed(free)).unwrap_err();
            assert!(matches!(early, NoInterface::Address(NoAddress::Tentative { .. })), "{early}");
            eventually("the end of detection", || underlay_interface(&fixed(free)).is_ok());
            eventually("the duplicate", || {
                matches!(
                    underlay_interface(&fixed(taken)),
                    Err(NoInterface::Address(NoAddress::Duplicate { .. }))
                )
            });
        })
        .unwrap();
}

#[test]
fn routes_are_listed_with_their_interfaces() {
    enter_own_namespaces();
    ip(&["link", "set", "lo", "up"]);
    ip(&["link", "add", "first", "type", "bridge"]);
    ip(&["link", "set", "first", "up"]);
    ip(&["address", "add", "172.20.1.5/16", "dev", "first"]);
    ip(&["address", "add", "2001:db8::5/64", "dev", "first", "nodad"]);
    ip(&["route", "add", "10.0.0.0/8", "via", "172.20.0.1"]);
    ip(&["route", "add", "default", "via", "172.20.0.1"]);
    let expected = [("10.0.0.0/8", true), ("172.20.0.0/16", false), ("2001:db8::/64", false)].map(
        |(destination, remote)| HostRoute {
            destination: destination.parse().unwrap(),
            interface: "first".to_owned(),
            remote,
        },
    );
    assert_eq!(host_routes().unwrap(), expected);
}
