//! What is done to the data of a host whose daemon does not run: when the other hosts, or all data,
//! are lost.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use openraft::CommittedLeaderId;
use shoutd_core::{ClusterId, HostId};

use crate::backup::{self, BackupError, Content};
use crate::raft::LogId;
use crate::store::{self, StoreError, StoredIdentity};
use crate::{Settings, Store};

/// Why the cluster was not recovered on this host. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// There is nothing to recover.
    #[error("this host belongs to no cluster: there is nothing in {} to recover", .directory.display())]
    NoCluster {
        /// The data directory.
        directory: PathBuf,
    },
    /// What the user typed is not the cluster's id.
    #[error(
        "this host belongs to cluster {has}, not to {given}: to confirm that its other hosts are \
         lost for good, give the id of the cluster"
    )]
    NotConfirmed {
        /// The cluster of this host.
        has: ClusterId,
        /// What was given.
        given: ClusterId,
    },
    /// The host never received anything from the cluster.
    #[error("the cluster never reached this host ({}): recover on a host that was a member", .directory.display())]
    NoMember {
        /// The data directory.
        directory: PathBuf,
    },
    /// The host had left before.
    #[error(
        "this host was removed from the cluster, and cannot be what is left of it: recover on a \
         host that is a member"
    )]
    Removed,
    /// The log has something that this version does not know.
    #[error("{0}")]
    Outdated(String),
    /// The store cannot be opened, because the daemon runs, for instance, or not be written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What recovery did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// This host, which is now the only one.
    pub host: HostId,
    /// The hosts that do not belong to the cluster any more, with their names. The addresses of
    /// their containers stay reserved until each is removed by
    /// [`Consensus::remove_host`](crate::Consensus::remove_host). Empty if this host was the only
    /// one before, and nothing was done.
    pub lost: Vec<(HostId, String)>,
    /// The networks that are there.
    pub networks: usize,
}

/// Makes this host the only one of its cluster, with all that it knows of what was agreed on: for a
/// cluster that has lost the majority of its voters for good. The daemon must not run.
///
/// What the lost hosts agreed on without this host is lost with them. They count as removed, and
/// are told so if they come back: none of their messages is listened to any more. As long as this
/// host cannot be reached they cannot know, so they must not be started without it; if they were,
/// and had a majority, they would go on as the cluster they were, and give way as soon as they meet
/// this one.
///
/// `confirmation` is the id of the cluster, which somebody must have typed. `now` is the time since
/// 1970. Blocks.
///
/// # Errors
/// See [`RecoverError`].
pub fn recover(
    directory: &Path,
    confirmation: ClusterId,
    now: Duration,
) -> Result<Recovered, RecoverError> {
    let no_cluster = || RecoverError::NoCluster { directory: directory.to_owned() };
    let file = Store::open_existing(directory)?.ok_or_else(no_cluster)?;
    let contents = file.run(store::contents)?;
    let has = contents.identity.cluster.ok_or_else(no_cluster)?;
    if has != confirmation {
        return Err(RecoverError::NotConfirmed { has, given: confirmation });
    }
    let host = contents.identity.host;
    let mut cluster = contents.cluster;
    if contents.removal_notice.is_some() || cluster.admissions.removed.contains_key(&host) {
        return Err(RecoverError::Removed);
    }
    if let Some(unknown) = contents.unknown {
        return Err(RecoverError::Outdated(unknown.to_string()));
    }
    let Some(last) =
        contents.last.filter(|_| cluster.id == Some(has) && cluster.hosts.contains_key(&host))
    else {
        return Err(RecoverError::NoMember { directory: directory.to_owned() });
    };
    let networks = cluster.networks.len();
    if cluster.hosts.len() == 1 && contents.membership.voter_ids().eq([host.get()]) {
        return Ok(Recovered { host, lost: Vec::new(), networks });
    }
    let lost = cluster.keep_only(host, now).into_iter().map(|(id, host)| (id, host.name)).collect();
    let identity =
        StoredIdentity { epoch: next_epoch(contents.identity.epoch, now), ..contents.identity };
    let term = contents.term.max(last.leader_id.term) + 1;
    file.run(|database| store::stand_alone(database, identity, &cluster, (last, term)))?;
    file.close();
    Ok(Recovered { host, lost, networks })
}

/// Later than the one before, and, as far as the clock is right, than that of any other recovery of
/// the same cluster.
fn next_epoch(before: u64, now: Duration) -> u64 {
    now.as_secs().max(before.saturating_add(1))
}

/// Why a backup was not restored. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The directory belongs to a cluster.
    #[error(
        "{} has the data of a host of cluster {has}: restore into an empty data directory",
        .directory.display()
    )]
    NotEmpty {
        /// The directory.
        directory: PathBuf,
        /// The cluster.
        has: ClusterId,
    },
    /// The directory is another host's.
    #[error("{} has the data of host {has}, not of {given}: restore into an empty data directory", .directory.display())]
    OtherHost {
        /// The directory.
        directory: PathBuf,
        /// Whose it is.
        has: HostId,
        /// Who restores.
        given: HostId,
    },
    /// The backup cannot be used.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// The store cannot be opened or written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What restoring did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The cluster, which keeps its id.
    pub cluster: ClusterId,
    /// The hosts of the backup, with their names. Each must join anew, with an empty data
    /// directory; the addresses of its containers stay reserved until it is removed by
    /// [`Consensus::remove_host`](crate::Consensus::remove_host).
    pub lost: Vec<(HostId, String)>,
    /// The networks that are there.
    pub networks: usize,
    /// When the backup was made, as the time since 1970.
    pub made: Duration,
}

/// Founds a cluster anew from a backup, with this host as its only one: for when no host has its
/// data any more. The directory must be empty, but for this host's key; its daemon must not run,
/// nor that of any other host of the old cluster.
///
/// The cluster keeps its id and its networks. Its hosts must join anew, as they hold what was
/// agreed on since the backup, which is not known here; they are told so when they come back. If
/// one of them had this host's IP address, this host takes its place, with all it held. Tokens,
/// approvals and the authority that certified hosts are not in a backup: this host makes new ones.
///
/// `now` is the time since 1970. Blocks.
///
/// # Errors
/// See [`RestoreError`].
pub fn restore(
    reader: &mut dyn Read,
    directory: &Path,
    host: HostId,
    settings: &Settings,
    now: Duration,
) -> Result<Restored, RestoreError> {
    // Read whole before anything is made.
    let (summary, Content { mut cluster, epoch }) = backup::read(reader)?;
    let store = Store::open(directory, host)?;
    let before = store.identity();
    if let Some(has) = before.cluster {
        return Err(RestoreError::NotEmpty { directory: directory.to_owned(), has });
    }
    if before.host != host {
        return Err(RestoreError::OtherHost {
            directory: directory.to_owned(),
            has: before.host,
            given: host,
        });
    }
    let lost = cluster.settle_on(host, &settings.name, settings.advertise, now);
    let lost = lost.into_iter().map(|(id, host)| (id, host.name)).collect();
    let epoch = next_epoch(epoch, now);
    let identity = StoredIdentity { host, cluster: Some(summary.cluster), founder: true, epoch };
    let last = LogId::new(CommittedLeaderId::new(1, host.get()), summary.entries);
    let file = store.into_file();
    file.run(|database| store::stand_alone(database, identity, &cluster, (last, 1)))?;
    file.close();
    Ok(Restored {
        cluster: summary.cluster,
        lost,
        networks: cluster.networks.len(),
        made: summary.made,
    })
}
