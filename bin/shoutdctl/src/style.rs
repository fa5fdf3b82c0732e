//! Emphasis, on a terminal that wants it (<https://no-color.org>).

use std::env;
use std::io::{IsTerminal, stdout};
use std::sync::OnceLock;

use clap::ValueEnum;

/// Bold text.
const BOLD: &str = "1";
/// Yellow text.
const YELLOW: &str = "33";
/// Bold red text.
const RED: &str = "1;31";

/// When output has colours.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Colour {
    /// On a terminal, unless the environment variable `NO_COLOR` is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// What the user wants. It is set once, before anything is printed.
static WANTED: OnceLock<Colour> = OnceLock::new();

/// Sets when output has colours. Only the first call has an effect.
pub fn set_colour(wanted: Colour) {
    WANTED.get_or_init(|| wanted);
}

fn has_colour() -> bool {
    let is_plain = || env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    match WANTED.get().copied().unwrap_or_default() {
        Colour::Auto => !is_plain() && stdout().is_terminal(),
        Colour::Always => true,
        Colour::Never => false,
    }
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
