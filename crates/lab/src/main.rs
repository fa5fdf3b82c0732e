//! The helper program of the lab: its keeper, the first process of each host, and the way into a
//! host.

use std::process::ExitCode;

fn main() -> ExitCode {
    shoutd_lab::helper::main()
}
