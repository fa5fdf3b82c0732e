//! Preshared keys in agreed and in desired state.

#![expect(clippy::unwrap_used, reason = "a test says what it expects by failing")]

use std::net::{Ipv4Addr, SocketAddr};

use shoutd_core::advertise::PeerStates;
use shoutd_core::cluster::{
    Cluster, Command, Refusal, STATE_WITH_ENCRYPTION, TunnelEnd, TunnelKey,
};
use shoutd_core::local::Local;
use shoutd_core::plane::{
    Action, Desired, EncryptionWanted, Observed, ObservedEncryption, PresharedKeys,
    ReplicationCache, Underlay, desired, diff,
};
use shoutd_core::tunnel_keys::PresharedKey;
use shoutd_core::{ClusterId, HostId};

fn host(number: u8) -> HostId {
    HostId::new(number.into()).unwrap()
}

fn key(number: u8) -> PresharedKey {
    PresharedKey::new(&[number; 32]).unwrap()
}

fn cluster(hosts: u8) -> Cluster {
    let mut cluster = Cluster::default();
    cluster.apply(&Command::Found { cluster: ClusterId::new(7) }).unwrap();
    for number in 1..=hosts {
        let (id, address) = (host(number), SocketAddr::from(([10, 0, 0, number], 7789)));
        let admit = Command::AdmitHost { host: id, name: format!("host{number}"), address };
        cluster.apply(&admit).unwrap();
    }
    cluster
}

#[test]
fn rotations_are_counted_one_by_one_and_only_with_encryption() {
    let mut cluster = cluster(2);
    let rotate = |to| Command::RotateTunnelKeys { to };
    assert_eq!(rotate(1).state_version(), STATE_WITH_ENCRYPTION);
    assert_eq!(cluster.apply(&rotate(1)), Err(Refusal::NothingEncrypted));
    cluster.apply(&Command::SetEncryption { always: true }).unwrap();
    cluster.apply(&rotate(1)).unwrap();
    cluster.apply(&rotate(1)).unwrap();
    assert_eq!(cluster.encryption.rotation, 1);
    assert_eq!(cluster.apply(&rotate(3)), Err(Refusal::RotationAhead { to: 3, rotation: 1 }));
    cluster.apply(&rotate(2)).unwrap();
    cluster.apply(&rotate(0)).unwrap();
    assert_eq!(cluster.encryption.rotation, 2);
    // As a build wrote it that had no rotations.
    let mut written = serde_json::to_value(&cluster).unwrap();
    written["encryption"].as_object_mut().unwrap().remove("rotation");
    let read: Cluster = serde_json::from_value(written).unwrap();
    assert_eq!(read.encryption.rotation, 0);
}

fn wanted(cluster: &Cluster, keys: &PresharedKeys) -> Desired {
    let underlay = Underlay { address: Ipv4Addr::new(10, 0, 0, 1).into(), mtu: 1500 };
    let (local, heard) = (Local::default(), PeerStates::default());
    let cache = &mut ReplicationCache::default();
    let mut desired = desired(cluster, &local, host(1), underlay, &heard, cache);
    desired.encryption.set_preshared_keys(cluster, keys);
    desired
}

fn is_set(desired: &Desired, there: &ObservedEncryption) -> bool {
    let observed = Observed { encryption: Some(there.clone()), ..Observed::default() };
    let plan = diff(desired, &observed);
    !plan.iter().any(|action| matches!(action, Action::SetEncryptedUnderlay { .. }))
}

#[test]
fn a_peer_without_a_preshared_key_is_not_made_and_one_that_is_there_keeps_its_own() {
    let mut cluster = cluster(3);
    cluster.apply(&Command::SetEncryption { always: true }).unwrap();
    for number in 1..=3 {
        let end = TunnelEnd { key: TunnelKey::new([number; 32]), port: 7792 };
        cluster.apply(&Command::PublishTunnelEnd { host: host(number), end }).unwrap();
    }
    let both = wanted(&cluster, &[(host(2), key(2)), (host(3), key(3))].into());
    let EncryptionWanted::Present(underlay) = &both.encryption else { unreachable!() };
    let whole = ObservedEncryption::from(underlay);
    assert_eq!(whole.peers.len(), 2);
    let one = wanted(&cluster, &[(host(2), key(2))].into());
    let EncryptionWanted::Present(underlay) = &one.encryption else { unreachable!() };
    let half = ObservedEncryption::from(underlay);
    assert_eq!(half.peers.len(), 1);
    assert!(is_set(&both, &whole) && is_set(&one, &half));
    assert!(!is_set(&both, &half), "a key is known: the peer is to be made");
    assert!(is_set(&one, &whole), "the key was lost: the peer stays");
    let mut moved = whole.clone();
    moved.peers.get_mut(&TunnelKey::new([3; 32])).unwrap().endpoint = None;
    assert!(!is_set(&one, &moved), "the rest of it is as wanted");
    let other = wanted(&cluster, &[(host(2), key(2)), (host(3), key(4))].into());
    assert!(!is_set(&other, &whole), "it has another key");
    let mut handshaken = whole.clone();
    for peer in handshaken.peers.values_mut() {
        peer.last_handshake = Some(std::time::SystemTime::UNIX_EPOCH);
    }
    assert!(is_set(&both, &handshaken), "a handshake changes nothing");
    cluster.encryption.ends.remove(&host(3));
    assert!(!is_set(&wanted(&cluster, &[(host(3), key(3))].into()), &whole), "it was removed");
    let shown = format!("{both:?} {whole:?}");
    assert!(!shown.contains("2, 2, 2") && !shown.contains("3, 3, 3"), "{shown}");
}
