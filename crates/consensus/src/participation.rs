//! Where this host stands with its cluster: which epoch of it it belongs to, whether it was told to
//! go, and whether it may speak yet.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::notice::Notices;
use crate::removal_notice::RemovalNotice;

/// See the module.
#[derive(Debug)]
pub(crate) struct Participation {
    epoch: AtomicU64,
    removal_notice: watch::Sender<Option<RemovalNotice>>,
    may_speak: watch::Sender<bool>,
    /// What a person should hear of.
    pub notices: Notices,
    /// Where others look for this host, as far as they have said.
    place: watch::Sender<Option<SocketAddr>>,
    /// Where another host with this host's identity is at work, that the cluster knows as this one.
    twin: watch::Sender<Option<SocketAddr>>,
    /// Where another host with this host's identity asked this one, and when.
    copy: Mutex<Option<(SocketAddr, Instant)>>,
}

/// How long a copy of this host that has asked once is shown.
const COPY_MEMORY: Duration = Duration::from_secs(60);

impl Participation {
    pub fn new(epoch: u64, removal_notice: Option<RemovalNotice>) -> Self {
        Self {
            epoch: AtomicU64::new(epoch),
            removal_notice: watch::Sender::new(removal_notice),
            may_speak: watch::Sender::new(false),
            notices: Notices::default(),
            place: watch::Sender::new(None),
            twin: watch::Sender::new(None),
            copy: Mutex::default(),
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
    pub fn leave(&self, removal_notice: RemovalNotice) {
        self.removal_notice.send_if_modified(|known| {
            let is_news = known.is_none();
            if is_news {
                *known = Some(removal_notice);
            }
            is_news
        });
    }

    pub fn removal_notice(&self) -> Option<RemovalNotice> {
        self.removal_notice.borrow().clone()
    }

    /// Ready when this host was told to go.
    pub async fn left(&self) -> RemovalNotice {
        let mut removal_notice = self.removal_notice.subscribe();
        let told = removal_notice
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|removal_notice| removal_notice.clone());
        match told {
            Some(removal_notice) => removal_notice,
            // Not as long as the sender is there, and it is in `self`.
            None => std::future::pending().await,
        }
    }

    /// Lets openraft's messages out: nobody who could be asked said that this host must not take
    /// part.
    pub fn allow_to_speak(&self) {
        self.may_speak.send_replace(true);
    }

    /// Whether they may.
    pub fn may_speak(&self) -> bool {
        *self.may_speak.borrow()
    }

    /// Takes note of where others look for this host.
    pub fn place(&self, address: SocketAddr) {
        self.place.send_if_modified(|known| known.replace(address) != Some(address));
    }

    /// Follows where others look for this host.
    pub fn watch_place(&self) -> watch::Receiver<Option<SocketAddr>> {
        self.place.subscribe()
    }

    /// Another host is at work as this one.
    pub fn find_twin(&self, address: SocketAddr) {
        self.twin.send_replace(Some(address));
    }

    /// Ready when another host was found to be at work as this one.
    pub async fn until_twin(&self) -> SocketAddr {
        let mut twin = self.twin.subscribe();
        let found = twin.wait_for(Option::is_some).await.ok().and_then(|found| *found);
        match found {
            Some(found) => found,
            None => std::future::pending().await,
        }
    }

    /// A copy of this host has asked. Returns whether that is news.
    pub fn meet_copy(&self, address: SocketAddr) -> bool {
        let mut known = self.copy.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.replace((address, Instant::now()));
        before.is_none_or(|(before, at)| before != address || at.elapsed() >= COPY_MEMORY)
    }

    /// Where a copy of this host has asked a moment ago.
    pub fn copy(&self) -> Option<SocketAddr> {
        let known = self.copy.lock().unwrap_or_else(PoisonError::into_inner);
        known.filter(|(_, at)| at.elapsed() < COPY_MEMORY).map(|(address, _)| address)
    }

    /// Ready when openraft's messages may go out.
    pub async fn speech(&self) {
        if self.may_speak.subscribe().wait_for(|may| *may).await.is_err() {
            // As above.
            std::future::pending::<()>().await;
        }
    }
}
