//! The output of `shoutdctl`: tables, and JSON for scripts.

mod inspect;
mod lists;
mod pcapng;
mod ping;
mod status;
mod trace;
mod watch;
mod why;

use std::fmt::Display;
use std::io::IsTerminal;

use anyhow::Result;
use clap::Args;
use comfy_table::{ContentArrangement, Table, presets};
pub use inspect::{Inspect, Inspected};
pub use lists::{Endpoints, Events, Groups, Hosts, Networks};
pub use ping::Ping;
use serde::Serialize;
use serde::de::DeserializeOwned;
use shoutd_cli::Directories;
use shoutd_core::host_view::{AskHost, HostView};
use shoutd_core::view::{Membership, Status as StatusView};
pub use status::Status;
pub use trace::{Capture, Captured, Trace};
pub use watch::Watch;
pub use why::Why;

use crate::control::{self, ControlError};

/// Output format.
#[derive(Debug, Clone, Copy, Args)]
pub struct Format {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

impl Format {
    /// Prints a list, with a note if the agreed state behind it may be out of date.
    async fn print<T: Serialize>(
        self,
        directories: &Directories,
        view: &T,
        table: Table,
    ) -> Result<()> {
        if self.json {
            println!("{}", serde_json::to_string_pretty(view)?);
            return Ok(());
        }
        println!("{}", table.trim_fmt());
        let status: StatusView = control::get(directories, "/v1/status").await?;
        if let Some(note) = status::staleness(&status) {
            eprintln!("({note})");
        }
        Ok(())
    }
}

/// What this host shows, or another host of the cluster.
async fn of_host<T: DeserializeOwned>(
    directories: &Directories,
    host: Option<&str>,
    view: HostView,
) -> Result<T, ControlError> {
    match host {
        Some(host) => {
            let asked = AskHost { host: host.to_owned(), view };
            control::post(directories, "/v1/host", &asked).await
        }
        None => {
            let path = match view {
                HostView::Status => "/v1/status",
                HostView::Hosts => "/v1/hosts",
                HostView::Groups => "/v1/groups",
                HostView::Events => "/v1/events",
            };
            control::get(directories, path).await
        }
    }
}

fn membership(membership: &Membership) -> String {
    match membership {
        Membership::Member => "member".to_owned(),
        Membership::Joining(why) => format!("joining: {why}"),
        Membership::AwaitingApproval { host, .. } => {
            format!("waiting for: shoutdctl approve {host}")
        }
    }
}

/// Formats an age in milliseconds.
fn ago(milliseconds: u64) -> String {
    format!("{}.{} s ago", milliseconds / 1000, milliseconds % 1000 / 100)
}

/// A table without lines, like Docker's.
pub fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if N > 0 {
        table.set_header(header);
    }
    if let Some(width) = terminal_width() {
        fit(&mut table, width);
    }
    table
}

/// Breaks the lines of cells so that the table is no wider.
fn fit(table: &mut Table, width: u16) {
    table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
}

/// The columns of the terminal; `None` if standard output is none, so that scripts get one line for
/// each row.
fn terminal_width() -> Option<u16> {
    if !std::io::stdout().is_terminal() {
        return None;
    }
    crossterm::terminal::size().ok().map(|(columns, _)| columns).filter(|columns| *columns > 0)
}

/// Escapes control characters. Docker accepts names with line breaks, which would split a row, and
/// with escape sequences, which the terminal would execute.
pub fn cell(text: &str) -> String {
    if !text.contains(char::is_control) {
        return text.to_owned();
    }
    let mut escaped = String::new();
    for c in text.chars() {
        if c.is_control() {
            escaped.extend(c.escape_default());
        } else {
            escaped.push(c);
        }
    }
    escaped
}

/// A number of at most five characters: `950`, `1.23k`, `45.6M`.
pub fn short(rate: f64) -> String {
    let mut scaled = rate;
    for unit in ["", "k", "M", "G"] {
        if scaled < 999.5 {
            let digits = match scaled {
                _ if unit.is_empty() => 0,
                less if less < 9.995 => 2,
                less if less < 99.95 => 1,
                _ => 0,
            };
            return format!("{scaled:.digits$}{unit}");
        }
        scaled /= 1000.0;
    }
    format!("{scaled:.0}T")
}

fn list<T: Display>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_in_names_are_escaped() {
        let mut rows = table(["NAME", "ID"]);
        rows.add_row([cell("a\nb\u{1b}[2J"), "1".to_owned()]);
        let shown = rows.trim_fmt();
        assert_eq!(shown.lines().count(), 2, "{shown}");
        assert!(shown.contains("a\\nb\\u{1b}[2J"), "{shown}");
        assert_eq!(cell("naïve 名"), "naïve 名");
    }

    #[test]
    fn a_table_fits_a_terminal() {
        let mut rows = table(["NAME", "DETAILS"]);
        rows.add_row(["名".repeat(40), "a problem of many words ".repeat(9)]);
        fit(&mut rows, 60);
        let shown = rows.trim_fmt();
        assert!(shown.lines().count() > 4, "{shown}");
        // Each of these characters takes two columns.
        let width = |line: &str| line.chars().map(|c| 1 + usize::from(c == '名')).sum::<usize>();
        assert!(shown.lines().all(|line| width(line) <= 60), "{shown}");
    }

    #[test]
    fn rates_take_at_most_five_characters() {
        for (rate, expected) in [
            (0.0, "0"),
            (999.4, "999"),
            (999.6, "1.00k"),
            (12_345.0, "12.3k"),
            (99_960.0, "100k"),
            (1.5e9, "1.50G"),
            (2e12, "2T"),
        ] {
            assert_eq!(short(rate), expected);
        }
    }
}
