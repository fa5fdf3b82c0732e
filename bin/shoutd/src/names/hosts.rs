//! Writes the names of other hosts' containers into the hosts files of this host's containers.
//!
//! Docker creates such a file for each container, mounts it at `/etc/hosts`, and changes lines in
//! place when the container's networks change (`libnetwork/etchosts`). We change it in place, too,
//! and keep all lines that are not ours. If ours are overwritten, we write them again within ten
//! seconds.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use shoutd_core::advertise::PeerStates;
use shoutd_core::names::{Directory, HostsFile, containers, hosts_file};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::in_place::rewrite_as;
use super::leftovers::Leftovers;
use super::proof::open_own;
use crate::app::services::Services;

/// Interval at which all files are checked: Docker or a process in the container may change a file
/// at any time.
const PERIOD: Duration = Duration::from_secs(10);

/// The hosts files of this host's containers.
#[derive(Debug)]
pub struct HostsFiles {
    services: Services,
    heard: watch::Receiver<Arc<PeerStates>>,
    /// The names last written to each file, by its path.
    written: BTreeMap<PathBuf, (HostsFile, Directory)>,
    /// Problems that were already logged.
    problems: BTreeMap<PathBuf, String>,
    leftovers: Leftovers,
}

impl HostsFiles {
    /// Starts with nothing written.
    pub fn new(services: Services, heard: watch::Receiver<Arc<PeerStates>>) -> Self {
        let (written, problems, leftovers) =
            (BTreeMap::new(), BTreeMap::new(), Leftovers::default());
        Self { services, heard, written, problems, leftovers }
    }

    /// Keeps the files up to date until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let (mut cluster, mut local) =
            (self.services.agreement.watch(), self.services.local.watch());
        let mut tick = tokio::time::interval(PERIOD);
        loop {
            let all = tokio::select! {
                changed = cluster.changed() => { if changed.is_err() { return } false }
                changed = local.changed() => { if changed.is_err() { return } false }
                changed = self.heard.changed() => { if changed.is_err() { return } false }
                _ = tick.tick() => true,
                () = stop.cancelled() => return,
            };
            self.write(all).await;
        }
    }

    /// Writes the files whose names have changed, or checks all files.
    async fn write(&mut self, all: bool) {
        let heard = self.heard.borrow().clone();
        let cluster = self.services.agreement.cluster();
        let containers = containers(&cluster, &self.services.local.get(), &heard);
        self.leftovers.clean(&cluster, &containers, &self.services.events).await;
        let files =
            containers.into_values().filter_map(|known| Some((known.hosts_file?, known.directory)));
        let mut wanted: BTreeMap<_, _> =
            files.map(|(file, directory)| (file.path(), (file, directory))).collect();
        // A container that has left its last network still runs; remove our names from its file.
        for (path, (file, _)) in &self.written {
            wanted.entry(path.clone()).or_insert_with(|| (file.clone(), Directory::default()));
        }
        let due: Vec<_> = wanted
            .into_iter()
            .filter(|(path, is)| all || self.written.get(path) != Some(is))
            .collect();
        if due.is_empty() {
            return;
        }
        let writing = tokio::task::spawn_blocking(move || {
            let written = due.into_iter().map(|(_, (file, directory))| {
                let result = open_own(&file).and_then(|mut open| rewrite(&mut open, &directory));
                (file, directory, result)
            });
            written.collect::<Vec<_>>()
        });
        for (file, directory, result) in writing.await.unwrap_or_default() {
            self.note(file, directory, result);
        }
    }

    fn note(&mut self, file: HostsFile, directory: Directory, result: io::Result<()>) {
        let path = file.path();
        let problem = match result {
            Ok(()) => None,
            // The container is gone, or is starting and has no file yet.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.written.remove(&path);
                self.problems.remove(&path);
                return;
            }
            Err(error) => Some(error.to_string()),
        };
        if let Some(problem) = &problem
            && self.problems.get(&path) != Some(problem)
        {
            warn!(
                "{}: {problem}; this container cannot resolve names of other hosts' containers",
                path.display()
            );
        }
        match problem {
            Some(problem) => self.problems.insert(path.clone(), problem),
            None => self.problems.remove(&path),
        };
        if directory == Directory::default() {
            self.written.remove(&path);
        } else {
            self.written.insert(path, (file, directory));
        }
    }
}

/// Updates our lines in a file.
fn rewrite(file: &mut File, directory: &Directory) -> io::Result<()> {
    rewrite_as(file, |now| hosts_file(now, directory))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use super::super::in_place::FILE_BYTES_MAX;
    use super::super::proof::open_plain;
    use super::*;

    fn rewrite(path: &std::path::Path, directory: &Directory) -> io::Result<()> {
        super::rewrite(&mut open_plain(path)?, directory)
    }

    fn directory(name: &str, address: &str) -> Directory {
        let name: shoutd_core::names::Name = name.parse().unwrap();
        Directory {
            addresses: [(name.clone(), [address.parse().unwrap()].into())].into(),
            remote: [name].into(),
        }
    }

    #[test]
    fn a_file_is_changed_in_place_and_restored() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hosts");
        fs::write(&path, "127.0.0.1\tlocalhost\n").unwrap();
        let inode = fs::metadata(&path).unwrap().ino();
        rewrite(&path, &directory("web", "10.0.0.7")).unwrap();
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            "127.0.0.1\tlocalhost\n10.0.0.7\tweb # shoutd\n"
        );
        rewrite(&path, &Directory::default()).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "127.0.0.1\tlocalhost\n");
        assert_eq!(fs::metadata(&path).unwrap().ino(), inode, "it is mounted");
    }

    #[test]
    fn a_file_that_is_not_a_hosts_file_is_not_changed() {
        let folder = tempfile::tempdir().unwrap();
        let other = folder.path().join("other");
        for content in [vec![0xff, 0xfe], vec![b'#'; usize::try_from(FILE_BYTES_MAX).unwrap() + 1]]
        {
            fs::write(&other, &content).unwrap();
            rewrite(&other, &directory("a", "10.0.0.1")).unwrap_err();
            assert_eq!(fs::read(&other).unwrap(), content);
        }
        rewrite(folder.path(), &directory("a", "10.0.0.1")).unwrap_err();
    }
}
