//! Fuzz target of the command line parser.

use clap::{Args, Command, FromArgMatches};
use shoutd_core::address::parse_address;
use shoutd_fuzz::fuzz;

use crate::StartArguments;

/// Parses the input as arguments, and as an address.
#[test]
fn fuzz_arguments() {
    fuzz("arguments", env!("CARGO_MANIFEST_DIR"), |line| {
        let line = String::from_utf8_lossy(line);
        let address = parse_address(&line);
        if let Ok(address) = address {
            assert_eq!(parse_address(&address.to_string()), Ok(address));
        }
        let command = StartArguments::augment_args(Command::new("shoutd").disable_help_flag(true));
        let matches = command
            .try_get_matches_from(std::iter::once("shoutd").chain(line.split_whitespace().take(8)));
        let arguments = matches.and_then(|matches| StartArguments::from_arg_matches(&matches));
        (address, arguments.map_err(|error| error.kind()))
    });
}
