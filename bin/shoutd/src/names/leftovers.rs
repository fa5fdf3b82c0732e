//! Removes lines of an earlier version, which wrote into any file that a user had mounted at
//! a container's `/etc/hosts`: often the host's own hosts file.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use shoutd_core::cluster::Cluster;
use shoutd_core::events::EventKind;
use shoutd_core::names::{Cleaned, KnowingContainer, without_lines};
use tracing::{debug, warn};

use super::in_place::rewrite_as;
use super::proof::open_plain;
use crate::api::events::Events;

/// The host's own hosts file.
const HOST: &str = "/etc/hosts";

/// The files that were already cleaned. This version writes nothing there, so once is enough.
#[derive(Debug, Default)]
pub struct Leftovers {
    seen: BTreeSet<PathBuf>,
}

impl Leftovers {
    /// Cleans new files: the host's own, and those that users mounted into containers.
    pub async fn clean(
        &mut self,
        cluster: &Cluster,
        containers: &BTreeMap<String, KnowingContainer>,
        events: &Events,
    ) {
        // We recognize our lines by the subnets of the cluster's networks.
        if cluster.id.is_none() {
            return;
        }
        let foreign = containers.values().filter_map(|known| known.foreign_file.clone());
        let files: BTreeSet<PathBuf> = foreign.chain([PathBuf::from(HOST)]).collect();
        self.seen.retain(|path| files.contains(path));
        let new: Vec<PathBuf> = files.difference(&self.seen).cloned().collect();
        if new.is_empty() {
            return;
        }
        let pools = cluster.networks.values().flat_map(|network| &network.settings.pools);
        let subnets: Vec<IpNet> = pools.map(|pool| pool.subnet).collect();
        let cleaning = tokio::task::spawn_blocking(move || {
            let cleaned = new.into_iter().map(|path| {
                let cleaned = clean(&path, &subnets);
                (path, cleaned)
            });
            cleaned.collect::<Vec<_>>()
        });
        for (path, cleaned) in cleaning.await.unwrap_or_default() {
            report(&path, cleaned, events);
            self.seen.insert(path);
        }
    }
}

/// Removes the lines of one file. `None` if it had no line with shoutd's mark.
fn clean(path: &Path, subnets: &[IpNet]) -> io::Result<Option<Cleaned>> {
    let mut file = open_plain(path)?;
    let mut found = None;
    rewrite_as(&mut file, |now| {
        found = without_lines(now, subnets);
        found.as_ref().filter(|cleaned| cleaned.removed > 0).map(|cleaned| cleaned.text.clone())
    })?;
    Ok(found)
}

fn report(path: &Path, cleaned: io::Result<Option<Cleaned>>, events: &Events) {
    let file = path.display();
    let Cleaned { removed, left, .. } = match cleaned {
        Ok(Some(cleaned)) => cleaned,
        Ok(None) => return,
        Err(error) if error.kind() == ErrorKind::NotFound => return,
        // Users may mount anything at a container's /etc/hosts: devices, or read-only files.
        Err(error) if path != Path::new(HOST) => {
            debug!("{file}: not checked for lines of an earlier version: {error}");
            return;
        }
        Err(error) => {
            warn!("{file}: cannot check for lines of an earlier version: {error}");
            return;
        }
    };
    if removed > 0 {
        let lines = if removed == 1 { "line" } else { "lines" };
        let text =
            format!("removed {removed} {lines} that an earlier version of shoutd had written");
        events.note(EventKind::HostsFileCleaned, &file.to_string(), &text);
    }
    if left > 0 {
        let text = format!(
            "{left} of its lines end in \"# shoutd\", but have no address of this cluster's \
             networks; shoutd kept them; remove them if they are not needed"
        );
        events.note(EventKind::HostsFileCleaned, &file.to_string(), &text);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn only_lines_of_an_earlier_version_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hosts");
        let foreign =
            "127.0.0.1\tlocalhost\n\n192.0.2.7\tmine # shoutd\n10.0.0.3 typed # shoutd\n# end";
        fs::write(&path, format!("10.0.0.2\tdb registry-1.docker.io # shoutd\n{foreign}")).unwrap();
        let subnets = ["10.0.0.0/24".parse().unwrap()];
        let cleaned = clean(&path, &subnets).unwrap().unwrap();
        assert_eq!((cleaned.removed, cleaned.left), (1, 2));
        assert_eq!(fs::read_to_string(&path).unwrap(), foreign);
        assert_eq!(clean(&path, &subnets).unwrap().unwrap().removed, 0);
        fs::write(&path, "127.0.0.1\tlocalhost\n").unwrap();
        assert_eq!(clean(&path, &subnets).unwrap(), None);
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        clean(&link, &subnets).unwrap_err();
    }
}
