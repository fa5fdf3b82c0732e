use std::fs;

use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use openraft::testing::{StoreBuilder, Suite};
use openraft::{CommittedLeaderId, EntryPayload, RaftLogReader};
use shoutd_core::cluster::Command;
use tempfile::TempDir;

use super::*;
use crate::raft::{Entry, LogId, StorageError, Types, Vote};

struct Builder;

impl StoreBuilder<Types, LogStore, Machine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, Machine), StorageError> {
        let directory = tempfile::tempdir().unwrap();
        let file = open(directory.path()).unwrap().into_file();
        let (machine, _) = Machine::open(file.clone()).await.unwrap();
        Ok((directory, LogStore::new(file), machine))
    }
}

#[test]
fn openraft_storage_suite() {
    Suite::test_all(Builder).unwrap();
}

fn host(id: u64) -> HostId {
    HostId::new(id).unwrap()
}

fn open(directory: &Path) -> Result<Store, StoreError> {
    Store::open(directory, host(1))
}

fn log_id(index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(1, 1), index)
}

fn entries(indices: std::ops::Range<u64>) -> Vec<Entry> {
    indices
        .map(|index| {
            let command = Command::Found { cluster: ClusterId::new(u128::from(index)) };
            Entry { log_id: log_id(index), payload: EntryPayload::Normal(command.into()) }
        })
        .collect()
}

/// What a store has of a log.
#[derive(Debug, Default, PartialEq)]
struct LogContents {
    entries: Vec<Entry>,
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
}

async fn log_of(store: Store) -> LogContents {
    let mut log = LogStore::new(store.into_file());
    LogContents {
        purged: log.get_log_state().await.unwrap().last_purged_log_id,
        entries: log.try_get_log_entries(..).await.unwrap(),
        vote: log.read_vote().await.unwrap(),
        committed: log.read_committed().await.unwrap(),
    }
}

/// The log after a crash: a copy of the open file is in the state that a crash leaves.
async fn log_after_crash(directory: &Path) -> LogContents {
    let copy = tempfile::tempdir().unwrap();
    fs::copy(directory.join(FILE), copy.path().join(FILE)).unwrap();
    log_of(open(copy.path()).unwrap()).await
}

#[tokio::test]
async fn acknowledged_writes_are_on_disk() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let mut log = LogStore::new(open(directory).unwrap().into_file());
    let mut expected = LogContents { entries: entries(0..10), ..LogContents::default() };
    log.blocking_append(entries(0..10)).await.unwrap();
    assert_eq!(log_after_crash(directory).await, expected);
    log.save_vote(&Vote::new(3, 1)).await.unwrap();
    expected.vote = Some(Vote::new(3, 1));
    assert_eq!(log_after_crash(directory).await, expected);
    log.save_committed(Some(log_id(7))).await.unwrap();
    expected.committed = Some(log_id(7));
    assert_eq!(log_after_crash(directory).await, expected);
    log.truncate(log_id(8)).await.unwrap();
    log.purge(log_id(2)).await.unwrap();
    (expected.entries, expected.purged) = (entries(3..8), Some(log_id(2)));
    assert_eq!(log_after_crash(directory).await, expected);
}

#[tokio::test]
async fn one_message_has_at_least_one_entry_and_a_bounded_size() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = LogStore::new(open(directory.path()).unwrap().into_file());
    let name = "x".repeat(400_000);
    let large = (0..10).map(|index| {
        let command = Command::AdmitHost {
            host: host(1),
            name: name.clone(),
            address: "10.0.0.1:7789".parse().unwrap(),
        };
        Entry { log_id: log_id(index), payload: EntryPayload::Normal(command.into()) }
    });
    log.blocking_append(large).await.unwrap();
    assert_eq!(log.limited_get_log_entries(0, 10).await.unwrap().len(), 2);
    assert_eq!(log.limited_get_log_entries(9, 10).await.unwrap().len(), 1);
    assert_eq!(log.try_get_log_entries(0..10).await.unwrap().len(), 10);
}

#[tokio::test]
async fn a_host_keeps_its_id_and_its_cluster() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).unwrap();
    assert_eq!(
        store.identity(),
        StoredIdentity { host: host(1), cluster: None, founder: false, epoch: 0 }
    );
    let file = store.into_file();
    let (ours, theirs) = (ClusterId::new(7), ClusterId::new(8));
    let recorded = StoredIdentity { host: host(1), cluster: Some(ours), founder: true, epoch: 3 };
    assert_eq!(record_cluster(&file, ours, true, 3).await.unwrap(), recorded);
    assert_eq!(record_cluster(&file, theirs, false, 4).await.unwrap(), recorded);
    file.close();
    assert_eq!(Store::open(directory.path(), host(2)).unwrap().identity(), recorded);
}

#[tokio::test]
async fn local_state_is_kept_in_a_file_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let agreed = open(directory.path()).unwrap();
    let local = LocalStore::open(directory.path()).unwrap();
    assert_eq!(local.load::<Vec<String>>().unwrap(), None);
    local.save(&vec!["one"]).await.unwrap();
    local.save(&vec!["one", "two"]).await.unwrap();
    drop((agreed, local));
    let local = LocalStore::open(directory.path()).unwrap();
    assert_eq!(local.load::<Vec<String>>().unwrap().unwrap(), ["one", "two"]);
    let error = local.load::<u32>().unwrap_err().to_string();
    assert!(error.contains("local.redb is damaged") && !error.contains('\n'), "{error}");
}

#[test]
fn a_directory_that_cannot_be_used_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let error = open(&file).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("data directory {} cannot be used: File exists (os error 17)", file.display())
    );
    let below = file.join("below");
    let error = open(&below).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("data directory {} cannot be used: Not a directory (os error 20)", below.display())
    );
    // Even root cannot write there.
    let error = open(Path::new("/proc/shoutd")).unwrap_err();
    assert!(
        error.to_string().starts_with("data directory /proc/shoutd cannot be used: "),
        "{error}"
    );
}

#[test]
fn only_root_can_read_the_files() {
    use std::os::unix::fs::PermissionsExt;
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("shoutd");
    let _store = open(&directory).unwrap();
    for (path, expected) in [(directory.clone(), 0o700), (directory.join(FILE), 0o600)] {
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, expected, "{}", path.display());
    }
}

#[test]
fn a_second_shoutd_with_the_same_directory_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let first = open(directory.path()).unwrap();
    let error = open(directory.path()).unwrap_err().to_string();
    assert_eq!(
        error,
        format!(
            "another shoutd is running with this data directory ({})",
            directory.path().display()
        )
    );
    drop(first);
    open(directory.path()).unwrap();
}

/// Why a new file is refused when it has this format.
fn refusal_of(directory: &Path, format: u32) -> String {
    let file = open(directory).unwrap().into_file();
    file.run(move |database| file::write_one(database, "format", &format)).unwrap();
    file.close();
    open(directory).unwrap_err().to_string()
}

#[test]
fn a_file_of_another_format_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let newer = refusal_of(directory.path(), 3);
    let text = format!(
        "{} was written by a newer shoutd (format 3, this one knows 2): upgrade shoutd",
        directory.path().join(FILE).display()
    );
    assert_eq!(newer, text);
    let directory = tempfile::tempdir().unwrap();
    let older = refusal_of(directory.path(), 1);
    let text = "was written by a shoutd from before the first release (format 1, this one knows \
                2): restore a copy of";
    assert!(older.contains(text) && !older.contains('\n'), "{older}");
}

/// The error of opening a file with these contents, if there is one.
fn verdict(contents: &[u8]) -> Option<String> {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join(FILE), contents).unwrap();
    let error = open(directory.path()).err()?;
    assert!(matches!(error, StoreError::Damaged { .. }), "{error:?}");
    let text = error.to_string();
    assert!(
        text.starts_with(&format!("{} is damaged: ", directory.path().join(FILE).display())),
        "{text}"
    );
    assert!(!text.contains('\n'), "{text}");
    Some(text)
}

async fn sound_file() -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let file = open(directory.path()).unwrap().into_file();
    LogStore::new(file.clone()).blocking_append(entries(0..200)).await.unwrap();
    file.close();
    fs::read(directory.path().join(FILE)).unwrap()
}

#[tokio::test]
async fn a_file_that_is_no_database_is_damaged() {
    let sound = sound_file().await;
    assert_eq!(verdict(&sound), None);
    assert!(verdict(b"x").is_some());
    assert!(verdict(&b"garbage ".repeat(10_000)).is_some());
    assert!(verdict(&vec![0; sound.len()]).is_some());
    for part in [16, 4096, sound.len() / 2, sound.len() - 4096] {
        assert!(verdict(&sound[..part]).is_some(), "{part} bytes of {}", sound.len());
    }
}

#[tokio::test]
async fn damage_is_detected_or_harmless() {
    let sound = sound_file().await;
    let mut found = 0;
    for position in (0..sound.len()).step_by(4099) {
        let mut damaged = sound.clone();
        for byte in damaged.iter_mut().skip(position).take(64) {
            *byte = !*byte;
        }
        if verdict(&damaged).is_some() {
            found += 1;
            continue;
        }
        // It hit an unused page: no entry is lost.
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(FILE), damaged).unwrap();
        let log = log_of(open(directory.path()).unwrap()).await;
        assert_eq!(log.entries, entries(0..200), "damage at {position}");
    }
    assert!(found > 0);
}
