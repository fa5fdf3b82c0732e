//! Removes a token from the command line, which every user of the host can read while the process
//! runs (proc_pid_cmdline(5)). Its environment is readable only by its own user and root
//! (proc_pid_environ(5)).

use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::TOKEN_VARIABLE;

const OPTION: &[u8] = b"--token";

/// If the command line, which must be valid, has a token, executes this program again in the same
/// process, with the token in the environment. Call it before any thread starts and any file is
/// opened. If that fails, the program continues with the token on its command line.
pub fn hide_token() {
    let mut arguments = env::args_os();
    let name = arguments.next().unwrap_or_default();
    let Some((rest, token)) = without_token(arguments) else {
        return;
    };
    // Not through /proc/self/exe: the process would then be named "exe".
    if let Ok(program) = env::current_exe() {
        let error = Command::new(program).arg0(name).args(rest).env(TOKEN_VARIABLE, token).exec();
        eprintln!("(the token stays visible in the process list: {error})");
    }
}

/// The arguments without the token, and the token; `None` if there is no token.
fn without_token(arguments: impl Iterator<Item = OsString>) -> Option<(Vec<OsString>, OsString)> {
    let (mut rest, mut token) = (Vec::new(), None);
    let mut arguments = arguments.peekable();
    while let Some(argument) = arguments.next() {
        match argument.as_bytes().strip_prefix(OPTION) {
            Some([]) if arguments.peek().is_some() => token = arguments.next(),
            Some([b'=', value @ ..]) => token = Some(OsStr::from_bytes(value).to_owned()),
            _ if argument == "--" => {
                rest.push(argument);
                rest.extend(arguments.by_ref());
            }
            _ => rest.push(argument),
        }
    }
    token.map(|token| (rest, OsString::from_vec(token.into_vec())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(line: &str) -> Option<(String, String)> {
        let (rest, token) = without_token(line.split(' ').map(OsString::from))?;
        let rest: Vec<_> = rest.into_iter().map(|word| word.into_string().unwrap()).collect();
        Some((rest.join(" "), token.into_string().unwrap()))
    }

    #[test]
    fn only_the_token_is_removed_from_the_command_line() {
        let taken = Some(("start 10.0.0.1 --timeout=5".to_owned(), "SHOUT1-x".to_owned()));
        assert_eq!(split("start 10.0.0.1 --token=SHOUT1-x --timeout=5"), taken);
        assert_eq!(split("start 10.0.0.1 --token SHOUT1-x --timeout=5"), taken);
        for line in [
            "start 10.0.0.1",
            "start --token-file=/x",
            "start --token-file /x",
            "token show",
            "start -- --token=x",
        ] {
            assert_eq!(split(line), None, "{line}");
        }
    }
}
