//! `shoutdctl config`: the settings, and where each comes from.

use std::fs;

use anyhow::Result;
use clap::{ArgMatches, Subcommand};
use serde_json::Value;
use shoutd_cli::{Configuration, Directories};
use shoutd_core::configuration::{Layer, Reloaded, Setting, Settings};
use shoutd_core::view::START_FILE;

use crate::control::{self, ControlError};
use crate::show::{Format, table};

/// Show the settings of this host's daemon, or let it read its configuration file again.
#[derive(Debug, Clone, Subcommand)]
pub enum Config {
    /// Print every setting, its value, and where that comes from. If shoutd does not run, these are
    /// the settings with which it would start
    Show(Format),
    /// Let the daemon read its configuration file again. It takes log, metrics-address and
    /// tunnel-probes at once, and says which settings need a start of shoutd
    Reload,
}

impl Config {
    /// Shows or reloads the settings.
    ///
    /// # Errors
    /// The configuration is invalid, or the daemon does not answer.
    pub async fn run(self, directories: &Directories, matches: &ArgMatches) -> Result<()> {
        match self {
            Self::Show(format) => {
                let settings = match control::get(directories, "/v1/settings").await {
                    Ok(settings) => settings,
                    Err(ControlError::NotRunning { .. }) => at_next_start(matches)?,
                    Err(error) => return Err(error.into()),
                };
                show(&format, &settings)
            }
            Self::Reload => {
                let none = serde_json::json!({});
                let reloaded: Reloaded =
                    control::post(directories, "/v1/settings/reload", &none).await?;
                println!("{reloaded}");
                Ok(())
            }
        }
    }
}

/// The settings with which the daemon would start.
fn at_next_start(matches: &ArgMatches) -> Result<Settings> {
    let configuration = Configuration::read(matches)?;
    let mut settings = configuration.settings;
    let remembered = fs::read(configuration.start.data_dir.join(START_FILE)).unwrap_or_default();
    remember(&mut settings, &serde_json::from_slice(&remembered).unwrap_or_default());
    Ok(Settings { running: false, settings })
}

/// Adds the address and the peers of the last start, where nothing else sets them.
fn remember(settings: &mut [Setting], last: &Value) {
    let is_set = |settings: &[Setting], name: &str| {
        settings.iter().any(|setting| setting.name == name && setting.layer != Layer::Default)
    };
    let rule = &last["advertise_by"];
    let address = [
        ("advertise-interface", rule["interface"].as_str()),
        ("advertise-address", rule["network"].as_str()),
        ("advertise-address", last["advertise_address"].as_str()),
    ];
    let address = address.into_iter().find_map(|(name, value)| Some((name, value?.to_owned())));
    let has_address =
        ["advertise-address", "advertise-interface"].iter().any(|name| is_set(settings, name));
    let peers = last["peer_addresses"].as_array().into_iter().flatten();
    let peers = peers.filter_map(Value::as_str).collect::<Vec<_>>().join(",");
    let peers = Some(("peer-addresses", peers))
        .filter(|(name, peers)| !peers.is_empty() && !is_set(settings, name));
    for (name, value) in address.filter(|_| !has_address).into_iter().chain(peers) {
        if let Some(setting) = settings.iter_mut().find(|setting| setting.name == name) {
            setting.value = Some(value);
            setting.layer = Layer::LastStart;
        }
    }
}

fn show(format: &Format, settings: &Settings) -> Result<()> {
    if format.json {
        println!("{}", serde_json::to_string_pretty(settings)?);
        return Ok(());
    }
    let mut rows = table(["SETTING", "VALUE", "FROM"]);
    for setting in &settings.settings {
        let value = setting.value.clone().unwrap_or_else(|| "-".to_owned());
        rows.add_row([setting.name.clone(), value, setting.layer.to_string()]);
    }
    println!("{rows}");
    if !settings.running {
        println!("(shoutd does not run; it would start with these)");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn remembered(layer: Layer, last: &Value) -> Vec<(String, Option<String>, Layer)> {
        let setting = |name: &str, layer| Setting { name: name.to_owned(), value: None, layer };
        let mut settings = [
            setting("advertise-address", layer),
            setting("advertise-interface", Layer::Default),
            setting("peer-addresses", Layer::Default),
        ];
        remember(&mut settings, last);
        settings.map(|setting| (setting.name, setting.value, setting.layer)).into()
    }

    #[test]
    fn a_stopped_daemon_starts_as_at_its_last_start() {
        let fixed =
            json!({"advertise_address": "10.0.0.1:7789", "peer_addresses": ["10.0.0.2:7789"]});
        let shown = remembered(Layer::Default, &fixed);
        assert_eq!(shown[0].1.as_deref(), Some("10.0.0.1:7789"));
        assert_eq!(shown[2].1.as_deref(), Some("10.0.0.2:7789"));
        let by = json!({"advertise_address": "10.0.0.1:7789", "peer_addresses": [],
                        "advertise_by": {"interface": "eth1"}});
        let shown = remembered(Layer::Default, &by);
        assert_eq!((shown[0].1.as_deref(), shown[1].1.as_deref()), (None, Some("eth1")));
        assert_eq!(shown[1].2, Layer::LastStart);
        let shown = remembered(Layer::Environment, &fixed);
        assert_eq!(shown[0].1, None, "the environment sets it");
        assert!(
            remembered(Layer::Default, &Value::Null).iter().all(|(_, value, _)| value.is_none())
        );
    }
}
