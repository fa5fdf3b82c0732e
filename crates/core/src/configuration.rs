//! The settings of a daemon, and where each comes from, as `shoutdctl config show` prints them.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The default configuration file.
pub const CONFIGURATION_FILE: &str = "/etc/shoutd/shoutd.toml";

/// Where the value of a setting comes from. A value of the command line hides one of the
/// environment, which hides one of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case", tag = "kind", content = "path")]
pub enum Layer {
    /// The command line of the daemon.
    CommandLine,
    /// An environment variable.
    Environment,
    /// This configuration file.
    File(PathBuf),
    /// The daemon remembers it from its last start.
    LastStart,
    /// Nothing sets it.
    Default,
}

impl fmt::Display for Layer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CommandLine => write!(formatter, "command line"),
            Self::Environment => write!(formatter, "environment"),
            Self::File(path) => write!(formatter, "{}", path.display()),
            Self::LastStart => write!(formatter, "last start"),
            Self::Default => write!(formatter, "default"),
        }
    }
}

/// One setting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Setting {
    /// Its name: the key in the file, and the option without its dashes.
    pub name: String,
    /// Its value as the command line takes it; `None` if it has none. A token is not shown.
    pub value: Option<String>,
    /// Where the value comes from.
    pub layer: Layer,
}

/// The settings with which a daemon runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Settings {
    /// Whether the daemon runs. If not, these are the settings with which it would start.
    pub running: bool,
    /// All settings.
    pub settings: Vec<Setting>,
}

/// What a new reading of the configuration changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// Names of settings with a new value.
    pub changed: Vec<String>,
    /// Names of settings whose new value takes effect at the next start.
    pub at_next_start: Vec<String>,
}

impl fmt::Display for Reloaded {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.changed.is_empty() {
            write!(formatter, "nothing changes")?;
        } else {
            write!(formatter, "{} changed", self.changed.join(", "))?;
        }
        if !self.at_next_start.is_empty() {
            let names = self.at_next_start.join(", ");
            write!(formatter, "; {names} will change at the next start of shoutd")?;
        }
        Ok(())
    }
}

/// Settings that a running daemon changes.
pub const RELOADABLE: [&str; 3] = ["log", "metrics-address", "tunnel-probes"];

/// Compares the running daemon's settings with those that it reads now. Settings that only the
/// first start uses, such as a token, do not differ.
pub fn changes(running: &[Setting], read: &[Setting]) -> Reloaded {
    let mut reloaded = Reloaded::default();
    for new in read {
        let old = running.iter().find(|old| old.name == new.name);
        if old.is_some_and(|old| old.value == new.value || new.layer_is_remembered(old)) {
            continue;
        }
        if RELOADABLE.contains(&new.name.as_str()) {
            reloaded.changed.push(new.name.clone());
        } else if !ONCE.contains(&new.name.as_str()) {
            reloaded.at_next_start.push(new.name.clone());
        }
    }
    reloaded
}

/// Settings that only the first start uses.
const ONCE: [&str; 3] = ["peer-addresses", "token", "token-file"];

impl Setting {
    /// Whether no layer sets it now: the daemon then keeps the remembered value.
    fn layer_is_remembered(&self, old: &Self) -> bool {
        old.layer == Layer::LastStart && self.layer == Layer::Default
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(name: &str, value: &str, layer: Layer) -> Setting {
        Setting { name: name.to_owned(), value: Some(value.to_owned()), layer }
    }

    #[test]
    fn a_reload_changes_what_it_can_and_names_what_needs_a_start() {
        let file = || Layer::File(PathBuf::from(CONFIGURATION_FILE));
        let running = [
            setting("advertise-address", "10.0.0.1:7789", Layer::LastStart),
            setting("data-dir", "/var/lib/shoutd", Layer::Default),
            setting("log", "info", Layer::Default),
            setting("peer-addresses", "10.0.0.2:7789", Layer::LastStart),
        ];
        let read = [
            Setting { value: None, layer: Layer::Default, ..running[0].clone() },
            setting("data-dir", "/srv/shoutd", file()),
            setting("log", "debug", file()),
            setting("peer-addresses", "10.0.0.3:7789", file()),
        ];
        let reloaded = changes(&running, &read);
        assert_eq!(
            (reloaded.changed, reloaded.at_next_start),
            (vec!["log".to_owned()], vec!["data-dir".to_owned()])
        );
        assert_eq!(changes(&running, &running), Reloaded::default());
    }
}
