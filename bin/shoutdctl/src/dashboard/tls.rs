//! The certificate with which the page is served beyond loopback.

use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use rcgen::{CertificateParams, KeyPair};
use ring::digest::{SHA256, digest};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Octets of a file with certificates or a key.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A certificate with its chain and its key.
#[derive(Debug)]
pub struct Certificate {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Certificate {
    /// Makes one for this address, signed by itself.
    ///
    /// # Errors
    /// There are no random numbers for a key.
    pub fn make(address: IpAddr) -> Result<Self> {
        let key = KeyPair::generate().context("make a key")?;
        let params = CertificateParams::new([address.to_string()]).context("name the address")?;
        let made = params.self_signed(&key).context("make a certificate")?;
        let der = PrivateKeyDer::try_from(key.serialize_der());
        let key = der.map_err(|error| anyhow::anyhow!("make a key: {error}"))?;
        Ok(Self { chain: vec![made.der().clone()], key })
    }

    /// Reads one from files in PEM.
    ///
    /// # Errors
    /// A file cannot be read, or has no certificate or key.
    pub fn read(chain: &Path, key: &Path) -> Result<Self> {
        let certificates = CertificateDer::pem_slice_iter(&content(chain)?)
            .collect::<Result<Vec<_>, _>>()
            .with_context(|| format!("no certificates in PEM in {}", chain.display()))?;
        ensure!(!certificates.is_empty(), "no certificates in PEM in {}", chain.display());
        let key = PrivateKeyDer::from_pem_slice(&content(key)?)
            .with_context(|| format!("no private key in PEM in {}", key.display()))?;
        Ok(Self { chain: certificates, key })
    }

    /// The SHA-256 fingerprint, as browsers show it.
    pub fn fingerprint(&self) -> String {
        let octets = self.chain.first().map(|first| digest(&SHA256, first)).into_iter();
        let octets = octets.flat_map(|digest| digest.as_ref().to_vec());
        octets.map(|octet| format!("{octet:02X}")).collect::<Vec<_>>().join(":")
    }

    /// What accepts connections with it.
    ///
    /// # Errors
    /// The key is not the certificate's.
    pub fn acceptor(self) -> Result<TlsAcceptor> {
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(self.chain, self.key)
            .context("use the certificate and its key")?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

fn content(path: &Path) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut content))
        .with_context(|| format!("cannot read {}", path.display()))?;
    Ok(content)
}
