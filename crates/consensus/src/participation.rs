//! Whether this host may take part in its cluster: its epoch, whether it was removed, whether it
//! may send yet, and whether another host runs with its identity.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::notice::Notices;
use crate::removal_notice::RemovalNotice;

#[derive(Debug)]
pub(crate) struct Participation {
    epoch: AtomicU64,
    removal_notice: watch::Sender<Option<RemovalNotice>>,
    may_send: watch::Sender<bool>,
    /// Notices for users.
    pub notices: Notices,
    /// The address at which the others know this host, if they have said so.
    known_at: watch::Sender<Option<SocketAddr>>,
    /// The address of another host that runs with this host's identity, if the cluster knows that
    /// host under the identity. This daemon then ends.
    duplicate: watch::Sender<Option<SocketAddr>>,
    /// The address of a copy of this host that called it, and when. The cluster knows this host, so
    /// the copy ends and this host only reports it.
    copy: Mutex<Option<(SocketAddr, Instant)>>,
}

/// How long we show a copy of this host after its last call.
const COPY_MEMORY: Duration = Duration::from_secs(60);

impl Participation {
    pub fn new(epoch: u64, removal_notice: Option<RemovalNotice>) -> Self {
        Self {
            epoch: AtomicU64::new(epoch),
            removal_notice: watch::Sender::new(removal_notice),
            may_send: watch::Sender::new(false),
            notices: Notices::default(),
            known_at: watch::Sender::new(None),
            duplicate: watch::Sender::new(None),
            copy: Mutex::default(),
        }
    }

    /// The epoch of this host's cluster.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Relaxed)
    }

    pub fn set_epoch(&self, epoch: u64) {
        self.epoch.store(epoch, Ordering::Relaxed);
    }

    /// Records that this host has left the cluster. The first notice counts.
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

    /// Resolves when this host has left the cluster.
    pub async fn left(&self) -> RemovalNotice {
        let mut removal_notice = self.removal_notice.subscribe();
        let told = removal_notice
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|removal_notice| removal_notice.clone());
        match told {
            Some(removal_notice) => removal_notice,
            // Cannot happen: `self` has the sender.
            None => std::future::pending().await,
        }
    }

    /// Allows openraft to send: no host that could be asked said that this one must not take part.
    pub fn allow_sending(&self) {
        self.may_send.send_replace(true);
    }

    /// Whether openraft may send.
    pub fn may_send(&self) -> bool {
        *self.may_send.borrow()
    }

    /// Records the address at which the others know this host.
    pub fn note_known_at(&self, address: SocketAddr) {
        self.known_at.send_if_modified(|known| known.replace(address) != Some(address));
    }

    /// Watches the address at which the others know this host.
    pub fn watch_known_at(&self) -> watch::Receiver<Option<SocketAddr>> {
        self.known_at.subscribe()
    }

    /// Records that another host runs with this host's identity, and that the cluster knows that
    /// one.
    pub fn found_duplicate(&self, address: SocketAddr) {
        self.duplicate.send_replace(Some(address));
    }

    /// Resolves when such a host was found.
    pub async fn until_duplicate(&self) -> SocketAddr {
        let mut duplicate = self.duplicate.subscribe();
        let found = duplicate.wait_for(Option::is_some).await.ok().and_then(|found| *found);
        match found {
            Some(found) => found,
            None => std::future::pending().await,
        }
    }

    /// Records a call from a copy of this host. Returns whether that is news.
    pub fn called_by_copy(&self, address: SocketAddr) -> bool {
        let mut known = self.copy.lock();
        let before = known.replace((address, Instant::now()));
        before.is_none_or(|(before, at)| before != address || at.elapsed() >= COPY_MEMORY)
    }

    /// The address of a copy of this host that called it lately.
    pub fn copy(&self) -> Option<SocketAddr> {
        let known = self.copy.lock();
        known.filter(|(_, at)| at.elapsed() < COPY_MEMORY).map(|(address, _)| address)
    }

    /// Resolves when openraft may send.
    pub async fn sending_allowed(&self) {
        if self.may_send.subscribe().wait_for(|may| *may).await.is_err() {
            // Cannot happen, as above.
            std::future::pending::<()>().await;
        }
    }
}
