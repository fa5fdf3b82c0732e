//! The error message for a wrong command line.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::CommandFactory;
use clap::error::ErrorKind;

/// Prints one line that says what is wrong with a command line, what the user may have meant, and
/// which `--help` to read. Prints help and version in full: these are not errors.
pub fn refuse<C: CommandFactory>(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        // A closed pipe is not an error.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = error.print();
        return ExitCode::from(2);
    }
    let command = C::command();
    let subcommand = subcommand(&command, std::env::args_os().skip(1));
    eprintln!("{}: {} (see {subcommand} --help)", command.get_name(), line(&error.to_string()));
    ExitCode::from(2)
}

/// The first paragraph of clap's message, with its tips on similar options and commands.
pub(crate) fn line(text: &str) -> String {
    let mut lines = text.lines().map(str::trim);
    let first: Vec<_> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
    let first = first.join(" ");
    let mut line = first.strip_prefix("error: ").unwrap_or(&first).to_owned();
    // The other tips are about quoting, and would mislead.
    let tips =
        lines.filter_map(|line| line.strip_prefix("tip: ")).filter(|tip| tip.contains("similar"));
    for tip in tips {
        line = format!("{line}; {tip}");
    }
    line
}

/// The full name of the subcommand that these arguments select.
fn subcommand(command: &clap::Command, arguments: impl Iterator<Item = OsString>) -> String {
    let (mut names, mut current) = (command.get_name().to_owned(), command);
    for argument in arguments {
        if let Some(below) = current.find_subcommand(&argument) {
            names = format!("{names} {}", below.get_name());
            current = below;
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use clap::{Parser, Subcommand};

    use super::*;
    use crate::{Directories, StartArguments};

    #[derive(Debug, Parser)]
    #[command(name = "prog")]
    struct Line {
        #[command(flatten)]
        _places: Directories,
        #[command(subcommand)]
        _command: Commands,
    }

    #[derive(Debug, Subcommand)]
    enum Commands {
        Start(Box<StartArguments>),
        #[command(subcommand)]
        Network(Network),
    }

    #[derive(Debug, Subcommand)]
    enum Network {
        Create,
        Wait,
    }

    fn message(arguments: &[&str]) -> String {
        let error = Line::try_parse_from(["prog"].iter().chain(arguments)).unwrap_err();
        let subcommand = subcommand(&Line::command(), arguments.iter().map(OsString::from));
        format!("{} (see {subcommand} --help)", line(&error.to_string()))
    }

    #[test]
    fn an_error_suggests_a_similar_name_and_the_help_of_the_subcommand() {
        for (arguments, meant, help) in [
            (&["strat"][..], "'start'", "(see prog --help)"),
            (
                &["start", "10.0.0.1", "--peer-adresses=10.0.0.2"],
                "'--peer-addresses'",
                "(see prog start --help)",
            ),
            (&["network", "crate"], "'create'", "(see prog network --help)"),
            (
                &["--run-dir", "/x", "network", "wait", "--run-dri=/y"],
                "'--run-dir'",
                "(see prog network wait --help)",
            ),
        ] {
            let text = message(arguments);
            assert!(
                text.contains("similar") && text.contains(meant) && text.ends_with(help),
                "{text}"
            );
            assert!(!text.contains('\n') && !text.contains("Usage"), "{text}");
        }
    }

    #[test]
    fn an_unknown_option_without_a_similar_one_has_no_tip() {
        let text = message(&["start", "--xyzzy"]);
        assert_eq!(text, "unexpected argument '--xyzzy' found (see prog start --help)");
    }
}
