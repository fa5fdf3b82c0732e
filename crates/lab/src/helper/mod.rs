//! The lab's helper program, `shoutd-lab`. A lab needs separate processes to survive its owner's
//! death (`keeper`), to be the first of a PID namespace (`init`), and to enter namespaces, which
//! only a process with a single thread may do (`enter`).

mod cleanup;
mod enter;
mod init;
mod keeper;
mod name_server;
mod underlay;

use std::env;
use std::process::ExitCode;

use anyhow::{Result, bail};
pub(crate) use cleanup::{clean_up, thaw_host};
pub(crate) use keeper::ask;

/// Runs the helper program by its arguments; not meant for users.
#[must_use]
pub fn main() -> ExitCode {
    match dispatch() {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("shoutd-lab: {error:#}");
            ExitCode::from(125)
        }
    }
}

fn dispatch() -> Result<u8> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["keep", lab] => keeper::keep(lab).map(|()| 0),
        ["init", lab, host] => init::run(lab, host.parse()?),
        ["enter", pid, command @ ..] if !command.is_empty() => enter::run(pid.parse()?, command),
        _ => bail!("this program is run by the lab; use `cargo xtask lab` instead"),
    }
}
