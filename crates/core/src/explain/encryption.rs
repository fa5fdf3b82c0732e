//! What is particular to encrypted networks: WireGuard, which is between VXLAN and the underlay.

use super::{Answer, Case, Finding, HostFacts, Place, Station, Verdict, place_of_unseen};
use crate::limits::PORT;
use crate::plane::ENCRYPTED_NAMESPACE;
use crate::tunnel::{Carriage, TunnelProblem, encrypted_tunnel_problem, tunnel_problem};

/// Where packets of encrypted networks are counted instead of at the underlay's device, at which
/// they cannot be read.
pub(super) const WIREGUARD: &str = "WireGuard device";

impl Case<'_> {
    /// The finding that no container can start on a host, which has none now and cannot encrypt.
    pub(super) fn cannot_start(
        &self,
        answer: &Answer,
        from: Option<Place<'_>>,
        has_receiver: bool,
    ) -> Option<Finding> {
        let facts = answer.facts.as_ref().ok().filter(|facts| facts.containers.is_empty())?;
        let failure = facts.encryption.as_ref()?.failure.as_ref()?;
        let (station, verdict) = place_of_unseen(from, has_receiver);
        Some(Finding {
            station,
            host: answer.host.clone(),
            container: None,
            verdict,
            text: format!(
                "{} cannot encrypt, so no container of network {} can start there: {failure}",
                answer.host, self.network
            ),
            remedy: Some(remedy(&answer.host)),
        })
    }
}

/// The finding that a host's WireGuard does not work.
pub(super) fn not_encrypting(
    host: &Answer,
    facts: &HostFacts,
    station: Station,
) -> Option<Finding> {
    let failure = facts.encryption.as_ref()?.failure.as_ref()?;
    Some(Finding {
        station,
        host: host.host.clone(),
        container: None,
        verdict: Verdict::Broken,
        text: format!("WireGuard does not work on {}: {failure}", host.host),
        remedy: Some(remedy(&host.host)),
    })
}

fn remedy(host: &str) -> String {
    format!(
        "on {host}: shoutdctl status; WireGuard needs a kernel that has it (Linux 5.6, modprobe \
         wireguard) or /dev/net/tun (modprobe tun)"
    )
}

/// The problem of the tunnel from a host to the one that these facts are of.
pub(super) fn direction_problem(
    from: &str,
    to: &Answer,
    facts: &HostFacts,
    carriage: Carriage,
) -> Option<TunnelProblem> {
    match &facts.encryption {
        Some(own) => encrypted_tunnel_problem(from, &to.host, own.port, carriage),
        None => tunnel_problem(from, &to.host, carriage),
    }
}

impl Answer {
    /// Whether the network is encrypted.
    fn encrypts(&self) -> bool {
        self.facts.as_ref().is_ok_and(|facts| facts.encryption.is_some())
    }

    /// Where the host counts its VXLAN to and from other hosts.
    pub(super) fn underlay(&self) -> &'static str {
        if self.encrypts() { WIREGUARD } else { "underlay" }
    }

    /// The same, in texts.
    pub(super) fn interface(&self) -> &'static str {
        if self.encrypts() { WIREGUARD } else { "interface" }
    }
}

/// What to do if a host does not send what its VXLAN device was to send.
pub(super) fn sent_remedy(host: &Answer) -> String {
    if host.encrypts() {
        return format!("on {}: shoutdctl status; {}", host.host, rules_inside());
    }
    format!("on {}: shoutdctl status; see the host's firewall rules for output", host.host)
}

/// What to do if a host's VXLAN device does not get what arrives.
pub(super) fn received_remedy(host: &Answer) -> String {
    if host.encrypts() {
        return format!("on {}: {}", host.host, rules_inside());
    }
    format!(
        "on {}: allow UDP port {PORT} in the host's firewall rules for input (nft list ruleset)",
        host.host
    )
}

fn rules_inside() -> String {
    format!("ip netns exec {ENCRYPTED_NAMESPACE} nft list ruleset, which should show no rules")
}
