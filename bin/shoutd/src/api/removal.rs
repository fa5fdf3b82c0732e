//! `shoutdctl remove`.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use shoutd_consensus::ProposeError;
use shoutd_core::HostId;
use shoutd_core::removal::{Removed, objection};
use shoutd_core::view::RemoveHost;

use super::views::{ENDPOINTS, PEER_DEADLINE, Views, described};

/// How long the cluster may take to remove a host.
const REMOVAL_DEADLINE: Duration = Duration::from_secs(15);

impl Views {
    /// `shoutdctl remove`: removes the host with this name or id, or a lost host, and its leases.
    /// Then replaces the certificate authority, if that is requested.
    ///
    /// # Errors
    /// There is no such host, or more than one of this name; the cluster cannot remove it; or it
    /// runs and has containers, and `force` is not set. Or the authority cannot be replaced.
    pub async fn remove_host(&self, request: &RemoveHost) -> Result<String> {
        let removed = self.remove_only(request).await?;
        if !request.revoke {
            return Ok(removed);
        }
        let again = || {
            format!(
                "{removed}; but its keys still count: type shoutdctl remove --revoke {} again",
                request.host
            )
        };
        let fingerprint = self.authority.replace().await.with_context(again)?;
        Ok(format!(
            "{removed}, and replaced the cluster's certificate authority: the cluster's \
             fingerprint is {fingerprint} now, and all tokens are revoked (another one: shoutdctl \
             token rotate)\nThe other hosts get other certificates by themselves; shoutdctl status \
             --cluster names those that have none yet"
        ))
    }

    async fn remove_only(&self, request: &RemoveHost) -> Result<String> {
        let RemoveHost { host: wanted, force, revoke } = request;
        let cluster = self.services.agreement.cluster();
        let hosts = cluster.hosts.iter().map(|(id, host)| (*id, host.name.clone()));
        let lost = cluster.lost_hosts().into_iter().map(|(id, removed)| (id, removed.name.clone()));
        let known: Vec<_> = hosts
            .chain(lost)
            .filter(|(id, name)| name == wanted || id.to_string() == *wanted)
            .collect();
        let mut removed = cluster.admissions.removed.iter();
        if known.is_empty()
            && removed.any(|(id, removed)| removed.name == *wanted || id.to_string() == *wanted)
        {
            return Ok(format!("host {wanted} was already removed"));
        }
        let [(id, name)] = known.as_slice() else {
            let problem =
                if known.is_empty() { "there is no host" } else { "there is more than one host" };
            bail!("{problem} {wanted} in the cluster; shoutdctl hosts lists their names and ids");
        };
        if *revoke && *id == self.services.agreement.me {
            bail!(
                "this host cannot replace the authority by which it is removed itself: type \
                 shoutdctl remove --revoke {wanted} on another host"
            );
        }
        if let Some(objection) = self.objection_to_removal(*id, name).await.filter(|_| !force) {
            bail!("{objection}");
        }
        let removed = self.services.agreement.consensus().remove_host(*id, REMOVAL_DEADLINE).await;
        removed.map_err(|error| match error {
            ProposeError::NoLeader(why) => {
                anyhow!(
                    "{why}; if hosts that do not answer are lost for good: shoutdctl recover \
                     --help"
                )
            }
            other => anyhow::Error::from(other),
        })?;
        Ok(format!("removed host {name} ({id}) and freed its addresses"))
    }

    async fn objection_to_removal(&self, id: HostId, name: &str) -> Option<String> {
        let cluster = self.services.agreement.cluster();
        let is_this_host = id == self.services.agreement.me;
        let rows = match cluster.hosts.get(&id) {
            Some(_) if is_this_host => Some(self.own_endpoints().await),
            Some(host) => self
                .services
                .peers
                .call_host(id, host.address, ENDPOINTS, &(), PEER_DEADLINE)
                .await
                .ok(),
            None => None,
        };
        let containers: Vec<_> = rows.iter().flatten().map(described).collect();
        objection(&Removed {
            name,
            is_this_host,
            is_alive: rows.is_some(),
            containers: &containers,
        })
    }
}
