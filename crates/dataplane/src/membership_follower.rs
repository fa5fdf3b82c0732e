//! The thread that follows the memberships of containers.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::eventfd::{EfdFlags, EventFd};
use parking_lot::Mutex;
use shoutd_core::Vni;
use shoutd_core::multicast::Memberships;
use shoutd_core::plane::Desired;
use tokio::sync::watch;
use tracing::warn;

use crate::forwarding::MembershipSource;
use crate::generation::Generation;
use crate::mdb_pressure::MdbPressure;

/// How often it looks without an event.
const PERIOD: Duration = Duration::from_secs(2);
/// Minimum time between counts of the ports' groups.
const COUNT_PERIOD: Duration = Duration::from_secs(1);
/// When it tries again after a failure.
const RETRY: Duration = Duration::from_millis(50);

/// The memberships of each network's containers on this host, combined.
pub type AllMemberships = Arc<BTreeMap<Vni, Memberships>>;

/// Ends the thread when dropped.
#[derive(Debug)]
pub(crate) struct MembershipFollower {
    pub(crate) memberships: watch::Receiver<AllMemberships>,
    /// Bridges and ports at their limit of groups.
    pub(crate) mdb_pressures: watch::Receiver<Vec<MdbPressure>>,
    post: Arc<Post>,
}

/// The inbox of the thread, shared with its callers.
#[derive(Debug)]
struct Post {
    inbox: Mutex<Inbox>,
    wake: EventFd,
}

#[derive(Debug, Default)]
struct Inbox {
    desired: Option<(Generation, Arc<Desired>)>,
    /// Whether the thread has not taken it yet.
    is_news: bool,
    stopped: bool,
}

impl Post {
    fn change(&self, change: impl FnOnce(&mut Inbox)) {
        change(&mut self.inbox.lock());
        // It fails only if the counter would overflow, after 2^64 signals.
        let _ = self.wake.write(1);
    }

    /// The desired state, if it is new; an error if the thread is to end.
    fn take(&self) -> Result<Option<Arc<Desired>>, Stopped> {
        // Cleared before the inbox is read, so that a later change wakes the thread again.
        let _ = self.wake.read();
        let mut inbox = self.inbox.lock();
        if inbox.stopped {
            return Err(Stopped);
        }
        let is_news = std::mem::take(&mut inbox.is_news);
        Ok(inbox.desired.as_ref().filter(|_| is_news).map(|(_, desired)| desired.clone()))
    }
}

struct Stopped;

impl MembershipFollower {
    /// Hands over the desired state.
    pub(crate) fn apply(&self, generation: Generation, desired: Arc<Desired>) {
        self.post.change(|inbox| {
            // Concurrent callers may get here in the other order.
            if inbox.desired.as_ref().is_none_or(|(last, _)| *last < generation) {
                inbox.desired = Some((generation, desired));
                inbox.is_news = true;
            }
        });
    }
}

impl Drop for MembershipFollower {
    fn drop(&mut self) {
        self.post.change(|inbox| inbox.stopped = true);
    }
}

/// Starts the thread.
pub(crate) fn spawn(source: Box<dyn MembershipSource>) -> io::Result<MembershipFollower> {
    let wake = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
    let post = Arc::new(Post { inbox: Mutex::default(), wake });
    let (memberships, receiver) = watch::channel(AllMemberships::default());
    let (mdb_pressures, pressures) = watch::channel(Vec::new());
    let follower =
        MembershipFollower { memberships: receiver, mdb_pressures: pressures, post: post.clone() };
    thread::Builder::new()
        .name("listener".to_owned())
        .spawn(move || follow(source, &post, &memberships, &mdb_pressures))?;
    Ok(follower)
}

fn follow(
    mut source: Box<dyn MembershipSource>,
    post: &Post,
    memberships: &watch::Sender<AllMemberships>,
    mdb_pressures: &watch::Sender<Vec<MdbPressure>>,
) {
    let mut complaint = String::new();
    let mut counted = Instant::now();
    while let Ok(desired) = post.take() {
        desired.into_iter().for_each(|desired| source.desire(desired));
        let mut changes = Vec::new();
        let result = source.update(&mut changes);
        if !changes.is_empty() {
            // Copied only while a receiver still holds the previous value.
            memberships.send_modify(|all| {
                let all = Arc::make_mut(all);
                changes.into_iter().for_each(|change| change.apply(all));
            });
        }
        let pause = match result {
            Ok(()) => {
                if counted.elapsed() >= COUNT_PERIOD {
                    mdb_pressures.send_replace(source.mdb_pressures());
                    counted = Instant::now();
                }
                complaint.clear();
                PERIOD
            }
            Err(error) => {
                let text = error.to_string();
                if text != complaint {
                    warn!("cannot read the memberships of containers: {text}; trying again");
                    complaint = text;
                }
                RETRY
            }
        };
        source.wait(post.wake.as_fd(), pause);
    }
}
