//! Encrypted networks, on a kernel that has WireGuard. `crates/e2e/tests/e2e_kernel.rs` runs these
//! tests on one; on others they check that it has none.

use std::collections::BTreeMap;
use std::env;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use shoutd_core::cluster::TunnelKey;
use shoutd_core::encryption::WireguardChoice;
use shoutd_core::limits::ENCRYPTION_PORT;
use shoutd_core::plane::{EncryptedPeer, EncryptedUnderlay, EncryptionWanted, encrypted_address};
use shoutd_core::tunnel_keys::PresharedKey;
use shoutd_core::{ClusterId, HostId};
use shoutd_dataplane::{EncryptionSetup, NoWireguard, WireguardTier, check_wireguard};
use shoutd_netlink::wireguard::PrivateKey;

use crate::support::{Host, World, connect_by};
use crate::traffic::pass_everything;

/// Set where the kernel must have WireGuard.
const VARIABLE: &str = "SHOUTD_WIREGUARD";

/// What WireGuard leaves of 1500 octets.
const MTU: u16 = 1440;

/// Whether the kernel has WireGuard. If it has none, starting with it is refused.
fn has_wireguard() -> bool {
    match check_wireguard(WireguardChoice::Kernel) {
        Ok(()) => true,
        Err(error) => {
            assert_eq!(env::var_os(VARIABLE), None, "{error}");
            assert!(matches!(error, NoWireguard::Kernel), "{error}");
            false
        }
    }
}

/// The address of a host in the encrypted underlay.
fn inner(number: u8) -> IpAddr {
    let host = HostId::new(number.into()).unwrap();
    IpAddr::V6(encrypted_address(ClusterId::new(7 << 88), host))
}

fn private_key(number: u8) -> PrivateKey {
    PrivateKey::new(&[number; 32])
}

fn public_key(number: u8) -> TunnelKey {
    TunnelKey::new(shoutd_tunnel::public_key(&private_key(number)).0)
}

/// The encrypted underlay of one of the hosts that have these ports.
fn underlay(own: u8, hosts: &[(u8, IpAddr, u16)]) -> EncryptionWanted {
    let (mut port, mut peers) = (0, BTreeMap::new());
    for (number, address, of_host) in hosts {
        let (IpAddr::V6(inner), endpoint) = (inner(*number), SocketAddr::new(*address, *of_host))
        else {
            panic!("it has an IPv6 address")
        };
        if *number == own {
            port = *of_host;
        } else {
            // The hosts' real keys differ from pair to pair.
            let preshared_key = PresharedKey::new(&[7; 32]);
            let peer = EncryptedPeer { address: inner, endpoint, preshared_key };
            peers.insert(public_key(*number), peer);
        }
    }
    let IpAddr::V6(address) = inner(own) else { panic!("it has an IPv6 address") };
    let key = public_key(own);
    EncryptionWanted::Present(EncryptedUnderlay { address, port, mtu: MTU, key, peers })
}

/// Lets the host use the kernel's WireGuard only.
fn prepare(host: &mut Host, number: u8) {
    let nowhere = PathBuf::from("/nonexistent");
    let setup = EncryptionSetup {
        private_key: private_key(number),
        tier: WireguardTier::chosen(WireguardChoice::Kernel),
        program: nowhere.clone(),
        socket: nowhere,
    };
    host.kernel = host.fresh_kernel().with_encryption(setup);
}

#[test]
fn everything_passes_over_the_kernels_wireguard() {
    if !has_wireguard() {
        return;
    }
    let mut world = World::new(3);
    let mut ends: Vec<_> = (1..)
        .zip(&world.hosts)
        .map(|(number, host)| (number, host.address, ENCRYPTION_PORT))
        .collect();
    for (number, host) in (1..).zip(&mut world.hosts) {
        prepare(host, number);
        host.desired.encryption = underlay(number, &ends);
    }
    let addresses: Vec<IpAddr> = (1..=3).map(inner).collect();
    let mut connected = connect_by(world, &addresses, true);
    pass_everything(&connected);

    // A host has another port, and the others follow.
    ends[0].2 = 51820;
    for (number, host) in (1..).zip(&mut connected.0.hosts) {
        host.desired.encryption = underlay(number, &ends);
        host.settle();
    }
    pass_everything(&connected);

    // Nothing of it is left.
    for host in &mut connected.0.hosts {
        host.desired.segments.clear();
        host.desired.encryption = EncryptionWanted::Absent;
        host.settle();
        assert_eq!(host.observe().encryption, None);
    }
}
