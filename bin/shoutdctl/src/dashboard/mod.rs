//! `shoutdctl dashboard`: a page with the cluster, its groups and what is wrong with them.

mod access;
mod board;
mod page;
mod server;
#[cfg(test)]
mod tests;
mod tls;
mod watch;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use shoutd_cli::Directories;
use shoutd_core::view::Status;
use tokio::net::TcpListener;

use self::access::Access;
use self::tls::Certificate;
use self::watch::Watcher;
use crate::{control, waiting};

/// The port, if the user names none: the next one after the metrics.
const PORT: u16 = 7791;

/// Serve a page that shows the cluster live, until it is interrupted
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  shoutdctl dashboard
  shoutdctl dashboard --address 192.0.2.1
  ssh -L 7791:127.0.0.1:7791 root@192.0.2.1 shoutdctl dashboard

The printed address has a token: only those who know it can open the page. On any address but \
                        loopback, the page is served by TLS. Without --tls-cert, each start makes \
                        a new certificate; compare its printed fingerprint with the browser's.

Exit codes: 0 if it was interrupted, 1 if shoutd does not answer or the address cannot be used, 2 \
                        for a wrong command line.")]
pub struct Dashboard {
    /// Address at which the page is served [port: 7791]
    #[arg(long, value_name = "ADDRESS", value_parser = parse,
          default_value_t = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), PORT))]
    address: SocketAddr,
    /// File with the certificate chain for TLS, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// File with the private key of the certificate, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

fn parse(text: &str) -> Result<SocketAddr, String> {
    let with_port = text.parse::<SocketAddr>();
    with_port.or_else(|_| text.parse().map(|ip| SocketAddr::new(ip, PORT))).map_err(|_| {
        "not an address of this host: give an IP address, and a port if you like: 192.0.2.1:7791"
            .to_owned()
    })
}

impl Dashboard {
    /// Serves until it is interrupted.
    ///
    /// # Errors
    /// The daemon does not answer, the address cannot be used, or a file cannot be read.
    pub async fn run(self, directories: &Directories) -> Result<()> {
        // Better said here than on the page.
        let _: Status = control::get(directories, "/v1/status").await?;
        let files = self.tls_cert.as_deref().zip(self.tls_key.as_deref());
        let certificate = match files {
            Some((chain, key)) => Some(Certificate::read(chain, key)?),
            None if self.address.ip().is_loopback() => None,
            None => Some(Certificate::make(self.address.ip())?),
        };
        let listener = TcpListener::bind(self.address)
            .await
            .with_context(|| format!("cannot serve the page at {}", self.address))?;
        let address = listener.local_addr().context("read the page's address")?;
        let access = Access::new()?;
        let scheme = if certificate.is_some() { "https" } else { "http" };
        println!("{scheme}://{address}/?token={}", access.token());
        if let Some(certificate) = &certificate {
            println!("SHA-256 fingerprint of the certificate: {}", certificate.fingerprint());
        }
        println!("the page is served until you press Ctrl-C");
        waiting::hide();
        let acceptor = certificate.map(Certificate::acceptor).transpose()?;
        let watcher = Watcher::new(directories.clone());
        tokio::select! {
            () = watcher.clone().run() => Ok(()),
            () = server::serve(listener, acceptor, watcher, access) => Ok(()),
            interrupted = tokio::signal::ctrl_c() => interrupted.context("wait for Ctrl-C"),
        }
    }
}
