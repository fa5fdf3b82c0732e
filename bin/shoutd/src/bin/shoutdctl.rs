//! `shoutdctl`: see the library of that name. It is a program of this package so that `cargo
//! install` and a Python wheel, which take the programs of one package, have both.

use std::process::ExitCode;

fn main() -> ExitCode {
    shoutdctl::main()
}
