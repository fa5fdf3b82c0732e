//! `recover` and `restore`: change the data directory of a host whose daemon does not run, when the
//! other hosts or all data are lost.

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
    #[error(
        "this host belongs to no cluster: there is nothing in {} to recover",
        .directory.display()
    )]
    NoCluster {
        /// The data directory.
        directory: PathBuf,
    },
    /// The user gave another id than the cluster's.
    #[error(
        "this host belongs to cluster {has}, not to {given}: to confirm that its other hosts are \
         lost for good, give the id of the cluster"
    )]
    NotConfirmed {
        /// The cluster of this host.
        has: ClusterId,
        /// The id that the user gave.
        given: ClusterId,
    },
    /// The host never received anything from the cluster.
    #[error(
        "the cluster never reached this host ({}): recover on a host that was a member",
        .directory.display()
    )]
    NoMember {
        /// The data directory.
        directory: PathBuf,
    },
    /// The host had left the cluster before.
    #[error(
        "this host was removed from the cluster, and cannot recover it: recover on a host that is \
         a member"
    )]
    Removed,
    /// The log has a command that this version does not know.
    #[error("{0}")]
    Outdated(String),
    /// The store cannot be opened, for example because the daemon runs, or cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The result of [`recover`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// This host, now the only one.
    pub host: HostId,
    /// The hosts that no longer belong to the cluster, with their names. The addresses of their
    /// containers stay leased until each host is removed by
    /// [`Consensus::remove_host`](crate::Consensus::remove_host). Empty if this host was already
    /// the only one and nothing was done.
    pub lost: Vec<(HostId, String)>,
    /// The number of networks.
    pub networks: usize,
}

/// Makes this host the only one of its cluster, with the agreed state that it has: for a
/// cluster that has lost the majority of its voters for good. The daemon must not run.
///
/// What the lost hosts committed without this host is lost. They count as removed, and are told
/// so if they come back: members accept none of their messages. While they cannot reach this
/// host they cannot know, so they must not be started without it. If they were started and had
/// a majority, they would continue as the old cluster until they meet this host, and then stop.
///
/// `confirmation` is the id of the cluster, which a user must have typed. `now` is the time
/// since 1970. Blocks.
///
/// # Errors
/// See [`RecoverError`].
pub fn recover(
    directory: &Path,
    confirmation: ClusterId,
    now: Duration,
) -> Result<Recovered, RecoverError> {
    let file = Store::open_existing(directory)?.ok_or_else(|| no_cluster(directory))?;
    let contents = file.run(store::contents)?;
    let has = contents.identity.cluster.ok_or_else(|| no_cluster(directory))?;
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

fn no_cluster(directory: &Path) -> RecoverError {
    RecoverError::NoCluster { directory: directory.to_owned() }
}

/// Higher than the epoch before, and, if the clocks are right, than that of any earlier recovery of
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
    #[error(
        "{} has the data of host {has}, not of {given}: restore into an empty data directory",
        .directory.display()
    )]
    OtherHost {
        /// The directory.
        directory: PathBuf,
        /// The host of the directory.
        has: HostId,
        /// The host that restores.
        given: HostId,
    },
    /// The backup cannot be used.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// The store cannot be opened or written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The result of [`restore`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The cluster, which keeps its id.
    pub cluster: ClusterId,
    /// The hosts of the backup, with their names. Each must join again with an empty data
    /// directory. The addresses of its containers stay leased until it is removed by
    /// [`Consensus::remove_host`](crate::Consensus::remove_host).
    pub lost: Vec<(HostId, String)>,
    /// The number of networks.
    pub networks: usize,
    /// When the backup was made, as the time since 1970.
    pub made: Duration,
}

/// Founds the cluster again from a backup, with this host as the only one: for when all hosts have
/// lost their data. The directory must be empty except for this host's key. No daemon of the old
/// cluster may run, on this host or another.
///
/// The cluster keeps its id and its networks. Its hosts must join again, as they have agreed state
/// that is newer than the backup and is lost here; they are told so when they come back. If one of
/// them had this host's IP address, this host replaces it, with all it held. Tokens, approvals and
/// the authority that certified hosts are not in a backup: this host makes new ones.
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
    // Read all of it before anything is written.
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
    let lost = cluster.make_only_member(host, &settings.name, settings.advertise, now);
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
