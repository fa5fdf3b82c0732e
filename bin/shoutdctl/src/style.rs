//! Emphasis, on a terminal that wants it (<https://no-color.org>).

use std::env;
use std::io::{IsTerminal, stdout};

/// Bold text.
const BOLD: &str = "1";
/// Yellow text.
const YELLOW: &str = "33";
/// Bold red text.
const RED: &str = "1;31";

/// Whether standard output is a terminal that wants colours.
fn has_colour() -> bool {
    let is_plain = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !is_plain && stdout().is_terminal()
}

fn styled(text: &str, style: &str) -> String {
    if has_colour() { format!("\u{1b}[{style}m{text}\u{1b}[0m") } else { text.to_owned() }
}

/// Bold text.
pub fn bold(text: &str) -> String {
    styled(text, BOLD)
}

/// For what is wrong.
pub fn red(text: &str) -> String {
    styled(text, RED)
}

/// For what may become wrong.
pub fn yellow(text: &str) -> String {
    styled(text, YELLOW)
}
