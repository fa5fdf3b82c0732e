//! A full disk: consensus stops and reports it, and continues when there is space again, with
//! nothing lost.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use shoutd_consensus::Role;
use shoutd_core::cluster::{Command, Description};
use tokio::time::timeout;

use crate::common::{Place, SOON, create, eventually, founded, network_id};

/// Mounts a file system of this size on a directory, in a mount namespace of this thread alone,
/// which ends with the thread.
fn small_disk(directory: &Path, flags: MsFlags, size: &str) {
    let options = format!("size={size}");
    mount(Some("tmpfs"), directory, Some("tmpfs"), flags, Some(options.as_str())).unwrap();
}

// One thread, as only this one sees the mount. A store uses paths only when it is opened.
#[tokio::test]
async fn a_full_disk_stops_consensus_until_there_is_space_and_loses_nothing() {
    unshare(CloneFlags::CLONE_NEWNS).expect("mount namespaces need root");
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .unwrap();
    let directory = tempfile::tempdir().unwrap();
    small_disk(directory.path(), MsFlags::empty(), "8m");
    let place = Place::new(directory.path(), 1);
    let node = place.start().await;
    node.consensus.found(founded(), SOON).await.unwrap();
    let mut made = 0;
    let error = loop {
        let labels = (0..100).map(|label| (format!("{made}-{label}"), "x".repeat(2000))).collect();
        let description = Description {
            name: format!("n{made}"),
            labels,
            attachable: false,
            ..Description::default()
        };
        let described = Command::DescribeNetwork { id: network_id(made), description };
        let proposed = async {
            node.consensus.propose(create(node.host(), made), SOON).await?;
            node.consensus.propose(described, SOON).await
        };
        match proposed.await {
            Ok(_) => made += 1,
            Err(error) => break error,
        }
    };
    assert!(made > 3);
    let full =
        format!("{}/agreed.redb: No space left on device (os error 28)", place.directory.display());
    let told = format!(
        "consensus waits for this host's disk: {full}: free space on the disk, or make it \
         writable"
    );
    assert_eq!(error.to_string(), told);
    assert_eq!(
        node.status().fault,
        Some(format!("{full}: free space on the disk, or make it writable"))
    );
    // The error now comes at once, and agreed state can still be read.
    let again = node.consensus.propose(create(node.host(), made), SOON);
    assert_eq!(timeout(Duration::from_millis(100), again).await.unwrap().unwrap_err(), error);
    assert!(node.has(made - 1));

    // It continues by itself when there is space.
    small_disk(directory.path(), MsFlags::MS_REMOUNT, "64m");
    eventually("the disk can be written", || node.status().fault.is_none()).await;
    node.create(made + 1).await;
    assert_eq!(node.status().role, Role::Leader);
    node.stop().await;

    // It also starts on a disk without any space.
    let path = directory.path().join("ballast");
    let mut ballast = File::create(&path).unwrap();
    while ballast.write_all(&[0; 4096]).is_ok() {}
    let node = place.start().await;
    for number in 0..made {
        assert!(
            node.state().networks[&network_id(number)].description.is_some(),
            "network {number} is lost"
        );
    }
    fs::remove_file(path).unwrap();
    node.create(made + 2).await;
    node.stop().await;
}
