//! This host's own state of its engine. Every change is on disk before it is visible.

use std::sync::Arc;

use shoutd_consensus::{LocalStore, StoreError};
use shoutd_core::local::Local;
use tokio::sync::{Mutex, watch};

/// [`Local`], durable and shared. Changes are serialized; readers see the newest state on disk.
#[derive(Debug)]
pub struct LocalState {
    store: LocalStore,
    writing: Mutex<()>,
    published: watch::Sender<Arc<Local>>,
}

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError<E> {
    /// Local state refused it.
    #[error(transparent)]
    Refused(E),
    /// It could not be written to disk.
    #[error("cannot write local state")]
    Store(#[from] StoreError),
}

impl LocalState {
    /// Reads the state from disk.
    pub fn open(store: LocalStore) -> Result<Self, StoreError> {
        let local: Local = store.load()?.unwrap_or_default();
        Ok(Self { store, writing: Mutex::new(()), published: watch::Sender::new(Arc::new(local)) })
    }

    /// The current state.
    pub fn get(&self) -> Arc<Local> {
        self.published.borrow().clone()
    }

    /// Follows changes.
    pub fn watch(&self) -> watch::Receiver<Arc<Local>> {
        self.published.subscribe()
    }

    /// Makes a change that can be refused: first on disk, then for readers.
    pub async fn try_change<T, E>(
        &self,
        change: impl FnOnce(&mut Local) -> Result<T, E>,
    ) -> Result<T, ChangeError<E>> {
        let _one_at_a_time = self.writing.lock().await;
        let mut local = Local::clone(&self.get());
        let result = change(&mut local).map_err(ChangeError::Refused)?;
        if local != *self.get() {
            let local = Arc::new(local);
            self.store.save(&*local).await?;
            self.published.send_replace(local);
        }
        Ok(result)
    }

    /// Makes a change.
    pub async fn change<T>(&self, change: impl FnOnce(&mut Local) -> T) -> Result<T, StoreError> {
        let result =
            self.try_change(|local| Ok::<_, std::convert::Infallible>(change(local))).await;
        result.map_err(|error| match error {
            ChangeError::Store(error) => error,
            ChangeError::Refused(never) => match never {},
        })
    }
}
