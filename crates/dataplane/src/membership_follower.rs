//! The thread that follows what containers listen to.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::eventfd::{EfdFlags, EventFd};
use shoutd_core::Vni;
use shoutd_core::multicast::Memberships;
use shoutd_core::plane::Desired;
use tokio::sync::watch;
use tracing::warn;

use crate::forwarding::MembershipSource;
use crate::handle::Generation;
use crate::mdb_pressure::MdbPressure;

/// How often it looks though nothing happened.
const PERIOD: Duration = Duration::from_secs(2);
/// How often it is counted at the most how many groups each port has.
const COUNT_PERIOD: Duration = Duration::from_secs(1);
/// How soon it tries again what failed.
const RETRY: Duration = Duration::from_millis(50);

/// Which groups the containers of each network listen to, together.
pub type AllMemberships = Arc<BTreeMap<Vni, Memberships>>;

/// Ends the thread when dropped.
#[derive(Debug)]
pub(crate) struct MembershipFollower {
    pub(crate) memberships: watch::Receiver<AllMemberships>,
    /// Where there are too many groups.
    pub(crate) mdb_pressures: watch::Receiver<Vec<MdbPressure>>,
    post: Arc<Post>,
}

/// Speaks to the thread.
#[derive(Debug)]
struct Post {
    inbox: Mutex<Inbox>,
    wake: EventFd,
}

#[derive(Debug, Default)]
struct Inbox {
    desired: Option<(Generation, Arc<Desired>)>,
    /// Whether the thread has not seen it yet.
    is_news: bool,
    stopped: bool,
}

impl Post {
    fn change(&self, change: impl FnOnce(&mut Inbox)) {
        // Nothing that is done under the lock can leave it half changed.
        change(&mut self.inbox.lock().unwrap_or_else(PoisonError::into_inner));
        // It fails only when it is signalled already, 2^64 times.
        let _ = self.wake.write(1);
    }

    /// What is new since the last time; an error if the thread is to end.
    fn take(&self) -> Result<Option<Arc<Desired>>, Stopped> {
        // Before the inbox is read, so that what comes after that wakes it again.
        let _ = self.wake.read();
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        if inbox.stopped {
            return Err(Stopped);
        }
        let is_news = std::mem::take(&mut inbox.is_news);
        Ok(inbox.desired.as_ref().filter(|_| is_news).map(|(_, desired)| desired.clone()))
    }
}

struct Stopped;

impl MembershipFollower {
    /// Says what should be.
    pub(crate) fn apply(&self, generation: Generation, desired: Arc<Desired>) {
        self.post.change(|inbox| {
            // Two that apply at the same time may come here in the other order.
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
    let (mdb_pressures, crowds_receiver) = watch::channel(Vec::new());
    let listener = MembershipFollower {
        memberships: receiver,
        mdb_pressures: crowds_receiver,
        post: post.clone(),
    };
    let work = move || follow(source, &post, &memberships, &mdb_pressures);
    thread::Builder::new().name("listener".to_owned()).spawn(work)?;
    Ok(listener)
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
            // Copied only if somebody still holds what was published before.
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
                    warn!("cannot read what containers listen to: {text}; trying again");
                    complaint = text;
                }
                RETRY
            }
        };
        source.wait(post.wake.as_fd(), pause);
    }
}
