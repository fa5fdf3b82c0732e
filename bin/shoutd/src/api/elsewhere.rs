//! What another host of the cluster shows: `shoutdctl status --host NAME` and others.

use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use serde_json::Value;
use shoutd_core::HostId;
use shoutd_core::cluster::Host;
use shoutd_core::host_view::{AskHost, HostView};
use shoutd_core::limits::EVENTS_MAX;

use crate::api::views::{PEER_DEADLINE, Views};

/// Path at which peers ask for what this host shows.
pub const VIEW: &str = "/v1/view";

/// How long a host may take: to show its groups, it asks others in turn.
const ANSWER_DEADLINE: Duration = PEER_DEADLINE.saturating_mul(3);

impl Views {
    /// What a host of the cluster shows.
    ///
    /// # Errors
    /// There is no such host, or it does not answer.
    pub async fn of_host(&self, asked: &AskHost) -> Result<Value> {
        let (id, host) = self.host(&asked.host)?;
        if id == self.services.agreement.me {
            return self.own_view(asked.view).await;
        }
        self.view_of(id, &host, asked.view).await
    }

    /// What a peer shows.
    ///
    /// # Errors
    /// It does not answer.
    pub(super) async fn view_of(&self, id: HostId, host: &Host, view: HostView) -> Result<Value> {
        let peers = &self.services.peers;
        let answer = peers.call_host(id, host.address, VIEW, &view, ANSWER_DEADLINE).await;
        answer.map_err(|error| anyhow!("host {} does not answer: {error}", host.name))
    }

    /// What this host shows.
    ///
    /// # Errors
    /// It cannot be written as JSON.
    pub async fn own_view(&self, view: HostView) -> Result<Value> {
        let shown = match view {
            HostView::Status => serde_json::to_value(self.status()),
            HostView::Hosts => serde_json::to_value(self.hosts().await),
            HostView::Groups => serde_json::to_value(self.groups().await),
            HostView::Events => serde_json::to_value(self.services.events.newest(EVENTS_MAX)),
        };
        Ok(shown?)
    }

    /// The host that the user names.
    fn host(&self, named: &str) -> Result<(HostId, Host)> {
        let cluster = self.services.agreement.cluster();
        let hosts = cluster.hosts.iter();
        let mut known = hosts.filter(|(id, host)| host.name == named || id.to_string() == named);
        let Some((id, host)) = known.next() else {
            bail!("there is no host {named} in the cluster; shoutdctl hosts lists them");
        };
        if known.next().is_some() {
            bail!("more than one host is called {named}; give its id, which shoutdctl hosts shows");
        }
        Ok((*id, host.clone()))
    }
}
