//! For `recover` and `restore`: reads a whole store, and rewrites it so that its host is the only
//! voter of its cluster.

use std::collections::{BTreeMap, BTreeSet};

use openraft::entry::RaftPayload;
use openraft::{BasicNode, EntryPayload, Membership};
use redb::{Database, ReadableDatabase};
use shoutd_core::cluster::Cluster;

use super::file::{self, VALUES, read, write};
use super::log::{COMMITTED, LOG, PURGED, VOTE, parse_entry};
use super::machine::{SNAPSHOT, SNAPSHOT_META, load, parse, to_data};
use super::{IDENTITY, REMOVAL_NOTICE, StoredIdentity, missing};
use crate::logged::{Logged, Unknown};
use crate::raft::{LogId, SnapshotMeta, StoredMembership, Vote};
use crate::removal_notice::RemovalNotice;

/// The contents of a store.
#[derive(Debug)]
pub(crate) struct Contents {
    pub identity: StoredIdentity,
    pub removal_notice: Option<RemovalNotice>,
    /// The state after the last entry of the log. The last few may be uncommitted. But some may be
    /// committed, and callers that proposed the others were told that these may still be committed.
    pub cluster: Cluster,
    pub membership: StoredMembership,
    pub last: Option<LogId>,
    pub term: u64,
    /// The first command that this version does not know.
    pub unknown: Option<Unknown>,
}

pub(crate) fn contents(database: &Database) -> file::Result<Contents> {
    let snapshot = load(database)?;
    let transaction = database.begin_read()?;
    let values = transaction.open_table(VALUES)?;
    let identity = read(&values, IDENTITY)?.ok_or_else(missing)?;
    let vote: Option<Vote> = read(&values, VOTE)?;
    let (meta, mut cluster) = match snapshot {
        Some((meta, data)) => (meta, parse(&data)?),
        None => (SnapshotMeta::default(), Cluster::default()),
    };
    let (mut last, mut membership, mut unknown) = (meta.last_log_id, meta.last_membership, None);
    let first = last.map_or(0, |last| last.index + 1);
    for item in transaction.open_table(LOG)?.range(first..)? {
        let entry = parse_entry(item?.1.value())?;
        if let Some(changed) = entry.get_membership() {
            membership = StoredMembership::new(Some(entry.log_id), changed.clone());
        }
        match entry.payload {
            // A refused command changes nothing, here as on every host.
            EntryPayload::Normal(Logged::Known(command)) => drop(cluster.apply(&command)),
            EntryPayload::Normal(Logged::Unknown(what)) => {
                unknown = Some(what);
                break;
            }
            EntryPayload::Blank | EntryPayload::Membership(_) => {}
        }
        last = Some(entry.log_id);
    }
    let term = vote.map_or(0, |vote| vote.leader_id().term);
    let removal_notice = read(&values, REMOVAL_NOTICE)?;
    Ok(Contents { identity, removal_notice, cluster, membership, last, term, unknown })
}

/// Makes the store's host the only voter of a cluster with this state, as if it had only ever
/// received a snapshot of it. One transaction, durable when this returns.
pub(crate) fn stand_alone(
    database: &Database,
    identity: StoredIdentity,
    cluster: &Cluster,
    (last, term): (LogId, u64),
) -> file::Result<()> {
    let me = identity.host.get();
    let address =
        cluster.hosts.get(&identity.host).map(|host| host.address.to_string()).unwrap_or_default();
    let nodes = BTreeMap::from([(me, BasicNode::new(address))]);
    let membership =
        StoredMembership::new(Some(last), Membership::new(vec![BTreeSet::from([me])], nodes));
    let snapshot_id = format!("{last}-alone-{}", identity.epoch);
    let meta = SnapshotMeta { last_log_id: Some(last), last_membership: membership, snapshot_id };
    let data = to_data(cluster)?;
    let transaction = database.begin_write()?;
    {
        let mut values = transaction.open_table(VALUES)?;
        write(&mut values, IDENTITY, &identity)?;
        write(&mut values, SNAPSHOT_META, &meta)?;
        values.insert(SNAPSHOT, data.as_slice())?;
        write(&mut values, PURGED, &last)?;
        write(&mut values, COMMITTED, &Some(last))?;
        write(&mut values, VOTE, &Vote::new(term, me))?;
        values.remove(REMOVAL_NOTICE)?;
        transaction.open_table(LOG)?.retain(|_, _| false)?;
    }
    transaction.commit()?;
    Ok(())
}
