//! `shoutdctl completion`, and the hidden `shoutdctl manual`: man pages, completions and the
//! reference of the book, from the same definition as `--help`.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use shoutd_cli::DaemonArguments;

use crate::Arguments;
use crate::examples::with_examples;

/// The section of the manual for commands of an administrator (man-pages(7)).
const SECTION: &str = "8";

/// The packaged configuration file, which describes each setting.
const SETTINGS: &str = include_str!("../../../packaging/shoutd.toml");

/// Print the script that completes commands and options in a shell
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  shoutdctl completion bash > /etc/bash_completion.d/shoutdctl
  shoutdctl completion zsh > /usr/local/share/zsh/site-functions/_shoutdctl
  shoutdctl completion fish > /etc/fish/completions/shoutdctl.fish

Exit codes: 0 if it is done, 1 if it failed, 2 for a wrong command line.")]
pub struct Completion {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

impl Completion {
    /// Prints the script. Needs neither root nor a daemon.
    pub fn run(&self) {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut shoutdctl(), "shoutdctl", &mut script);
        // A closed pipe is not an error.
        let _ = io::Write::write_all(&mut io::stdout(), &script);
    }
}

/// Write man pages, completions and the reference of commands
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  shoutdctl manual --directory target/manual

Exit codes: 0 if it is done, 1 if it failed, 2 for a wrong command line.")]
pub struct Manual {
    /// Where to write them
    #[arg(long, value_name = "DIR")]
    directory: PathBuf,
}

impl Manual {
    /// Writes `man/*.8`, `man/shoutd.toml.5`, `completions/*` and `commands.md`. Needs neither root
    /// nor a daemon.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn run(&self) -> Result<()> {
        let files = pages()?
            .into_iter()
            .chain(completions())
            .chain([("commands.md".to_owned(), reference().into_bytes())]);
        for (name, content) in files {
            write(&self.directory.join(name), &content)?;
        }
        Ok(())
    }
}

fn write(path: &Path, content: &[u8]) -> Result<()> {
    let written = path.parent().map_or(Ok(()), fs::create_dir_all);
    written
        .and_then(|()| fs::write(path, content))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// The full command line of `shoutdctl`.
fn shoutdctl() -> Command {
    let mut command = with_examples(Arguments::command());
    command.build();
    command
}

fn shoutd() -> Command {
    let mut command = DaemonArguments::command();
    command.build();
    command
}

/// Command and subcommands with their full names, without hidden ones and `help`.
fn commands(command: &Command, above: &str, found: &mut Vec<(String, Command)>) {
    let name = format!("{above}{}", command.get_name());
    found.push((name.clone(), command.clone()));
    let below = command.get_subcommands();
    for sub in below.filter(|sub| !sub.is_hide_set() && sub.get_name() != "help") {
        commands(sub, &format!("{name} "), found);
    }
}

/// All commands with their full names.
fn all_commands() -> Vec<(String, Command)> {
    let mut found = Vec::new();
    for program in [shoutd(), shoutdctl()] {
        commands(&program, "", &mut found);
    }
    found
}

/// The man pages, with their names in the directory.
fn pages() -> Result<Vec<(String, Vec<u8>)>> {
    let mut pages = vec![("man/shoutd.toml.5".to_owned(), file_page().into_bytes())];
    for (name, command) in all_commands() {
        let title = name.replace(' ', "-");
        let mut page = Vec::new();
        Man::new(command.display_name(title.clone()))
            .title(title.to_uppercase())
            .section(SECTION)
            .source(concat!("shoutd ", env!("CARGO_PKG_VERSION")))
            .manual("shoutd")
            .render(&mut page)?;
        pages.push((format!("man/{title}.{SECTION}"), page));
    }
    Ok(pages)
}

/// The man page of the configuration file: its comments, and its settings.
fn file_page() -> String {
    let mut page = Roff::new();
    page.control("TH", ["shoutd.toml", "5", "", "shoutd", "shoutd"]);
    page.control("SH", ["NAME"]);
    page.text([roman("shoutd.toml - configuration of shoutd, /etc/shoutd/shoutd.toml")]);
    page.control("SH", ["DESCRIPTION"]);
    for line in SETTINGS.lines() {
        match line.strip_prefix('#').map(|words| words.strip_prefix(' ').unwrap_or(words)) {
            None | Some("") => page.control("PP", []),
            // As it is: columns, or a setting with its default.
            Some(words) if words.starts_with(' ') || is_setting(line) => {
                page.control("nf", []);
                page.text([bold(words)]);
                page.control("fi", [])
            }
            Some(words) => page.text([roman(words)]),
        };
    }
    page.control("SH", ["SEE ALSO"]);
    page.text([roman("shoutd(8), shoutdctl(8), shoutdctl-config(8)")]);
    page.render()
}

/// Whether a line of the packaged file is a setting that is commented out.
fn is_setting(line: &str) -> bool {
    line.strip_prefix('#').is_some_and(|rest| rest.starts_with(char::is_lowercase))
}

/// The completions, with the names that the shells expect.
fn completions() -> Vec<(String, Vec<u8>)> {
    let mut scripts = Vec::new();
    for (name, program) in [("shoutd", shoutd()), ("shoutdctl", shoutdctl())] {
        for (shell, file) in [
            (Shell::Bash, format!("{name}.bash")),
            (Shell::Zsh, format!("_{name}")),
            (Shell::Fish, format!("{name}.fish")),
        ] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut program.clone(), name, &mut script);
            scripts.push((format!("completions/{file}"), script));
        }
    }
    scripts
}

/// The reference of all commands as a page of the book.
fn reference() -> String {
    let mut page = "# Commands\n\n<!-- Written by shoutdctl manual; a test compares it. -->\n\n\
                    What `--help` prints. Options of the first command of a program hold for all \
                    of its\ncommands.\n"
        .to_owned();
    for (name, mut command) in all_commands() {
        let help = command.render_long_help().to_string();
        let lines: Vec<_> = help.lines().map(str::trim_end).collect();
        _ = write!(page, "\n## `{name}`\n\n```text\n{}\n```\n", lines.join("\n").trim_end());
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFERENCE: &str =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/book/src/reference/commands.md");

    #[test]
    fn the_book_has_the_reference() {
        let written = fs::read_to_string(REFERENCE).unwrap_or_default();
        assert!(
            written == reference(),
            "docs/book/src/reference/commands.md is not up to date: shoutdctl manual --directory \
             DIR writes commands.md"
        );
    }

    #[test]
    fn each_command_has_a_page_with_its_examples() {
        let pages = pages().unwrap();
        let page = |name: &str| {
            let found = pages.iter().find(|(page, _)| page == &format!("man/{name}"));
            String::from_utf8(found.expect(name).1.clone()).unwrap()
        };
        assert!(page("shoutd.8").contains("SHOUTD_METRICS_ADDRESS"));
        assert!(page("shoutdctl-network-create.8").contains("shoutdctl network create"));
        assert!(page("shoutd.toml.5").contains("metrics\\-address"));
        assert!(!pages.iter().any(|(name, _)| name.contains("manual")));
    }

    /// groff reads every page without a warning.
    #[test]
    fn the_pages_are_correct_roff() {
        let directory = tempfile::tempdir().unwrap();
        Manual { directory: directory.path().to_owned() }.run().unwrap();
        for entry in fs::read_dir(directory.path().join("man")).unwrap() {
            let path = entry.unwrap().path();
            let output = std::process::Command::new("groff")
                .args(["-man", "-Tutf8", "-ww", "-z"])
                .arg(&path)
                .output()
                .expect("groff is in Debian's package groff-base");
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success() && told.is_empty(), "{}: {told}", path.display());
        }
    }
}
