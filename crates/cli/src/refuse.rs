//! What is said of a command line that is wrong.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::CommandFactory;
use clap::error::ErrorKind;

/// Says in one line what is wrong with a command line, what may have been meant, and whose help
/// tells more; help and version, which are no mistakes, are printed whole.
pub fn refuse<C: CommandFactory>(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        // A closed pipe is the reader's business.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = error.print();
        return ExitCode::from(2);
    }
    let command = C::command();
    let meant = meant(&command, std::env::args_os().skip(1));
    eprintln!("{}: {} (see {meant} --help)", command.get_name(), line(&error.to_string()));
    ExitCode::from(2)
}

/// The first paragraph of clap's text, and which option or command is like one that does not exist.
fn line(text: &str) -> String {
    let mut lines = text.lines().map(str::trim);
    let first: Vec<_> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
    let first = first.join(" ");
    let mut line = first.strip_prefix("error: ").unwrap_or(&first).to_owned();
    // Other tips than these are about quoting, which is not what was wrong.
    let tips =
        lines.filter_map(|line| line.strip_prefix("tip: ")).filter(|tip| tip.contains("similar"));
    for tip in tips {
        line = format!("{line}; {tip}");
    }
    line
}

/// The command, or the command below it, that these arguments are for.
fn meant(command: &clap::Command, arguments: impl Iterator<Item = OsString>) -> String {
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
        Start(StartArguments),
        #[command(subcommand)]
        Network(Network),
    }

    #[derive(Debug, Subcommand)]
    enum Network {
        Create,
        Wait,
    }

    fn told(arguments: &[&str]) -> String {
        let error = Line::try_parse_from(["prog"].iter().chain(arguments)).unwrap_err();
        let meant = meant(&Line::command(), arguments.iter().map(OsString::from));
        format!("{} (see {meant} --help)", line(&error.to_string()))
    }

    #[test]
    fn what_may_have_been_meant_is_said_with_the_help_that_is_to_the_point() {
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
            let told = told(arguments);
            assert!(
                told.contains("similar") && told.contains(meant) && told.ends_with(help),
                "{told}"
            );
            assert!(!told.contains('\n') && !told.contains("Usage"), "{told}");
        }
    }

    #[test]
    fn what_is_like_nothing_has_no_tip() {
        let told = told(&["start", "--xyzzy"]);
        assert_eq!(told, "unexpected argument '--xyzzy' found (see prog start --help)");
    }
}
