//! The text of the unit and of the drop-in.

use std::ffi::OsStr;
use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};
use shoutd_cli::Configuration;

/// The first line of every unit and drop-in that shoutdctl writes. We touch no other.
pub const MARK: &str = "# Written by `shoutdctl start`, and removed by `shoutdctl stop --leave`.";

/// The unit of the packages. Ours runs other programs.
const PACKAGED: &str = include_str!("../../../../packaging/shoutd.service");

/// Settings that the daemon itself or the cluster remembers, because they may change.
const REMEMBERED: [&str; 4] =
    ["advertise-address", "advertise-interface", "encrypt", "peer-addresses"];

/// The text of a drop-in that runs the packaged unit's program with the options of the command
/// line; `None` if there are none.
pub fn drop_in(packaged: &str, configuration: &Configuration) -> Result<Option<String>> {
    let options = configuration.command_line_without(&REMEMBERED);
    if options.is_empty() {
        return Ok(None);
    }
    let program = packaged.lines().find_map(|line| line.strip_prefix("ExecStart="));
    let program = program.and_then(|line| line.split_whitespace().next());
    let mut line = program.context("the packaged shoutd.service has no ExecStart")?.to_owned();
    for option in options {
        write!(line, " {}", quote(&option)?)?;
    }
    // The empty one takes the unit's own away.
    Ok(Some(format!("{MARK}\n[Service]\nExecStart=\nExecStart={line}\n")))
}

/// The text of the unit.
pub fn unit(program: &Path, configuration: &Configuration) -> Result<String> {
    // systemd does not accept these in a program name, even quoted.
    if program.as_os_str().as_encoded_bytes().iter().any(|octet| br#"$"'\"#.contains(octet)) {
        bail!(
            "systemd cannot run a program with a dollar sign, quote or backslash in its path: {}",
            program.display()
        );
    }
    let mut start = quote(program.as_os_str())?;
    for argument in configuration.command_line_without(&REMEMBERED) {
        write!(start, " {}", quote(&argument)?)?;
    }
    let mut reload = quote(program.with_file_name("shoutdctl").as_os_str())?;
    reload.push_str(" config reload");
    if configuration.is_given("run-dir") {
        let run_dir = configuration.directories.run_dir.as_os_str();
        write!(reload, " --run-dir {}", quote(run_dir)?)?;
    }
    // There may be no manual pages.
    let lines = PACKAGED.lines().filter(|line| !line.starts_with("Documentation="));
    let lines = lines.map(|line| match line.split_once('=') {
        Some(("ExecStart", _)) => format!("ExecStart={start}\n"),
        Some(("ExecReload", _)) => format!("ExecReload={reload}\n"),
        _ => format!("{line}\n"),
    });
    Ok(format!("{MARK}\n{}", lines.collect::<String>()))
}

/// A word of a command line as systemd reads it (systemd.service(5), "Command lines";
/// systemd.syntax(7), "Quoting").
fn quote(word: &OsStr) -> Result<String> {
    let text = word.to_str().filter(|text| !text.contains(char::is_control));
    let text = text
        .with_context(|| format!("{word:?} is not valid UTF-8 or contains control characters"))?;
    let is_plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./:=,@+[]".contains(c))
        && !text.is_empty();
    let escaped =
        text.replace('\\', r"\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
    Ok(if is_plain { escaped } else { format!("\"{escaped}\"") })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use shoutd_cli::EXIT_REMOVED;

    use super::*;
    use crate::boot::UNIT;
    use crate::boot::tests::configuration;

    /// The package's script recognizes the units that we write.
    #[test]
    fn the_package_knows_what_we_write() {
        let script = include_str!("../../../../packaging/debian/postinst");
        assert!(script.contains(&format!("\nmark='{MARK}'\n")), "{script}");
    }

    /// systemd would restart a host that was removed from its cluster for ever.
    #[test]
    fn the_packaged_unit_knows_the_exit_code() {
        let line = format!("\nRestartPreventExitStatus={EXIT_REMOVED}\n");
        assert!(PACKAGED.contains(&line), "{PACKAGED}");
    }

    /// `systemd-analyze verify` checks it, also with paths that need quoting.
    #[test]
    fn systemd_accepts_the_unit() {
        let directory = tempfile::tempdir().unwrap();
        let [plain, program, _] = ["shoutd", "100% shoutd", "shoutdctl"].map(|name| {
            let program = directory.path().join(name);
            fs::write(&program, "#!/bin/sh\n").unwrap();
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
            program
        });
        let path = directory.path().join(UNIT);
        let odd = configuration(&["--data-dir", "/var/lib/a b/%n;\"$HOME\"\\x"]);
        for (program, configuration) in [(&plain, configuration(&[])), (&program, odd)] {
            let text = unit(program, &configuration).unwrap();
            fs::write(&path, text).unwrap();
            let verified =
                std::process::Command::new("systemd-analyze").arg("verify").arg(&path).output();
            let output = verified.expect("systemd-analyze is in Debian's package systemd");
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            // It also reports on the machine's other units.
            let ours: Vec<_> = told.lines().filter(|line| line.contains("shoutd")).collect();
            assert!(output.status.success() && ours.is_empty(), "{told}");
        }
        assert!(unit(Path::new("/bin/$true"), &configuration(&[])).is_err());
        assert!(unit(Path::new("/bin/true"), &configuration(&["--data-dir", "/a\nb"])).is_err());
    }
}
