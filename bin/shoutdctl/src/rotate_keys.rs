//! `shoutdctl rotate-keys`.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;
use shoutd_cli::Directories;
use shoutd_core::tunnel_keys::{AskRotation, KeyRotation};

use crate::control;
use crate::waiting::Waiting;

/// How long the daemon may wait within one request.
const PATIENCE_PER_QUESTION: Duration = Duration::from_secs(2);

/// Replace the preshared keys of encrypted networks.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  shoutdctl rotate-keys
  shoutdctl rotate-keys --json

No packet is lost. The next handshakes of WireGuard, within two minutes, use the new keys.

Exit codes: 0 if all pairs of hosts that answer have other keys, 1 if not, 2 for a wrong command \
                        line. A host that does not answer gets other keys when it is back.")]
pub struct RotateKeys {
    /// Seconds to wait for the hosts
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 120,
        value_parser = clap::value_parser!(u64).range(1..=3600)
    )]
    timeout: u64,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl RotateKeys {
    /// Lets all pairs replace their keys, and waits for those that can.
    pub async fn run(self, directories: &Directories) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(self.timeout);
        let mut waiting = Waiting::begin("the hosts agree on other keys");
        let mut progress: KeyRotation = control::post(directories, "/v1/keys/rotate", &()).await?;
        let rotation = progress.rotation;
        while !progress.pending.is_empty() && Instant::now() < deadline {
            waiting.go_on();
            let left = deadline.saturating_duration_since(Instant::now());
            let patience = left.min(PATIENCE_PER_QUESTION).as_millis();
            let patience = patience.try_into().unwrap_or(u64::MAX);
            let asked = AskRotation { rotation, patience };
            progress = control::post(directories, "/v1/keys/rotation", &asked).await?;
        }
        drop(waiting);
        if self.json {
            println!("{}", serde_json::to_string_pretty(&progress)?);
        } else {
            tell(&progress);
        }
        if progress.pending.is_empty() {
            return Ok(());
        }
        let pending: Vec<_> =
            progress.pending.iter().map(|(one, other)| format!("{one} and {other}")).collect();
        bail!(
            "after {} s, these have not agreed on other keys: {}; they go on with the old ones and \
             try again (see shoutdctl status on both)",
            self.timeout,
            pending.join(", ")
        )
    }
}

fn tell(progress: &KeyRotation) {
    let pairs = match progress.renewed {
        1 => "1 pair of hosts has".to_owned(),
        pairs => format!("{pairs} pairs of hosts have"),
    };
    println!("{pairs} other keys (rotation {})", progress.rotation);
    for host in &progress.away {
        println!("{host} is away; its keys change when it is back");
    }
}
