//! What consensus finds out that a person should hear of.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

/// Notices that wait to be taken; the oldest are dropped, as they say the same.
const NOTICES_MAX: usize = 16;

/// What a notice is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoticeKind {
    /// The data directory of a host is older than what that host had said before.
    Rollback,
    /// Two hosts have one identity.
    Copied,
}

/// Something that a person should hear of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// What it is about.
    pub kind: NoticeKind,
    /// The host's name.
    pub host: String,
    /// One line.
    pub text: String,
}

/// Those that nobody has taken yet.
#[derive(Debug, Default)]
pub(crate) struct Notices {
    waiting: Mutex<VecDeque<Notice>>,
    news: Notify,
}

impl Notices {
    pub fn add(&self, kind: NoticeKind, host: String, text: String) {
        let notice = Notice { kind, host, text };
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.back() != Some(&notice) {
            waiting.push_back(notice);
        }
        let surplus = waiting.len().saturating_sub(NOTICES_MAX);
        waiting.drain(..surplus);
        drop(waiting);
        self.news.notify_one();
    }

    /// The next one, as soon as there is one.
    pub async fn next(&self) -> Notice {
        loop {
            let next = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            match next {
                Some(notice) => return notice,
                None => self.news.notified().await,
            }
        }
    }
}
