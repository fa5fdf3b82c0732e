use openraft::testing::{StoreBuilder, Suite};
use shoutd_core::HostId;
use tempfile::TempDir;

use super::*;
use crate::raft::{StorageError, Types};

struct Builder;

impl StoreBuilder<Types, LogStore, Machine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, Machine), StorageError> {
        let directory = tempfile::tempdir().unwrap();
        let file = Store::open(directory.path(), HostId::new(1).unwrap()).unwrap().into_file();
        let (machine, _) = Machine::open(file.clone()).await.unwrap();
        Ok((directory, LogStore::new(file), machine))
    }
}

#[test]
fn openraft_storage_suite() {
    Suite::test_all(Builder).unwrap();
}
