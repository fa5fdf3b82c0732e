//! A disk that is full: the host stops and says why, and has lost nothing when there is room again.

#[cfg(test)]
#[allow(dead_code, reason = "shared with other tests")]
mod common;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};
    use shoutd_consensus::{ProposeError, Role};
    use shoutd_core::cluster::{Command, Description};
    use tokio::time::timeout;

    use crate::common::{Place, SOON, create, founded, network_id};

    /// Puts a file system of this size on a directory, in a mount namespace of this thread alone: it goes with the thread.
    fn small_disk(directory: &Path, flags: MsFlags, size: &str) {
        let options = format!("size={size}");
        mount(Some("tmpfs"), directory, Some("tmpfs"), flags, Some(options.as_str())).unwrap();
    }

    // One thread, as only this one sees the small disk. Only opening a store uses paths.
    #[tokio::test]
    async fn a_full_disk_stops_the_host_and_loses_nothing() {
        unshare(CloneFlags::CLONE_NEWNS).expect("mount namespaces need root");
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        let directory = tempfile::tempdir().unwrap();
        small_disk(directory.path(), MsFlags::empty(), "8m");
        let place = Place::new(directory.path(), 1);
        let node = place.start().await;
        node.consensus.found(founded(), SOON).await.unwrap();
        let mut made = 0;
        let error = loop {
            let labels = (0..100).map(|label| (format!("{made}-{label}"), "x".repeat(2000))).collect();
            let description = Description { name: format!("n{made}"), labels, attachable: false };
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
        assert_eq!(error, ProposeError::Stopped);
        let reason = timeout(SOON, node.consensus.stopped()).await.unwrap();
        assert!(reason.starts_with(&format!("{}/agreed.redb: ", place.directory.display())), "{reason}");
        assert!(reason.contains("No space left on device") && !reason.contains('\n'), "{reason}");
        assert_eq!(node.status().role, Role::Stopped);
        node.stop().await;

        small_disk(directory.path(), MsFlags::MS_REMOUNT, "64m");
        let node = place.start().await;
        for number in 0..made {
            assert!(node.state().networks[&network_id(number)].description.is_some(), "network {number} is lost");
        }
        node.create(made + 1).await;
        node.stop().await;
    }
}
