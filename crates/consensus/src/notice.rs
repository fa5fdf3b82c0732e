//! Notices of consensus for users.

use std::collections::VecDeque;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// The limit on waiting notices. The oldest are dropped: there are few kinds, and they repeat.
const NOTICES_MAX: usize = 16;

/// The kind of a notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoticeKind {
    /// A host's data directory is older than what the host has acknowledged.
    Rollback,
    /// Two hosts run with one identity.
    Copied,
    /// One of two hosts does not trust the other's certificate: the clock of one is wrong, say.
    Distrusted,
}

/// A notice for users.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Its kind.
    pub kind: NoticeKind,
    /// The host's name.
    pub host: String,
    /// One line.
    pub text: String,
}

/// The waiting notices.
#[derive(Debug, Default)]
pub(crate) struct Notices {
    waiting: Mutex<VecDeque<Notice>>,
    news: Notify,
}

impl Notices {
    pub fn add(&self, kind: NoticeKind, host: String, text: String) {
        let notice = Notice { kind, host, text };
        let mut waiting = self.waiting.lock();
        if waiting.back() != Some(&notice) {
            waiting.push_back(notice);
        }
        let surplus = waiting.len().saturating_sub(NOTICES_MAX);
        waiting.drain(..surplus);
        drop(waiting);
        self.news.notify_one();
    }

    /// Waits for the next notice.
    pub async fn next(&self) -> Notice {
        loop {
            let next = self.waiting.lock().pop_front();
            match next {
                Some(notice) => return notice,
                None => self.news.notified().await,
            }
        }
    }
}
