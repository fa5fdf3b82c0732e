//! Examples and exit codes for each command's `--help`. Commands whose exit codes differ say more
//! in their own module.

use clap::Command;

/// The examples by the names of command and subcommand.
const EXAMPLES: [(&str, &[&str]); 25] = [
    (
        "start",
        &[
            "shoutdctl start 192.0.2.1",
            "shoutdctl start 192.0.2.2 --peer-addresses=192.0.2.1 --token-file=token",
            "shoutdctl start --advertise-interface eth1",
            "shoutdctl start --container 192.0.2.1",
            "shoutdctl start --json",
            "shoutdctl start",
        ],
    ),
    ("stop", &["shoutdctl stop", "shoutdctl stop --leave"]),
    ("token show", &["shoutdctl token show", "shoutdctl token show --json"]),
    (
        "token rotate",
        &["shoutdctl token rotate", "shoutdctl token rotate --expires 1h --single-use"],
    ),
    ("token prepare", &["shoutdctl token prepare"]),
    ("approve", &["shoutdctl approve", "shoutdctl approve <fingerprint>"]),
    ("remove", &["shoutdctl remove host3", "shoutdctl remove --revoke host3"]),
    ("config show", &["shoutdctl config show", "shoutdctl config show --json"]),
    ("config reload", &["shoutdctl config reload"]),
    ("backup", &["shoutdctl backup shoutd.backup"]),
    ("restore", &["shoutdctl restore shoutd.backup 192.0.2.1"]),
    ("recover", &["shoutdctl recover <cluster>"]),
    (
        "network create",
        &[
            "shoutdctl network create foo",
            "shoutdctl network create --subnet 10.9.0.0/16 --opt shoutd.max-rate=1000 foo",
        ],
    ),
    ("network rm", &["shoutdctl network rm foo bar"]),
    ("network wait", &["shoutdctl network wait foo", "shoutdctl network wait --gone foo"]),
    ("network ls", &["shoutdctl network ls", "shoutdctl network ls --host host2 --json"]),
    ("network inspect", &["shoutdctl network inspect foo"]),
    ("swarm-plugin install", &["shoutdctl swarm-plugin install"]),
    ("swarm-plugin remove", &["shoutdctl swarm-plugin remove"]),
    (
        "status",
        &["shoutdctl status", "shoutdctl status --cluster", "shoutdctl status --host host2"],
    ),
    ("hosts", &["shoutdctl hosts", "shoutdctl hosts --json"]),
    ("networks", &["shoutdctl networks", "shoutdctl networks --host host2"]),
    ("endpoints", &["shoutdctl endpoints", "shoutdctl endpoints --network foo --json"]),
    ("events", &["shoutdctl events", "shoutdctl events --host host2 --json"]),
    ("groups", &["shoutdctl groups", "shoutdctl groups --network foo --rates"]),
];

/// Exit codes of all commands but those that name others.
const EXIT_CODES: &str = "Exit codes: 0 if it is done, 1 if it failed, 2 for a wrong command line.";

/// The command line, with examples and exit codes in the help of each command.
pub fn with_examples(command: Command) -> Command {
    EXAMPLES.iter().fold(command, |command, (path, lines)| {
        let mut names = path.split(' ');
        let (first, second) = (names.next().unwrap_or_default().to_owned(), names.next());
        match second {
            None => command.mut_subcommand(first, |found| extended(found, lines)),
            Some(second) => command.mut_subcommand(first, |found| {
                found.mut_subcommand(second, |found| extended(found, lines))
            }),
        }
    })
}

fn extended(command: Command, lines: &[&str]) -> Command {
    let examples: String = lines.iter().map(|line| format!("  {line}\n")).collect();
    let after = command.get_after_help().map_or_else(|| EXIT_CODES.to_owned(), ToString::to_string);
    command.after_help(format!("Examples:\n{examples}\n{after}"))
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::Arguments;

    /// The names of all commands that users can type, with their help.
    fn commands(command: &Command, path: &str, found: &mut Vec<(String, String)>) {
        for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
            let path = format!("{path}{}", sub.get_name());
            if sub.has_subcommands() {
                commands(sub, &format!("{path} "), found);
            } else {
                let help = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
                found.push((path, help));
            }
        }
    }

    #[test]
    fn each_command_has_examples_that_can_be_typed_and_its_exit_codes() {
        let command = with_examples(Arguments::command());
        command.clone().debug_assert();
        let mut found = Vec::new();
        commands(&command, "", &mut found);
        assert!(found.len() > EXAMPLES.len(), "{found:?}");
        for (path, help) in found {
            assert!(help.contains("Exit codes:"), "{path} names no exit codes: {help}");
            let lines = help.lines().map(str::trim);
            let lines = lines.filter_map(|line| line.find("shoutdctl ").map(|at| &line[at..]));
            let own: Vec<_> =
                lines.filter(|line| line.starts_with(&format!("shoutdctl {path}"))).collect();
            assert!(help.starts_with("Examples:") && !own.is_empty(), "{path}: {help}");
            for line in own {
                let line = line.split(" | ").next().unwrap_or(line);
                let line = line.split(" > ").next().unwrap_or(line);
                let line = line
                    .replace("<fingerprint>", &"ab".repeat(32))
                    .replace("<cluster>", &"ab".repeat(16));
                let parsed = Arguments::try_parse_from(line.split(' '));
                assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
            }
        }
    }
}
