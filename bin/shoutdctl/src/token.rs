//! `shoutdctl token` and `shoutdctl approve`: which hosts may join the cluster.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use schemars::JsonSchema;
use serde::Serialize;
use shoutd_cli::Directories;
use shoutd_core::Fingerprint;
use shoutd_core::view::{Applicant, Approve as Approval, Done, RotateToken, TokenView};
use shoutd_peer::Prepared;

use crate::control;

/// Show or create the token that lets hosts join the cluster.
#[derive(Debug, Subcommand)]
pub enum Token {
    /// Print the command that joins another host to the cluster, with the token that was created
    /// on this host
    Show(Output),
    /// Create a new token, and revoke all earlier ones
    Rotate(Rotate),
    /// Create a token in advance, for hosts that are started with it at the same time, each with
    /// the others as --peer-addresses
    Prepare(Output),
}

/// How a token is printed.
#[derive(Debug, Clone, Copy, Args)]
pub struct Output {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// `shoutdctl token rotate`.
#[derive(Debug, Args)]
pub struct Rotate {
    /// How long the token is valid, such as 30m, 24h or 7d; or never, if it does not expire
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = parse_lifetime)]
    expires: Lifetime,

    /// Let only one host join
    #[arg(long)]
    single_use: bool,

    #[command(flatten)]
    output: Output,
}

/// A token that lets hosts join the cluster.
#[derive(Debug, Serialize, JsonSchema)]
pub struct JoinToken {
    /// The token.
    token: String,
    /// Seconds until it expires; `null` if it does not.
    expires_in: Option<u64>,
    /// How many more hosts it admits; `null` for no limit.
    uses: Option<u32>,
    /// The address for `--peer-addresses`; `null` for a token that was prepared.
    peer_address: Option<SocketAddr>,
    /// The fingerprint of the cluster; `null` for a token that was prepared.
    cluster: Option<Fingerprint>,
}

impl JoinToken {
    /// The token of this view; `None` if there is no token to show.
    pub fn of(view: &TokenView) -> Option<Self> {
        Some(Self {
            token: view.token.clone()?,
            expires_in: view.expires_in,
            uses: view.uses,
            peer_address: Some(view.peer_address),
            cluster: view.cluster,
        })
    }

    fn prepared(token: String) -> Self {
        Self { token, expires_in: None, uses: None, peer_address: None, cluster: None }
    }
}

/// How long a token is valid, in seconds; `None` if it does not expire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Lifetime(Option<u64>);

fn parse_lifetime(text: &str) -> Result<Lifetime> {
    if text == "never" {
        return Ok(Lifetime(None));
    }
    let (number, unit) =
        parse_time(text).context("give a number and s, m, h or d (such as 24h), or never")?;
    let lifetime =
        number.checked_mul(unit).filter(|lifetime| (1..=10 * 365 * 86_400).contains(lifetime));
    Ok(Lifetime(Some(lifetime.context("give a time from 1s to 3650d, or never")?)))
}

/// A number and its unit in seconds.
fn parse_time(text: &str) -> Option<(u64, u64)> {
    let unit = text.chars().last()?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return None,
    };
    Some((text.trim_end_matches(unit).parse().ok()?, seconds))
}

impl Token {
    /// Runs the command.
    pub async fn run(self, directories: &Directories) -> Result<()> {
        let (view, output): (TokenView, _) = match self {
            Self::Prepare(output) => {
                let token = Prepared::draw_token()?.to_string();
                if output.json {
                    return print_json(&JoinToken::prepared(token));
                }
                println!("{token}");
                return Ok(());
            }
            Self::Show(output) => (control::get(directories, "/v1/token").await?, output),
            Self::Rotate(rotate) => {
                let wanted = RotateToken {
                    lifetime: rotate.expires.0,
                    uses: rotate.single_use.then_some(1),
                };
                (control::post(directories, "/v1/token", &wanted).await?, rotate.output)
            }
        };
        let token = JoinToken::of(&view)
            .context("this host has no valid token; create one with: shoutdctl token rotate")?;
        if output.json {
            return print_json(&token);
        }
        print(&view);
        Ok(())
    }
}

fn print_json(token: &JoinToken) -> Result<()> {
    println!("{}", serde_json::to_string_pretty(token)?);
    Ok(())
}

fn print(view: &TokenView) {
    print_invitation(view, "");
    let expiry = view.expires_in.map(|seconds| format!("for {}", duration(seconds)));
    let uses = match view.uses {
        None => None,
        Some(1) => Some("once".to_owned()),
        Some(uses) => Some(format!("for {uses} hosts")),
    };
    let limits: Vec<_> = expiry.into_iter().chain(uses).collect();
    if !limits.is_empty() {
        println!("(valid {})", limits.join(", "));
    }
}

/// Prints the commands for other hosts, if there is a token to show.
pub fn print_invitation(view: &TokenView, prefix: &str) {
    let Some(line) = invitation(view) else { return };
    println!("{prefix}{line}");
    println!(
        "(to hide the token from other users, type or pipe it in: {})",
        private_invitation(view)
    );
}

/// The command to run on another host; `None` if there is no token to show.
fn invitation(view: &TokenView) -> Option<String> {
    let token = view.token.as_ref()?;
    Some(format!(
        "shoutdctl start <its address> --peer-addresses={} --token={token}",
        view.peer_address
    ))
}

/// The same without the token, which then appears in no process list and no shell history.
fn private_invitation(view: &TokenView) -> String {
    format!("shoutdctl start <its address> --peer-addresses={} --token-file=-", view.peer_address)
}

fn duration(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// Let a host without a token join the cluster.
#[derive(Debug, Args)]
pub struct Approve {
    /// The fingerprint that the host shows; without it, list the waiting hosts
    #[arg(value_name = "FINGERPRINT")]
    fingerprint: Option<Fingerprint>,
}

impl Approve {
    /// Approves the host, or lists the waiting ones.
    pub async fn run(self, directories: &Directories) -> Result<()> {
        if let Some(fingerprint) = self.fingerprint {
            let done: Done =
                control::post(directories, "/v1/approve", &Approval { fingerprint }).await?;
            println!("{}", done.message);
            return Ok(());
        }
        let view: TokenView = control::get(directories, "/v1/token").await?;
        if let Some(cluster) = view.cluster {
            println!("the cluster's fingerprint: {cluster}");
        }
        let waiting: Vec<Applicant> = control::get(directories, "/v1/approve").await?;
        if waiting.is_empty() {
            bail!(
                "no host waits for approval on this member; to approve a host that asks another \
                 member, give its fingerprint"
            );
        }
        for applicant in waiting {
            println!("{}  {} ({})", applicant.fingerprint, applicant.name, applicant.address);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_are_parsed() {
        assert_eq!(parse_lifetime("30m").unwrap().0, Some(1800));
        assert_eq!(parse_lifetime("7d").unwrap().0, Some(604_800));
        assert_eq!(parse_lifetime("never").unwrap().0, None);
        for wrong in ["", "h", "0h", "-1h", "1w", "1.5h", "99999999999999999d", "12", "é"] {
            assert!(parse_lifetime(wrong).is_err(), "{wrong}");
        }
    }
}
