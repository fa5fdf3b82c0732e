//! Where this host stands with its cluster: which epoch of it it belongs to, whether it was told to go, and whether it may speak yet.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

use crate::farewell::Farewell;

/// See the module.
#[derive(Debug)]
pub(crate) struct Standing {
    epoch: AtomicU64,
    farewell: watch::Sender<Option<Farewell>>,
    may_speak: watch::Sender<bool>,
}

impl Standing {
    pub fn new(epoch: u64, farewell: Option<Farewell>) -> Self {
        Self {
            epoch: AtomicU64::new(epoch),
            farewell: watch::Sender::new(farewell),
            may_speak: watch::Sender::new(false),
        }
    }

    /// How often the cluster had been recovered or restored when this host came to it.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Relaxed)
    }

    pub fn set_epoch(&self, epoch: u64) {
        self.epoch.store(epoch, Ordering::Relaxed);
    }

    /// This host does not belong to the cluster any more. The first word counts.
    pub fn leave(&self, farewell: Farewell) {
        self.farewell.send_if_modified(|known| {
            let is_news = known.is_none();
            if is_news {
                *known = Some(farewell);
            }
            is_news
        });
    }

    pub fn farewell(&self) -> Option<Farewell> {
        self.farewell.borrow().clone()
    }

    /// Ready when this host was told to go.
    pub async fn left(&self) -> Farewell {
        let mut farewell = self.farewell.subscribe();
        let told = farewell.wait_for(Option::is_some).await.ok().and_then(|farewell| farewell.clone());
        match told {
            Some(farewell) => farewell,
            // Not as long as the sender is there, and it is in `self`.
            None => std::future::pending().await,
        }
    }

    /// Lets openraft's messages out: nobody who could be asked said that this host must not take part.
    pub fn allow_to_speak(&self) {
        self.may_speak.send_replace(true);
    }

    /// Ready when openraft's messages may go out.
    pub async fn speech(&self) {
        if self.may_speak.subscribe().wait_for(|may| *may).await.is_err() {
            // As above.
            std::future::pending::<()>().await;
        }
    }
}
