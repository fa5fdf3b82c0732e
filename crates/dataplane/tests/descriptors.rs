//! How many descriptors a network takes. It is a process of its own, because it counts all
//! descriptors.

#![expect(clippy::unwrap_used, reason = "a test says what it expects by failing")]

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use shoutd_core::Vni;
use shoutd_core::plane::{Desired, Segment, Tier, Vtep};
use shoutd_dataplane::{LinuxKernel, Reconciler, Scope};

const NETWORKS: usize = 20;
const PATIENCE: Duration = Duration::from_secs(60);
/// Per network: its namespace, four subscriptions, and two sockets that stay open while the network
/// changes.
const EACH_MAX: usize = 7;

fn open() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

#[tokio::test]
async fn a_network_takes_few_descriptors() {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .unwrap();
    let directory = tempfile::tempdir().unwrap();
    mount(Some("tests"), directory.path(), Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    let kernel = LinuxKernel::new(directory.path().join("netns")).unwrap();
    let handle = Reconciler::spawn(kernel, Tier::VxlanMdb).unwrap();
    let generation = handle.apply(Desired::default());
    handle.settled(generation, &Scope::Everything, PATIENCE).await.unwrap();
    let before = open();

    let vtep = Vtep { address: Ipv4Addr::new(192, 0, 2, 1).into(), port: 7789, encrypted: false };
    let mut segments = BTreeMap::new();
    for number in 0..NETWORKS {
        let vni = Vni::new(u32::try_from(number).unwrap() + 1).unwrap();
        let network = format!("{number:064x}").parse().unwrap();
        segments.insert(vni, Segment::empty(network, 1450, vtep));
    }
    let generation = handle.apply(Desired { segments, ..Desired::default() });
    handle.settled(generation, &Scope::Everything, PATIENCE).await.unwrap();
    let mut memberships = handle.memberships();
    let all = memberships.wait_for(|all| all.len() == NETWORKS);
    tokio::time::timeout(PATIENCE, all).await.unwrap().unwrap();
    // Sockets that are open only during a round are closed by the next one.
    let deadline = std::time::Instant::now() + PATIENCE;
    let mut observed = handle.watch_observed();
    loop {
        let taken = open().saturating_sub(before);
        if taken <= NETWORKS * EACH_MAX {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{taken} files for {NETWORKS} networks");
        handle.poke();
        tokio::time::timeout(PATIENCE, observed.changed()).await.unwrap().unwrap();
    }
    nix::mount::umount2(directory.path(), nix::mount::MntFlags::MNT_DETACH).unwrap();
}
