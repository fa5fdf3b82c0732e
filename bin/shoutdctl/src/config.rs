//! `shoutdctl config`: the settings, and where each comes from.

use anyhow::Result;
use clap::{ArgMatches, Subcommand};
use shoutd_cli::{Configuration, Directories, LastStart};
use shoutd_core::configuration::{Reloaded, Settings};

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
    if let Some(last) = LastStart::load(&configuration.start.data_dir)? {
        last.overlay(&mut settings);
    }
    Ok(Settings { running: false, settings })
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
