//! This host's memory of its own engine, on disk before anybody acts on it.

use std::sync::Arc;

use shoutd_consensus::{LocalStore, StoreError};
use shoutd_core::local::Local;
use tokio::sync::{Mutex, watch};

/// [`Local`], durable and shared. Changes are made one after the other; whoever reads sees the
/// newest that is on disk.
#[derive(Debug)]
pub struct LocalState {
    store: LocalStore,
    writing: Mutex<()>,
    published: watch::Sender<Arc<Local>>,
}

/// A change that was not made.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError<E> {
    /// Local state does not take it.
    #[error(transparent)]
    Refused(E),
    /// It could not be written to disk.
    #[error("cannot write local state")]
    Store(#[from] StoreError),
}

impl LocalState {
    /// Reads what is on disk.
    pub fn open(store: LocalStore) -> Result<Self, StoreError> {
        let local: Local = store.load()?.unwrap_or_default();
        Ok(Self { store, writing: Mutex::new(()), published: watch::Sender::new(Arc::new(local)) })
    }

    /// What is remembered now.
    pub fn get(&self) -> Arc<Local> {
        self.published.borrow().clone()
    }

    /// Follows the changes.
    pub fn watch(&self) -> watch::Receiver<Arc<Local>> {
        self.published.subscribe()
    }

    /// Makes a change that can be refused: on disk first, then for all to see.
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
