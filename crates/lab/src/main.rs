//! The helper program of the lab: the keeper, the first process of each host, and the program that
//! enters a host.

use std::process::ExitCode;

fn main() -> ExitCode {
    shoutd_lab::helper::main()
}
