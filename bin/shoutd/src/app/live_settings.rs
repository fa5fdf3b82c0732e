//! The settings of the running daemon. Some of them change when the configuration is read again: by
//! `shoutdctl config reload`, or at SIGHUP.

use std::sync::Arc;

use anyhow::{Context, Result};
use clap::ArgMatches;
use parking_lot::Mutex;
use shoutd_cli::{Configuration, LastStart, Switch};
use shoutd_core::configuration::{Reloaded, Setting, changes};
use shoutd_core::metrics_address::MetricsAddress;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::app::log::Log;

/// The settings, and what follows those that change.
#[derive(Debug)]
pub struct LiveSettings {
    /// The command line, which stays.
    matches: ArgMatches,
    log: Log,
    current: Mutex<Vec<Setting>>,
    probes: watch::Sender<bool>,
    metrics_address: watch::Sender<MetricsAddress>,
}

impl LiveSettings {
    /// The settings of this start.
    pub fn new(configuration: &Configuration, matches: ArgMatches, log: Log) -> Self {
        let start = &configuration.start;
        Self {
            matches,
            log,
            current: Mutex::new(configuration.settings.clone()),
            probes: watch::Sender::new(start.tunnel_probes != Some(Switch::Off)),
            metrics_address: watch::Sender::new(start.metrics_address.unwrap_or_default()),
        }
    }

    /// Adds what the daemon remembers, where nothing else sets it.
    pub(super) fn remember(&self, remembered: &LastStart) {
        remembered.overlay(&mut self.current.lock());
    }

    /// The settings, and where each comes from.
    pub fn current(&self) -> Vec<Setting> {
        self.current.lock().clone()
    }

    /// Whether this host probes its tunnels.
    pub fn probes(&self) -> watch::Receiver<bool> {
        self.probes.subscribe()
    }

    /// Where this host serves its metrics.
    pub fn metrics_address(&self) -> watch::Receiver<MetricsAddress> {
        self.metrics_address.subscribe()
    }

    /// Reads the configuration again, and follows what can change.
    ///
    /// # Errors
    /// The configuration is invalid. Then nothing changes.
    pub fn reload(&self) -> Result<Reloaded> {
        let new = Configuration::read(&self.matches)
            .context("the settings stay as they are: the configuration is invalid")?;
        let mut current = self.current.lock();
        let reloaded = changes(&current, &new.settings);
        for name in &reloaded.changed {
            match name.as_str() {
                "log" => self.log.set(&new.start.log),
                "tunnel-probes" => {
                    self.probes.send_replace(new.start.tunnel_probes != Some(Switch::Off));
                }
                "metrics-address" => {
                    self.metrics_address
                        .send_replace(new.start.metrics_address.unwrap_or_default());
                }
                _ => {}
            }
            let changed = new.settings.iter().find(|setting| setting.name == *name);
            if let Some((old, changed)) =
                current.iter_mut().find(|setting| setting.name == *name).zip(changed)
            {
                old.clone_from(changed);
            }
        }
        info!("the configuration was read again: {reloaded}");
        Ok(reloaded)
    }

    /// Reads the configuration again at each SIGHUP, until `stop`.
    pub async fn follow_signal(self: Arc<Self>, stop: CancellationToken) {
        let mut hangup = match signal(SignalKind::hangup()) {
            Ok(hangup) => hangup,
            Err(error) => {
                warn!("cannot handle SIGHUP: {error}; use shoutdctl config reload");
                return stop.cancelled().await;
            }
        };
        while let Some(Some(())) = stop.run_until_cancelled(hangup.recv()).await {
            if let Err(error) = self.reload() {
                error!("{error:#}");
            }
        }
        stop.cancelled().await;
    }
}
