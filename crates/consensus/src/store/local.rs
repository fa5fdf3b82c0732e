//! The file for this host's own state.

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::StoreError;
use super::file::{DatabaseFile, VALUES, read_one, to_json};

pub(super) const FILE: &str = "local.redb";
const KEY: &str = "local";

/// A file that holds one value.
#[derive(Debug)]
pub struct LocalStore {
    file: DatabaseFile,
}

impl LocalStore {
    /// Opens the store in this directory; makes it if it does not exist. Blocks for a few
    /// milliseconds.
    ///
    /// # Errors
    /// One line for the user; see [`StoreError`].
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        Ok(Self { file: DatabaseFile::open(directory, FILE)? })
    }

    /// The value that was saved last. Blocks.
    ///
    /// # Errors
    /// The file cannot be read, or holds a value of another type.
    pub fn load<T: DeserializeOwned>(&self) -> Result<Option<T>, StoreError> {
        self.file.run(|database| read_one(database, KEY))
    }

    /// Replaces the value. Durable when this returns.
    ///
    /// # Errors
    /// It could not be written. The old value remains.
    pub async fn save<T: Serialize + Sync>(&self, value: &T) -> Result<(), StoreError> {
        let bytes =
            to_json(value).map_err(|error| StoreError::from_use(self.file.path(), error))?;
        self.file
            .spawn(move |database| {
                let transaction = database.begin_write()?;
                transaction.open_table(VALUES)?.insert(KEY, bytes.as_slice())?;
                transaction.commit()?;
                Ok(())
            })
            .await
    }
}
