//! The configuration of a start: the command line over the environment over the configuration file.
//!
//! A setting has the same name in all three: `--metrics-address`, `SHOUTD_METRICS_ADDRESS` and
//! `metrics-address`. The options of [`StartArguments`] define the settings, and clap checks every
//! value, wherever it comes from.

use std::collections::BTreeMap;
use std::env;
use std::ffi::{OsStr, OsString};
use std::path::{self, PathBuf};

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};
use shoutd_core::configuration::{CONFIGURATION_FILE, Layer, Setting};
use shoutd_core::encryption::WireguardChoice;
use shoutd_core::limits::ENCRYPTION_PORT;
use shoutd_core::metrics_address::MetricsAddress;
use strsim::jaro_winkler;

use crate::file_layer;
use crate::{Directories, StartArguments};

/// Prefix of environment variables that are settings.
const PREFIX: &str = "SHOUTD_";

/// The setting of the file's own path. It cannot be in the file.
const CONFIG: &str = "config";

/// The setting that is not an option but the first argument.
const POSITIONAL: &str = "advertise-address";

/// The token, which is not shown.
const TOKEN: &str = "token";

/// Groups of mutually exclusive settings. A value in one layer hides the whole group in all lower
/// layers.
const EXCLUSIVE: [&[&str]; 2] = [&[POSITIONAL, "advertise-interface"], &[TOKEN, "token-file"]];

/// Similarity (Jaro-Winkler) from which a name is taken for a misspelt one.
const SIMILAR: f64 = 0.8;

/// The settings of one layer: name and value.
pub(crate) type Values = BTreeMap<String, OsString>;

/// What a start is asked for, by all layers together.
#[derive(Debug, Clone)]
pub struct Configuration {
    /// The arguments of the daemon.
    pub start: StartArguments,
    /// The directories.
    pub directories: Directories,
    /// Each setting, and the layer that sets it.
    pub settings: Vec<Setting>,
}

/// Why there is no configuration, in one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigurationError(pub(crate) String);

impl Configuration {
    /// Reads the environment and the configuration file, for arguments that clap has parsed. They
    /// need not be those of the daemon: options that `matches` does not know are not given.
    ///
    /// # Errors
    /// The file cannot be read or trusted, or a setting is unknown or invalid.
    pub fn read(matches: &ArgMatches) -> Result<Self, ConfigurationError> {
        Self::from_layers(matches, &env::vars_os().collect())
    }

    fn from_layers(
        matches: &ArgMatches,
        environment: &BTreeMap<OsString, OsString>,
    ) -> Result<Self, ConfigurationError> {
        let command = settings();
        let mut chosen = Chosen::default();
        chosen.add(given(&command, matches), &Layer::CommandLine)?;
        chosen.add(from_environment(&command, environment)?, &Layer::Environment)?;
        let named = chosen.values.get(CONFIG).map(|(value, _)| PathBuf::from(value));
        let path = named.clone().unwrap_or_else(|| PathBuf::from(CONFIGURATION_FILE));
        let layer = Layer::File(path.clone());
        chosen.add(file_layer::read(&path, named.is_some(), &command)?, &layer)?;
        chosen.parse(command)
    }

    /// Whether the command line gives this setting.
    pub fn is_given(&self, name: &str) -> bool {
        let mut settings = self.settings.iter();
        settings.any(|setting| setting.name == name && setting.layer == Layer::CommandLine)
    }

    /// The options of the command line, to start the daemon with the same. Without the token: every
    /// user could read it.
    pub fn command_line(&self) -> Vec<OsString> {
        self.command_line_without(&[])
    }

    /// As [`Self::command_line`], without these settings.
    pub fn command_line_without(&self, names: &[&str]) -> Vec<OsString> {
        let given = self.settings.iter().filter(|setting| {
            let name = setting.name.as_str();
            let is_secret = [TOKEN, "token-file"].contains(&name);
            setting.layer == Layer::CommandLine && !is_secret && !names.contains(&name)
        });
        let words = given.filter_map(|setting| {
            let value = OsString::from(setting.value.as_ref()?);
            let is_positional = setting.name == POSITIONAL;
            Some(if is_positional { value } else { option(&setting.name, &value) })
        });
        words.collect()
    }
}

/// All settings as options of one command. The first positional argument is one, too.
pub(crate) fn settings() -> Command {
    let command = StartArguments::augment_args(Command::new("shoutd"));
    Directories::augment_args(command).disable_help_flag(true)
}

/// The value of a setting that has no default for clap, so that a start knows whether it is given.
fn default_value(name: &str) -> Option<String> {
    match name {
        "metrics-address" => Some(MetricsAddress::default().to_string()),
        "tunnel-probes" => Some("on".to_owned()),
        "wireguard" => Some(WireguardChoice::default().to_string()),
        "wireguard-port" => Some(ENCRYPTION_PORT.to_string()),
        _ => None,
    }
}

/// The name of a setting.
fn name(argument: &Arg) -> String {
    let long = argument.get_long().map(str::to_owned);
    long.unwrap_or_else(|| argument.get_id().as_str().replace('_', "-"))
}

/// The names of all settings that a user may set.
pub(crate) fn names(command: &Command) -> Vec<String> {
    command.get_arguments().filter(|argument| !argument.is_hide_set()).map(name).collect()
}

/// These settings as a command line. The positional one is last: it may begin with a dash.
fn line<'a>(settings: impl Iterator<Item = (&'a str, &'a OsStr)>) -> Vec<OsString> {
    let (positional, options): (Vec<_>, Vec<_>) =
        settings.partition(|(name, _)| *name == POSITIONAL);
    let options = options.into_iter().map(|(name, value)| option(name, value));
    let positional = positional.into_iter().map(|(_, value)| value.to_owned());
    ["shoutd".into()].into_iter().chain(options).chain(["--".into()]).chain(positional).collect()
}

fn option(name: &str, value: &OsStr) -> OsString {
    let mut word = OsString::from(format!("--{name}="));
    word.push(value);
    word
}

/// Whether there is a setting of this name.
///
/// # Errors
/// That there is none, in one line, with the most similar name.
pub(crate) fn check_name(command: &Command, name: &str) -> Result<(), String> {
    let known = names(command);
    if known.iter().any(|known| known == name) {
        return Ok(());
    }
    let nearest = nearest(name, &known).map(|known| format!("; did you mean {known}?"));
    Err(format!("{name} is not a setting{}", nearest.unwrap_or_default()))
}

/// Whether clap accepts the setting with this value.
///
/// # Errors
/// What is wrong, in one line.
pub(crate) fn check(command: &Command, name: &str, value: &OsStr) -> Result<(), String> {
    let line = line([(name, value)].into_iter());
    let parsed = command.clone().try_get_matches_from(line);
    parsed.map(drop).map_err(|error| crate::refuse::line(&error.to_string()))
}

/// The known name that is most similar, if one is.
fn nearest<'a>(name: &str, known: &'a [String]) -> Option<&'a str> {
    let scored = known.iter().map(|known| (jaro_winkler(name, known), known.as_str()));
    let best = scored.max_by(|one, other| one.0.total_cmp(&other.0));
    best.filter(|(score, _)| *score >= SIMILAR).map(|(_, known)| known)
}

/// The settings that the command line gives.
fn given(command: &Command, matches: &ArgMatches) -> Values {
    let mut values = Values::new();
    for argument in command.get_arguments() {
        let id = argument.get_id().as_str();
        if !matches.try_contains_id(id).is_ok_and(|is_there| is_there)
            || matches.value_source(id) != Some(ValueSource::CommandLine)
        {
            continue;
        }
        let raw = matches.get_raw(id).into_iter().flatten();
        let mut value = raw.collect::<Vec<_>>().join(OsStr::new(","));
        if name(argument) == CONFIG {
            // The daemon runs in another directory. An empty path stays, and is refused when read.
            value = path::absolute(&value).map_or(value, OsString::from);
        }
        values.insert(name(argument), value);
    }
    values
}

/// The settings that the environment gives. An empty variable gives none.
fn from_environment(
    command: &Command,
    environment: &BTreeMap<OsString, OsString>,
) -> Result<Values, ConfigurationError> {
    let names = names(command);
    let variables: Vec<_> = names.iter().map(|name| variable(name)).collect();
    let mut values = Values::new();
    for (key, value) in environment.iter().filter(|(_, value)| !value.is_empty()) {
        let Some(key) = key.to_str().filter(|key| key.starts_with(PREFIX)) else { continue };
        let at = variables.iter().position(|variable| variable == key);
        if let Some(name) = at.and_then(|at| names.get(at)) {
            check(command, name, value).map_err(|why| {
                ConfigurationError(format!("the environment variable {key}: {why}"))
            })?;
            values.insert(name.clone(), value.clone());
        } else if let Some(meant) = nearest(key, &variables).filter(|meant| is_misspelt(key, meant))
        {
            return Err(ConfigurationError(format!(
                "{key} is not a variable of shoutd; did you mean {meant}?"
            )));
        }
    }
    Ok(values)
}

/// Whether a variable is one of shoutd's, misspelt. All begin alike, so only the rest counts.
fn is_misspelt(key: &str, meant: &str) -> bool {
    let rest = |text: &str| text.strip_prefix(PREFIX).unwrap_or(text).to_owned();
    jaro_winkler(&rest(key), &rest(meant)) >= 0.9
}

/// The environment variable of a setting.
pub(crate) fn variable(name: &str) -> String {
    format!("{PREFIX}{}", name.replace('-', "_").to_uppercase())
}

/// The values chosen so far, with their layers.
#[derive(Debug, Default)]
struct Chosen {
    values: BTreeMap<String, (OsString, Layer)>,
}

impl Chosen {
    /// Adds what a lower layer gives, and no higher one.
    fn add(&mut self, values: Values, layer: &Layer) -> Result<(), ConfigurationError> {
        for group in EXCLUSIVE {
            let both: Vec<_> = group.iter().filter(|name| values.contains_key(**name)).collect();
            if let [one, other, ..] = both.as_slice() {
                return Err(ConfigurationError(format!(
                    "{layer}: give {one} or {other}, not both"
                )));
            }
        }
        let hidden: Vec<&str> = EXCLUSIVE
            .into_iter()
            .filter(|group| group.iter().any(|name| self.values.contains_key(*name)))
            .flatten()
            .copied()
            .collect();
        for (name, value) in values {
            if !hidden.contains(&name.as_str()) {
                self.values.entry(name).or_insert_with(|| (value, layer.clone()));
            }
        }
        Ok(())
    }

    /// The configuration that results, with the defaults.
    fn parse(self, command: Command) -> Result<Configuration, ConfigurationError> {
        let values = self.values.iter();
        let line = line(values.map(|(name, (value, _))| (name.as_str(), value.as_os_str())));
        let arguments: Vec<Arg> =
            command.get_arguments().filter(|argument| !argument.is_hide_set()).cloned().collect();
        let refused =
            |error: clap::Error| ConfigurationError(crate::refuse::line(&error.to_string()));
        let matches = command.try_get_matches_from(line).map_err(refused)?;
        let mut settings: Vec<_> =
            arguments.iter().map(|argument| self.setting(argument, &matches)).collect();
        settings.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(Configuration {
            start: StartArguments::from_arg_matches(&matches).map_err(refused)?,
            directories: Directories::from_arg_matches(&matches).map_err(refused)?,
            settings,
        })
    }

    fn setting(&self, argument: &Arg, matches: &ArgMatches) -> Setting {
        let name = name(argument);
        let layer = self.values.get(&name).map_or(Layer::Default, |(_, layer)| layer.clone());
        let raw = matches.get_raw(argument.get_id().as_str());
        let value = raw.map(|raw| raw.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(","));
        let value = value.or_else(|| default_value(&name));
        let value = value.map(|value| if name == TOKEN { "(not shown)".to_owned() } else { value });
        Setting { name, value, layer }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::{LogFormat, Switch};

    fn layered(
        line: &[&str],
        environment: &[(&str, &str)],
        file: &str,
    ) -> Result<Configuration, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("shoutd.toml");
        fs::write(&path, file).unwrap();
        let matches = settings().get_matches_from(["shoutd"].iter().chain(line));
        let mut environment: BTreeMap<OsString, OsString> =
            environment.iter().map(|(key, value)| (key.into(), value.into())).collect();
        environment.insert("SHOUTD_CONFIG".into(), path.into());
        Configuration::from_layers(&matches, &environment).map_err(|error| error.to_string())
    }

    fn setting<'a>(configuration: &'a Configuration, name: &str) -> (&'a str, String) {
        let found = configuration.settings.iter().find(|setting| setting.name == name).unwrap();
        let layer = match &found.layer {
            Layer::File(_) => "file".to_owned(),
            layer => layer.to_string(),
        };
        (found.value.as_deref().unwrap_or("none"), layer)
    }

    #[test]
    fn the_command_line_hides_the_environment_and_that_the_file() {
        let file = "log = \"warn\"\nmetrics-address = \"none\"\ntunnel-probes = false\n\
                    docker-socket = \"/file\"\npeer-addresses = [\"10.0.0.7\"]\n";
        let environment =
            [("SHOUTD_LOG", "error"), ("SHOUTD_METRICS_ADDRESS", "10.0.0.1"), ("SHOUTD_TOKEN", "")];
        let all = layered(&["--log=debug"], &environment, file).unwrap();
        for (name, value, layer) in [
            ("log", "debug", "command line"),
            ("metrics-address", "10.0.0.1", "environment"),
            ("docker-socket", "/file", "file"),
            ("tunnel-probes", "off", "file"),
            ("plugin-socket", "/run/docker/plugins/shoutd.sock", "default"),
            ("token", "none", "default"),
            ("log-format", "text", "default"),
        ] {
            assert_eq!(setting(&all, name), (value, layer.to_owned()), "{name}");
        }
        assert_eq!(all.start.log.to_string(), "debug");
        assert_eq!(
            (all.start.tunnel_probes, all.start.log_format),
            (Some(Switch::Off), LogFormat::Text)
        );
        assert_eq!(all.start.docker_socket, Path::new("/file"));
        assert_eq!(all.start.peer_addresses, ["10.0.0.7:7789".parse().unwrap()]);
        assert_eq!(all.command_line(), ["--log=debug"]);
    }

    #[test]
    fn what_the_command_line_gives_is_passed_on_but_no_token() {
        let line =
            ["10.0.0.1", "--token=SHOUT1-x", "--peer-addresses=10.0.0.2,10.0.0.3", "--data-dir=/x"];
        let all = layered(&line, &[], "").unwrap();
        assert_eq!(setting(&all, "token"), ("(not shown)", "command line".to_owned()));
        let passed = ["10.0.0.1", "--data-dir=/x", "--peer-addresses=10.0.0.2,10.0.0.3"];
        assert_eq!(all.command_line(), passed);
        assert_eq!(
            all.command_line_without(&["advertise-address", "peer-addresses"]),
            ["--data-dir=/x"]
        );
    }

    #[test]
    fn a_file_is_passed_on_with_its_full_path() {
        let own = env::current_dir().unwrap();
        let values =
            given(&settings(), &settings().get_matches_from(["shoutd", "--config=x.toml"]));
        assert_eq!(values[CONFIG], own.join("x.toml").into_os_string());
    }

    #[test]
    fn of_settings_that_exclude_each_other_a_higher_layer_hides_both() {
        let file = "advertise-interface = \"eth1\"\ntoken-file = \"/x\"\n";
        let all = layered(&["10.0.0.1"], &[("SHOUTD_TOKEN", "SHOUT1-x")], file).unwrap();
        assert_eq!(setting(&all, "advertise-interface"), ("none", "default".to_owned()));
        assert_eq!(setting(&all, "token-file"), ("none", "default".to_owned()));
        assert_eq!(all.start.token.as_deref(), Some("SHOUT1-x"));
        let both = "advertise-interface = \"eth1\"\nadvertise-address = \"10.0.0.1\"\n";
        let error = layered(&[], &[], both).unwrap_err();
        assert!(
            error.ends_with("give advertise-address or advertise-interface, not both"),
            "{error}"
        );
    }

    #[test]
    fn an_invalid_or_misspelt_variable_is_named() {
        let error = layered(&[], &[("SHOUTD_LOG", "loud")], "").unwrap_err();
        assert!(
            error.starts_with("the environment variable SHOUTD_LOG: invalid value 'loud'"),
            "{error}"
        );
        let error = layered(&[], &[("SHOUTD_METRIC_ADDRESS", "none")], "").unwrap_err();
        assert!(error.ends_with("did you mean SHOUTD_METRICS_ADDRESS?"), "{error}");
        assert!(layered(&[], &[("SHOUTD_LAB_ENGINE", "x"), ("OTHER", "y")], "").is_ok());
    }
}
