//! Reads the daemon's views again and again while somebody looks at the page.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use shoutd_cli::Directories;
use shoutd_core::host_view::{AskHost, HostView};
use shoutd_core::rates::AskTop;
use shoutd_core::view::{GroupRow, NetworkRow, Status};
use tokio::sync::{Notify, watch};
use tokio::time::{sleep_until, timeout};

use super::board::{Board, Views};
use super::page::{Regions, regions};
use crate::control::{self, ControlError};

/// How often the views are read.
const PERIOD: Duration = Duration::from_secs(2);

/// How long rates are measured, in milliseconds.
const MEASURED_MS: u64 = 1000;

/// How long a page waits for its first view.
const FIRST: Duration = Duration::from_secs(6);

/// The newest regions of the page.
#[derive(Debug)]
pub struct Watcher {
    directories: Directories,
    newest: watch::Sender<Option<Arc<Regions>>>,
    wanted: Notify,
}

impl Watcher {
    /// Reads nothing yet.
    pub fn new(directories: Directories) -> Arc<Self> {
        let (newest, _) = watch::channel(None);
        Arc::new(Self { directories, newest, wanted: Notify::new() })
    }

    /// The daemon whose views these are.
    pub fn directories(&self) -> &Directories {
        &self.directories
    }

    /// The regions, as they change. While one of these receivers exists, the views are read.
    pub fn watch(&self) -> watch::Receiver<Option<Arc<Regions>>> {
        let receiver = self.newest.subscribe();
        self.wanted.notify_one();
        receiver
    }

    /// The first regions for a new page.
    pub async fn first(&self) -> Arc<Regions> {
        let mut receiver = self.watch();
        let first = timeout(FIRST, receiver.wait_for(Option::is_some)).await;
        let first = first.ok().and_then(Result::ok).and_then(|regions| regions.clone());
        first.unwrap_or_else(|| Arc::new(Regions::silent("shoutd has not answered yet")))
    }

    /// Reads while somebody looks. It does not end.
    pub async fn run(self: Arc<Self>) {
        loop {
            if self.newest.receiver_count() == 0 {
                // What is shown next must be fresh.
                self.newest.send_replace(None);
                self.wanted.notified().await;
            }
            let next = Instant::now() + PERIOD;
            let read = match read(&self.directories).await {
                Ok(views) => regions(&Board::new(&views)),
                Err(error) => Regions::silent(&error.to_string()),
            };
            self.newest.send_replace(Some(Arc::new(read)));
            sleep_until(next.into()).await;
        }
    }
}

async fn read(directories: &Directories) -> Result<Views, ControlError> {
    let top = AskTop { network: None, milliseconds: MEASURED_MS };
    let (status, hosts, networks, endpoints, health, events, top) = tokio::try_join!(
        control::get::<Status>(directories, "/v1/status"),
        control::get(directories, "/v1/hosts"),
        control::get::<Vec<NetworkRow>>(directories, "/v1/networks"),
        control::get(directories, "/v1/endpoints"),
        control::get(directories, "/v1/health"),
        control::get(directories, "/v1/events"),
        control::post(directories, "/v1/top", &top),
    )?;
    let groups = groups(directories, &status.name, &networks).await?;
    Ok(Views { status, hosts, networks, endpoints, groups, health, events, top })
}

/// The groups of all networks. A host knows the groups of its own networks only.
async fn groups(
    directories: &Directories,
    me: &str,
    networks: &[NetworkRow],
) -> Result<Vec<GroupRow>, ControlError> {
    let mut groups: Vec<GroupRow> = control::get(directories, "/v1/groups").await?;
    let missing = |network: &&NetworkRow| !network.hosts.iter().any(|host| host == me);
    let others: BTreeSet<&String> =
        networks.iter().filter(missing).filter_map(|network| network.hosts.first()).collect();
    for host in others {
        let asked = AskHost { host: host.clone(), view: HostView::Groups };
        let answer: Result<Vec<GroupRow>, _> = control::post(directories, "/v1/host", &asked).await;
        // A host that does not answer is shown as such.
        for row in answer.unwrap_or_default() {
            if !groups.iter().any(|known| known == &row) {
                groups.push(row);
            }
        }
    }
    Ok(groups)
}
