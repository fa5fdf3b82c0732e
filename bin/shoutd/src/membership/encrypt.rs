//! The cluster's default for the encryption of new networks (`--encrypt`). A start that asks for
//! it proposes it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use parking_lot::Mutex;
use shoutd_core::cluster::{Cluster, Command};
use shoutd_core::encryption::{Encrypt, EncryptionStatus, WireguardChoice, would_be_plain};
use shoutd_core::view::Membership;
use shoutd_dataplane::check_wireguard;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::agreement::{Agreement, AgreementError};

/// Pause after a failed attempt.
const RETRY: Duration = Duration::from_secs(2);

/// What this start asks for, until the cluster has agreed on it. A clone shares it.
#[derive(Debug, Clone, Default)]
pub struct EncryptWish(Arc<Mutex<Option<Pending>>>);

#[derive(Debug, Clone)]
struct Pending {
    encrypt: Encrypt,
    /// Why the cluster has not agreed on it, if it was asked.
    why: Option<String>,
}

impl EncryptWish {
    /// What the settings ask for.
    pub fn new(encrypt: Option<Encrypt>) -> Self {
        let pending = encrypt.map(|encrypt| Pending { encrypt, why: None });
        Self(Arc::new(Mutex::new(pending)))
    }

    fn get(&self) -> Option<Pending> {
        self.0.lock().clone()
    }

    /// Refuses to create a network that would be plain although this host was started to have all
    /// encrypted.
    ///
    /// # Errors
    /// It would be plain.
    pub fn check(&self, cluster: &Cluster, command: &Command) -> Result<(), AgreementError> {
        let Command::CreateNetwork { settings, .. } = command else { return Ok(()) };
        match self.get() {
            Some(Pending { encrypt, why })
                if would_be_plain(cluster, Some(encrypt), &settings.options) =>
            {
                Err(AgreementError::Local(format!(
                    "this host was started with --encrypt=always, and its cluster has not agreed \
                     on that yet ({}): type it again later, or with --opt encrypted",
                    why.unwrap_or_else(|| "it was not asked yet".to_owned())
                )))
            }
            _ => Ok(()),
        }
    }
}

/// Sets the cluster's default.
#[derive(Debug)]
pub struct DefaultEncryption {
    agreement: Agreement,
    wish: EncryptWish,
    /// Which WireGuard this host uses, and its UDP port.
    wireguard: (WireguardChoice, u16),
}

impl DefaultEncryption {
    /// For a host with this WireGuard.
    pub fn new(agreement: Agreement, wish: EncryptWish, wireguard: (WireguardChoice, u16)) -> Self {
        Self { agreement, wish, wireguard }
    }

    /// What `shoutdctl status` shows.
    pub fn status(&self) -> EncryptionStatus {
        let (wireguard, wireguard_port) = self.wireguard;
        let encrypt = Encrypt::of(&self.agreement.cluster());
        EncryptionStatus { encrypt, wireguard, wireguard_port }
    }

    /// That the cluster does not agree on what this host was started with.
    pub fn problem(&self) -> Option<String> {
        let Pending { encrypt, why } = self.wish.get()?;
        Some(format!("--encrypt={encrypt} of this host is not in force: {}", why?))
    }

    /// Lets the cluster agree on this default. It replaces what this start asked for.
    ///
    /// # Errors
    /// This host cannot encrypt, or the cluster does not agree.
    pub async fn set(&self, encrypt: Encrypt) -> Result<()> {
        let always = encrypt == Encrypt::Always;
        if always {
            check_wireguard(self.wireguard.0)?;
        }
        // Hosts with a version without encryption do not know the command.
        if always || !self.agreement.cluster().encryption.is_unused() {
            self.agreement.propose(Command::SetEncryption { always }).await?;
            info!("the cluster has agreed on --encrypt={encrypt}");
        }
        *self.wish.0.lock() = None;
        Ok(())
    }

    /// Proposes what this start asks for, until the cluster has agreed on it.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        stop.run_until_cancelled(self.fulfil()).await;
        stop.cancelled().await;
    }

    async fn fulfil(&self) {
        let mut membership = self.agreement.watch_membership();
        if membership.wait_for(|state| *state == Membership::Member).await.is_err() {
            return;
        }
        while let Some(Pending { encrypt, why: before }) = self.wish.get() {
            let Err(error) = self.set(encrypt).await else { return };
            let why = Some(format!("{error:#}"));
            if let Some(why) = why.as_ref().filter(|_| why != before) {
                warn!("--encrypt={encrypt} is not in force: {why}");
            }
            if let Some(pending) = self.wish.0.lock().as_mut() {
                pending.why = why;
            }
            tokio::time::sleep(RETRY).await;
        }
    }
}
