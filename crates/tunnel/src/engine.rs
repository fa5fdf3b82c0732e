//! The WireGuard device, and what the configuration protocol changes of it.
//!
//! gotatun panics at some changes, and forgets what others mean. All that it is told goes through
//! here:
//!
//! * It has no peers before it has a private key. Neither has this device: it answers `ENOKEY`.
//! * It removes all peers at once only with its UDP socket. Here they are removed one by one.
//! * An allowed IP that moves to another peer also stays with the first, which takes it back at
//!   its next change. Here the first loses it.
//! * Its signal of a fatal error comes by chance whenever the private key or the port changes, as
//!   its tasks end in any order. It is not used: [`crate::tun`] sees whether the device is gone,
//!   and neither the TUN device nor the UDP socket here ends gotatun's tasks by an error that
//!   passes.
//! * It forgets when the last handshake was once the session has ended. Here that is remembered, as
//!   Linux does.
//! * It does not renew a session over which only keepalives pass. Here it is renewed
//!   ([`crate::renewal`]).

use std::collections::{BTreeSet, HashMap};
use std::num::NonZeroU16;
use std::time::{Duration, SystemTime};

use futures::future::join_all;
use gotatun::device::configure::PeerStats;
use gotatun::device::{Device, DeviceBuilder, Error, Peer};
use gotatun::noise::TimerParams;
use gotatun::x25519;
use ipnet::IpNet;
use nix::errno::Errno;
use shoutd_netlink::wireguard::{
    self, ALLOWED_IPS_MAX, Change, PEERS_MAX, PeerChange, PeerUpdate, PresharedKey, PrivateKey,
    PublicKey,
};
use tokio::time::{Instant, timeout};
use tracing::debug;
use zeroize::Zeroizing;

use crate::key::public_key;
use crate::renewal;
use crate::tun::Tun;
use crate::uapi::{Refusal, answer};
use crate::udp::Sockets;

/// How long the first packets of handshakes may take to be sent. Control requests wait for it.
const SEND_DEADLINE: Duration = Duration::from_millis(100);

/// A WireGuard device.
pub(crate) struct Engine {
    device: Device<(Sockets, Tun, Tun)>,
    public_key: Option<PublicKey>,
    port: u16,
    /// The age at which a session's initiator begins a new handshake.
    rekey_after: Duration,
    /// The allowed IPs of each peer.
    peers: HashMap<PublicKey, BTreeSet<IpNet>>,
    /// The peer of each allowed IP.
    owners: HashMap<IpNet, PublicKey>,
    /// When the last handshake with each peer was.
    handshakes: HashMap<PublicKey, Instant>,
}

impl Engine {
    /// A device without a key and peers. Its UDP socket is bound to `port`.
    pub(crate) async fn new(
        tun: Tun,
        mut sockets: Sockets,
        port: u16,
        rekey_after: Duration,
    ) -> Result<Self, Error> {
        let port = sockets.bind_port(port).await?;
        let builder = DeviceBuilder::new().with_udp(sockets).with_ip(tun).with_listen_port(port);
        Ok(Self {
            device: builder.build().await?,
            public_key: None,
            port,
            rekey_after,
            peers: HashMap::new(),
            owners: HashMap::new(),
            handshakes: HashMap::new(),
        })
    }

    /// Ends all sessions, without a word to the peers.
    pub(crate) async fn stop(self) {
        self.device.stop().await;
    }

    /// What the device has.
    pub(crate) async fn tell(&self) -> wireguard::Device {
        let private_key = self.device.read(async |device| {
            device.private_key().map(|key| PrivateKey::new(&Zeroizing::new(key.to_bytes())))
        });
        let private_key = private_key.await;
        let now = SystemTime::now();
        let peers = self.device.peers().await.into_iter().map(|found| {
            let (key, peer) = tell_peer(found, now);
            let last = || now.checked_sub(self.handshakes.get(&key)?.elapsed());
            let last_handshake = peer.last_handshake.or_else(last);
            (key, wireguard::Peer { last_handshake, ..peer })
        });
        wireguard::Device {
            private_key,
            public_key: self.public_key,
            listen_port: self.port,
            peers: peers.collect(),
            ..answer::blank()
        }
    }

    /// Begins a handshake with each peer that has keepalives, and whose session nothing else
    /// renews.
    pub(crate) async fn renew(&mut self) {
        let mut due = Vec::new();
        for PeerStats { peer, stats, .. } in self.device.peers().await {
            let key = PublicKey(*peer.public_key.as_bytes());
            if let Some(at) = stats.last_handshake.and_then(|age| Instant::now().checked_sub(age)) {
                self.handshakes.insert(key, at);
            }
            let is_first = self.public_key.is_some_and(|own| own.0 < key.0);
            let is_kept = peer.keepalive.is_some() && peer.endpoint.is_some();
            if is_kept && renewal::is_due(stats.last_handshake, self.rekey_after, is_first) {
                due.push(peer.public_key);
            }
        }
        let begun = due.iter().map(async |key| {
            if let Err(error) = self.device.force_handshake(key).await {
                debug!("cannot begin a handshake: {error}");
            }
        });
        // It ends when all have answered. Nobody waits for that: gotatun repeats by itself what is
        // not answered.
        let _ = timeout(SEND_DEADLINE, join_all(begun)).await;
    }

    /// Changes the device. What is refused by its form or by a limit changes nothing.
    pub(crate) async fn change(&mut self, change: Change) -> Result<(), Refusal> {
        self.check(&change)?;
        if let Some(private_key) = change.private_key {
            self.set_private_key(&private_key).await?;
        }
        if let Some(port) = change.listen_port {
            self.set_port(port).await?;
        }
        if change.replaces_peers {
            let all: Vec<_> = self.peers.keys().copied().collect();
            for public_key in all {
                self.remove(public_key).await?;
            }
        }
        for (public_key, peer) in change.peers {
            // A peer that is this host itself is skipped, as Linux does.
            if Some(public_key) != self.public_key {
                self.change_peer(public_key, peer).await?;
            }
        }
        Ok(())
    }

    fn check(&self, change: &Change) -> Result<(), Refusal> {
        if change.fwmark.is_some_and(|fwmark| fwmark != 0) {
            // It needs CAP_NET_ADMIN, which the process has dropped.
            return Err(Refusal::of(Errno::EOPNOTSUPP, "fwmark", "it cannot be set"));
        }
        let has_key = self.public_key.is_some() || change.private_key.is_some();
        let wants_key =
            !change.peers.is_empty() || change.listen_port.is_some_and(|p| p != self.port);
        if wants_key && !has_key {
            return Err(Refusal::of(Errno::ENOKEY, "private_key", "it must be set first"));
        }
        let (peers, allowed_ips) =
            if change.replaces_peers { (0, 0) } else { (self.peers.len(), self.owners.len()) };
        let new: BTreeSet<_> = change
            .peers
            .iter()
            .filter(|(_, peer)| matches!(peer, PeerChange::Set(_)))
            .map(|(key, _)| key)
            .filter(|key| change.replaces_peers || !self.peers.contains_key(key))
            .collect();
        if peers + new.len() > PEERS_MAX {
            return Err(Refusal::of(Errno::ENOSPC, "public_key", "too many peers"));
        }
        let added: usize = change
            .peers
            .iter()
            .map(|(_, peer)| match peer {
                PeerChange::Set(update) | PeerChange::Update(update) => update.allowed_ips.len(),
                PeerChange::Remove => 0,
            })
            .sum();
        if allowed_ips + added > ALLOWED_IPS_MAX {
            return Err(Refusal::of(Errno::ENOSPC, "allowed_ip", "too many"));
        }
        Ok(())
    }

    async fn set_private_key(&mut self, private_key: &PrivateKey) -> Result<(), Refusal> {
        let secret = x25519::StaticSecret::from(*private_key.octets());
        self.device
            .set_private_key(secret)
            .await
            .map_err(|error| failure("private_key", &error))?;
        let public_key = public_key(private_key);
        self.public_key = Some(public_key);
        self.remove(public_key).await
    }

    async fn set_port(&mut self, port: u16) -> Result<(), Refusal> {
        if port == self.port {
            return Ok(());
        }
        if let Err(error) = self.device.set_listen_port(port).await {
            // Its tasks have stopped, and begin again with the former socket.
            let former = self.device.set_listen_port(self.port).await;
            former.map_err(|error| failure("listen_port", &error))?;
            return Err(failure("listen_port", &error));
        }
        self.port = self.device.read(async |device| device.listen_port()).await;
        Ok(())
    }

    async fn remove(&mut self, public_key: PublicKey) -> Result<(), Refusal> {
        let Some(allowed_ips) = self.peers.remove(&public_key) else { return Ok(()) };
        self.handshakes.remove(&public_key);
        for net in &allowed_ips {
            self.owners.remove(net);
        }
        let removed = self.device.remove_peer(&foreign(public_key)).await;
        removed.map(drop).map_err(|error| failure("remove", &error))
    }

    async fn change_peer(&mut self, key: PublicKey, change: PeerChange) -> Result<(), Refusal> {
        match (change, self.peers.contains_key(&key)) {
            (PeerChange::Remove, _) => self.remove(key).await,
            (PeerChange::Set(update), false) => self.add(key, update).await,
            (PeerChange::Update(_), false) => Ok(()),
            (PeerChange::Set(update) | PeerChange::Update(update), true) => {
                self.update(key, update).await
            }
        }
    }

    async fn add(&mut self, key: PublicKey, update: PeerUpdate) -> Result<(), Refusal> {
        self.take_over(key, &update).await?;
        let mut peer = Peer::new(foreign(key));
        peer.endpoint = update.endpoint;
        peer.keepalive = update.keepalive.flatten().map(NonZeroU16::get);
        peer.preshared_key = update.preshared_key.flatten().map(|key| *key.octets());
        peer.allowed_ips = update.allowed_ips.iter().copied().filter_map(network).collect();
        peer.danger_timer_params = Some(TimerParams {
            rekey_after_time: self.rekey_after..=self.rekey_after,
            ..TimerParams::default()
        });
        self.owners.extend(update.allowed_ips.iter().map(|net| (*net, key)));
        self.peers.insert(key, update.allowed_ips);
        let added = self.device.add_peer(peer).await;
        added.map(drop).map_err(|error| failure("public_key", &error))
    }

    async fn update(&mut self, key: PublicKey, update: PeerUpdate) -> Result<(), Refusal> {
        self.take_over(key, &update).await?;
        let own = self.peers.entry(key).or_default();
        if update.replaces_allowed_ips {
            for net in std::mem::take(own) {
                self.owners.remove(&net);
            }
        }
        own.extend(&update.allowed_ips);
        self.owners.extend(update.allowed_ips.iter().map(|net| (*net, key)));
        let public_key = foreign(key);
        let modified = self.device.modify_peer(&public_key, |peer| {
            if let Some(preshared_key) = &update.preshared_key {
                peer.set_preshared_key(preshared_key.as_ref().map(|key| *key.octets()));
            }
            if let Some(endpoint) = update.endpoint {
                peer.set_endpoint(Some(endpoint));
            }
            if let Some(keepalive) = update.keepalive {
                peer.set_keepalive(keepalive.map(NonZeroU16::get));
            }
            if update.replaces_allowed_ips {
                peer.clear_allowed_ips();
            }
            peer.add_allowed_ips(update.allowed_ips.iter().copied().filter_map(network));
        });
        modified.await.map(drop).map_err(|error| failure("public_key", &error))
    }

    /// Takes allowed IPs that a change adds from the peers that have them.
    async fn take_over(&mut self, key: PublicKey, update: &PeerUpdate) -> Result<(), Refusal> {
        let mut losers = BTreeSet::new();
        for net in &update.allowed_ips {
            let Some(owner) = self.owners.get(net).filter(|owner| **owner != key) else { continue };
            losers.insert(*owner);
            if let Some(nets) = self.peers.get_mut(owner) {
                nets.remove(net);
            }
        }
        for loser in losers {
            let rest = self.peers.get(&loser).into_iter().flatten();
            let rest: Vec<_> = rest.copied().filter_map(network).collect();
            let public_key = foreign(loser);
            let modified = self.device.modify_peer(&public_key, |peer| {
                peer.clear_allowed_ips();
                peer.add_allowed_ips(rest);
            });
            modified.await.map_err(|error| failure("allowed_ip", &error))?;
        }
        Ok(())
    }
}

fn tell_peer(found: PeerStats, now: SystemTime) -> (PublicKey, wireguard::Peer) {
    let PeerStats { peer, stats, .. } = found;
    let preshared_key = peer.preshared_key.map(Zeroizing::new);
    let nets = peer.allowed_ips.iter();
    let nets = nets.filter_map(|net| IpNet::new(net.ip(), net.prefix()).ok());
    let state = wireguard::Peer {
        preshared_key: preshared_key.and_then(|octets| PresharedKey::new(&octets)),
        endpoint: peer.endpoint,
        keepalive: peer.keepalive.and_then(NonZeroU16::new),
        last_handshake: stats.last_handshake.and_then(|age| now.checked_sub(age)),
        received_octets: stats.rx_bytes.try_into().unwrap_or(u64::MAX),
        sent_octets: stats.tx_bytes.try_into().unwrap_or(u64::MAX),
        allowed_ips: nets.collect(),
    };
    (PublicKey(*peer.public_key.as_bytes()), state)
}

fn foreign(public_key: PublicKey) -> x25519::PublicKey {
    x25519::PublicKey::from(public_key.0)
}

/// The prefix as gotatun has it. Every prefix is one.
fn network(net: IpNet) -> Option<ipnetwork::IpNetwork> {
    ipnetwork::IpNetwork::new(net.addr(), net.prefix_len()).ok()
}

/// What gotatun cannot do, as an error number.
fn failure(key: &'static str, error: &Error) -> Refusal {
    let system = match error {
        Error::IoError(error) | Error::Bind(error, _) => error.raw_os_error(),
        _ => None,
    };
    tracing::warn!("cannot change the device ({key}): {error}");
    Refusal::of(system.map_or(Errno::EIO, Errno::from_raw), key, "the device cannot do it")
}
