//! The settings of the configuration file (TOML 1.0).

use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use clap::Command;
use toml::de::{DeTable, DeValue};

use crate::configuration::{ConfigurationError, Values, check, check_name};
use crate::read_at_most;

/// Size limit of the file, in octets: 1,000 peers, each with a comment, need less.
const FILE_BYTES_MAX: u64 = 256 << 10;

/// Keys that may not be in the file, and why.
const FORBIDDEN: [(&str, &str); 2] = [
    (
        "token",
        "is a secret, and this file is not; put it in a file of its own, and name that with \
               token-file",
    ),
    ("config", "names this file itself; give it with --config or SHOUTD_CONFIG"),
];

/// Reads the file. A missing one has no settings, unless it `must_exist`. `command` has all
/// settings as options.
///
/// # Errors
/// The file cannot be read, others than root can write it, it is not TOML, or a setting is unknown
/// or invalid: in one line, with the file and the line's number.
pub(crate) fn read(
    path: &Path,
    must_exist: bool,
    command: &Command,
) -> Result<Values, ConfigurationError> {
    let failed = |why: String| ConfigurationError(format!("{}: {why}", path.display()));
    let octets = match read_at_most(path, FILE_BYTES_MAX) {
        Ok(octets) => octets,
        Err(error) if error.kind() == ErrorKind::NotFound && !must_exist => {
            return Ok(Values::new());
        }
        Err(error) => return Err(failed(format!("cannot read it: {error}"))),
    };
    refuse_writable(path).map_err(failed)?;
    parse(&octets, command).map_err(|(line, why)| {
        ConfigurationError(format!("{}, line {line}: {why}", path.display()))
    })
}

/// The daemon runs as root: who can write its configuration could choose its files.
fn refuse_writable(path: &Path) -> Result<(), String> {
    let metadata = path.metadata().map_err(|error| format!("cannot read it: {error}"))?;
    if metadata.uid() != 0 || metadata.mode() & 0o022 != 0 {
        return Err(format!(
            "others than root can write it; type: chown root {path} && chmod go-w {path}",
            path = path.display()
        ));
    }
    Ok(())
}

/// Parses the text of a file.
///
/// # Errors
/// The number of the line, and what is wrong there.
pub(crate) fn parse(octets: &[u8], command: &Command) -> Result<Values, (usize, String)> {
    let text = std::str::from_utf8(octets)
        .map_err(|error| (line(octets, error.valid_up_to()), "it is not UTF-8".to_owned()))?;
    let table = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        (line(octets, at), error.message().replace('\n', " "))
    })?;
    let mut values = Values::new();
    for (key, value) in table.get_ref() {
        let (name, at) = (key.get_ref().as_ref(), line(octets, key.span().start));
        if let Some((_, why)) = FORBIDDEN.iter().find(|(forbidden, _)| *forbidden == name) {
            return Err((at, format!("{name} {why}")));
        }
        check_name(command, name).map_err(|why| (at, why))?;
        let value = value_text(value.get_ref()).ok_or_else(|| {
            let kinds = "a string, a number, true or false, or an array of strings";
            (at, format!("{name} must be {kinds}"))
        })?;
        check(command, name, &value).map_err(|why| (at, why))?;
        values.insert(name.to_owned(), value);
    }
    Ok(values)
}

/// A value as the command line takes it; `None` for one that no setting has.
fn value_text(value: &DeValue<'_>) -> Option<OsString> {
    let text = match value {
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Boolean(true) => "on".to_owned(),
        DeValue::Boolean(false) => "off".to_owned(),
        DeValue::Array(values) => {
            let texts: Option<Vec<_>> =
                values.iter().map(|value| value.get_ref().as_str()).collect();
            texts?.join(",")
        }
        DeValue::Float(_) | DeValue::Datetime(_) | DeValue::Table(_) => return None,
    };
    Some(text.into())
}

/// The number of the line with the octet at this offset, from 1.
fn line(octets: &[u8], at: usize) -> usize {
    1 + octets.iter().take(at).filter(|octet| **octet == b'\n').count()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use shoutd_fuzz::fuzz;

    use super::*;
    use crate::configuration::{names, settings};

    fn parsed(text: &str) -> Result<Vec<(String, String)>, String> {
        let values = parse(text.as_bytes(), &settings());
        let values = values.map_err(|(line, why)| format!("line {line}: {why}"))?;
        let text = |value: OsString| value.into_string().unwrap();
        Ok(values.into_iter().map(|(name, value)| (name, text(value))).collect())
    }

    #[test]
    fn settings_are_strings_switches_and_lists() {
        let text = "# comment\nadvertise-interface = \"eth1\"\npeer-addresses = [\n  \
                    \"10.0.0.1\", # the first\n  \"10.0.0.2:7790\",\n]\ntunnel-probes = false\n";
        let expected = [
            ("advertise-interface", "eth1"),
            ("peer-addresses", "10.0.0.1,10.0.0.2:7790"),
            ("tunnel-probes", "off"),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(parsed(text).unwrap(), expected);
        assert_eq!(parsed("").unwrap(), []);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (text, why) in [
            (
                "\nmetric-address = \"none\"",
                "line 2: metric-address is not a setting; did you \
                                             mean metrics-address?",
            ),
            ("no-tunnel-probes = true", "did you mean tunnel-probes?"),
            ("xyzzy = 1", "line 1: xyzzy is not a setting"),
            ("log = \"info\"\nlog = \"warn\"", "line 2: duplicate key"),
            ("log = \"loud\"", "line 1: invalid value 'loud' for '--log <FILTER>'"),
            ("log = [1]", "log must be a string"),
            ("[log]\nx = 1", "log must be a string"),
            ("log = info", "line 1: "),
            ("advertise-address = \"--data-dir=/x\"", "line 1: invalid value '--data-dir=/x'"),
            ("data-dir = \"\"", "line 1: "),
            ("token = \"SHOUT1-x\"", "line 1: token is a secret"),
            ("config = \"/x\"", "line 1: config names this file itself"),
        ] {
            let error = parsed(text).unwrap_err();
            assert!(error.contains(why) && !error.contains('\n'), "{error}");
        }
        let error = parse(b"log = \"info\"\n\xff", &settings()).unwrap_err();
        assert_eq!(error, (2, "it is not UTF-8".to_owned()));
    }

    #[test]
    fn the_packaged_file_shows_every_setting_with_its_default() {
        let text = include_str!("../../../packaging/shoutd.toml");
        assert_eq!(parsed(text).unwrap(), [], "it sets nothing");
        let is_setting = |line: &str| {
            line.strip_prefix('#').is_some_and(|rest| rest.starts_with(char::is_lowercase))
        };
        let uncommented: String = text
            .lines()
            .filter(|line| is_setting(line))
            .map(|line| format!("{}\n", &line[1..]))
            .collect();
        let shown = parsed(&uncommented).unwrap();
        let command = settings();
        for name in names(&command).iter().filter(|name| !["token", "config"].contains(&&***name)) {
            let (_, value) = shown.iter().find(|(shown, _)| shown == name).expect(name);
            let argument =
                command.get_arguments().find(|argument| argument.get_long() == Some(name));
            let defaults = argument.map(|argument| argument.get_default_values()).unwrap_or(&[]);
            assert!(defaults.is_empty() || defaults == [value.as_str()], "{name} = {value}");
        }
        assert_eq!(shown.len() + 2, names(&command).len());
    }

    #[test]
    fn a_file_that_others_can_write_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("shoutd.toml");
        assert_eq!(read(&path, false, &settings()), Ok(Values::new()));
        let error = read(&path, true, &settings()).unwrap_err().to_string();
        assert!(error.contains("cannot read it"), "{error}");
        fs::write(&path, "log = \"warn\"\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(read(&path, true, &settings()).unwrap().len(), 1);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o664)).unwrap();
        let error = read(&path, true, &settings()).unwrap_err().to_string();
        assert!(error.contains("others than root can write it; type: chown root"), "{error}");
    }

    #[test]
    fn fuzz_configuration() {
        let command = settings();
        fuzz("configuration", env!("CARGO_MANIFEST_DIR"), |text| parse(text, &command));
    }
}
