//! The thread that follows what containers listen to.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::eventfd::{EfdFlags, EventFd};
use shoutd_core::Vni;
use shoutd_core::multicast::Memberships;
use tokio::sync::watch;
use tracing::warn;

use crate::crowd::Crowd;
use crate::forwarding::MembershipSource;

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
pub(crate) struct Listener {
    pub(crate) memberships: watch::Receiver<AllMemberships>,
    /// Where there are too many groups.
    pub(crate) crowds: watch::Receiver<Vec<Crowd>>,
    stop: Arc<(AtomicBool, EventFd)>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.0.store(true, Ordering::Release);
        let _ = self.stop.1.write(1);
    }
}

/// Starts the thread.
pub(crate) fn spawn(source: Box<dyn MembershipSource>) -> io::Result<Listener> {
    let wake = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
    let stop = Arc::new((AtomicBool::new(false), wake));
    let (memberships, receiver) = watch::channel(AllMemberships::default());
    let (crowds, crowds_receiver) = watch::channel(Vec::new());
    let listener = Listener { memberships: receiver, crowds: crowds_receiver, stop: stop.clone() };
    let work = move || follow(source, &stop, &memberships, &crowds);
    thread::Builder::new().name("listener".to_owned()).spawn(work)?;
    Ok(listener)
}

fn follow(
    mut source: Box<dyn MembershipSource>,
    stop: &(AtomicBool, EventFd),
    memberships: &watch::Sender<AllMemberships>,
    crowds: &watch::Sender<Vec<Crowd>>,
) {
    let mut complaint = String::new();
    let mut counted = Instant::now();
    while !stop.0.load(Ordering::Acquire) {
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
                    crowds.send_replace(source.crowds());
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
        source.wait(stop.1.as_fd(), pause);
    }
}
