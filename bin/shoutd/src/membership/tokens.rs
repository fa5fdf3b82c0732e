//! Tokens. The cluster keeps their hashes; the host that created a token keeps it in a file that
//! only root can read.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use shoutd_cli::{TOKEN_FILE_BYTES_MAX, read_at_most};
use shoutd_core::Fingerprint;
use shoutd_core::cluster::{Command, Token as AgreedToken};
use shoutd_core::view::{RotateToken, TokenView};
use shoutd_peer::{CredentialStore, Secret, Token};

use crate::app::clock::now;
use crate::membership::agreement::Agreement;

/// Default lifetime of a token: long enough to set up a cluster.
pub const LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// How long an approval is valid.
pub const APPROVAL_TIME: Duration = Duration::from_secs(3600);

/// Name of the file in the data directory.
pub const FILE: &str = "token";

/// The tokens of this host.
#[derive(Debug)]
pub struct Tokens {
    agreement: Agreement,
    credentials: Arc<CredentialStore>,
    path: PathBuf,
}

impl Tokens {
    /// The tokens in this data directory.
    pub fn new(
        agreement: Agreement,
        credentials: Arc<CredentialStore>,
        data_directory: &Path,
    ) -> Self {
        Self { agreement, credentials, path: data_directory.join(FILE) }
    }

    /// The token that this host created, if it is still valid.
    ///
    /// # Errors
    /// Its file cannot be read.
    pub fn show(&self, address: std::net::SocketAddr) -> Result<TokenView> {
        let cluster = self.agreement.cluster();
        let kept = self.load()?;
        let known =
            kept.as_ref().and_then(|token| cluster.admissions.tokens.get(&token.secret.hash()));
        let known = known.filter(|token| !token.is_spent(now()));
        Ok(TokenView {
            token: kept.filter(|_| known.is_some()).map(|token| token.to_string()),
            expires_in: known
                .and_then(|token| token.expires)
                .map(|expires| expires.saturating_sub(now()).as_secs()),
            uses: known.and_then(|token| token.uses),
            peer_address: address,
            cluster: self.authority().ok(),
        })
    }

    /// Creates a new token, and revokes all others.
    ///
    /// # Errors
    /// The cluster does not agree, or the token cannot be saved.
    pub async fn rotate(&self, wanted: RotateToken) -> Result<()> {
        let token = Token { authority: self.authority()?, secret: Secret::draw()? };
        self.agreement.propose(Command::RevokeTokens).await?;
        let expires = wanted.lifetime.map(|seconds| now() + Duration::from_secs(seconds));
        let agreed = AgreedToken { expires, uses: wanted.uses };
        let command = Command::AddToken { hash: token.secret.hash(), token: agreed, now: now() };
        self.agreement.propose(command).await?;
        self.save(&token)
    }

    /// Creates the first token of a new cluster. Only while the founder is the only host; later,
    /// tokens are created by `shoutdctl token rotate`.
    ///
    /// # Errors
    /// As [`Tokens::rotate`].
    pub async fn ensure_first(&self) -> Result<()> {
        let cluster = self.agreement.cluster();
        if cluster.hosts.len() > 1
            || !cluster.admissions.tokens.is_empty()
            || self.load()?.is_some()
        {
            return Ok(());
        }
        self.rotate(RotateToken { lifetime: Some(LIFETIME.as_secs()), uses: None }).await
    }

    /// Approves the host with this key.
    ///
    /// # Errors
    /// The cluster does not agree.
    pub async fn approve(&self, key: Fingerprint) -> Result<()> {
        self.agreement
            .propose(Command::Approve { key, until: now() + APPROVAL_TIME, now: now() })
            .await?;
        Ok(())
    }

    fn authority(&self) -> Result<Fingerprint> {
        let credentials = self
            .credentials
            .credentials()
            .ok_or_else(|| anyhow!("this host belongs to no cluster yet"))?;
        Ok(credentials.authority().fingerprint())
    }

    fn load(&self) -> Result<Option<Token>> {
        match read_at_most(&self.path, TOKEN_FILE_BYTES_MAX) {
            // Ignore a damaged token.
            Ok(text) => Ok(String::from_utf8(text).ok().and_then(|text| text.trim().parse().ok())),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidData) => {
                Ok(None)
            }
            Err(error) => {
                Err(error).with_context(|| format!("cannot read {}", self.path.display()))
            }
        }
    }

    fn save(&self, token: &Token) -> Result<()> {
        self.replace(token).with_context(|| format!("cannot write {}", self.path.display()))
    }

    /// Replaces the file atomically.
    fn replace(&self, token: &Token) -> io::Result<()> {
        let temporary = self.path.with_extension("new");
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(format!("{token}\n").as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, &self.path)
    }
}
