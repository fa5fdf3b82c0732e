//! What must change for a device to be as wanted.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::{Change, Device, Peer, PeerChange, PeerSettings, PeerUpdate, Settings, canonical};

impl Settings {
    /// The change that makes the present device as wanted: empty if it is. Peers are added and
    /// changed before others are removed.
    ///
    /// A peer with a known endpoint keeps it if none is wanted. Allowed IPs are replaced only if
    /// one must go; otherwise the missing ones are added, and the peer's packets flow all the
    /// while. The session of a peer that is changed goes on.
    pub fn difference(&self, present: &Device) -> Change {
        let is_known = present.private_key.as_ref() == Some(&self.private_key);
        let port = u16::from(self.listen_port);
        let changed = self.peers.iter().filter_map(|(key, wanted)| {
            let change = match present.peers.get(key) {
                Some(peer) => PeerChange::Update(update(wanted, peer)?),
                None => PeerChange::Set(whole(wanted)),
            };
            Some((*key, change))
        });
        let surplus = present.peers.keys().filter(|key| !self.peers.contains_key(key));
        let removed = surplus.map(|key| (*key, PeerChange::Remove));
        Change {
            private_key: (!is_known).then(|| self.private_key.clone()),
            listen_port: (present.listen_port != port).then_some(port),
            fwmark: (present.fwmark != self.fwmark).then_some(self.fwmark),
            replaces_peers: false,
            peers: changed.chain(removed).collect(),
        }
    }
}

impl Change {
    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// All settings of a peer that is not there.
fn whole(wanted: &PeerSettings) -> PeerUpdate {
    PeerUpdate {
        preshared_key: wanted.preshared_key.clone().map(Some),
        endpoint: wanted.endpoint,
        keepalive: wanted.keepalive.map(Some),
        replaces_allowed_ips: true,
        allowed_ips: wanted.allowed_ips.clone(),
    }
}

/// The settings of a peer that differ; `None` if none does.
fn update(wanted: &PeerSettings, present: &Peer) -> Option<PeerUpdate> {
    let endpoint = wanted.endpoint.filter(|&wanted| {
        let present = present.endpoint.map(canonical);
        present != Some(canonical(wanted))
    });
    let nets: BTreeSet<IpNet> = wanted.allowed_ips.iter().map(IpNet::trunc).collect();
    let replaces = !present.allowed_ips.is_subset(&nets);
    let missing = nets.iter().filter(|net| replaces || !present.allowed_ips.contains(net));
    let update = PeerUpdate {
        preshared_key: (wanted.preshared_key != present.preshared_key)
            .then(|| wanted.preshared_key.clone()),
        endpoint,
        keepalive: (wanted.keepalive != present.keepalive).then_some(wanted.keepalive),
        replaces_allowed_ips: replaces,
        allowed_ips: missing.copied().collect(),
    };
    (update != PeerUpdate::default()).then_some(update)
}
