//! What `shoutdctl` shows, as tables for people and as JSON for their scripts.

mod inspect;
mod lists;
mod status;

use std::fmt::Display;

use anyhow::Result;
use clap::Args;
use comfy_table::{Table, presets};
use serde::Serialize;
use shoutd_cli::Directories;
use shoutd_core::view::{Membership, Status as StatusView};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

pub use inspect::Inspect;
pub use lists::{Endpoints, Events, Groups, Hosts, Networks};
pub use status::Status;

use crate::control;

/// How to show it.
#[derive(Debug, Clone, Copy, Args)]
pub struct Format {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Format {
    /// Prints a list, and says so if it may have changed since.
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
        if let Some(standing) = status::standing(&status) {
            eprintln!("({standing})");
        }
        Ok(())
    }
}

fn membership(membership: &Membership) -> String {
    match membership {
        Membership::Member => "member".to_owned(),
        Membership::Joining(why) => format!("joining: {why}"),
        Membership::AwaitingApproval { host, .. } => format!("waits for: shoutdctl approve {host}"),
    }
}

/// A time in milliseconds.
fn ago(milliseconds: u64) -> String {
    format!("{}.{} s ago", milliseconds / 1000, milliseconds % 1000 / 100)
}

/// A time in milliseconds since 1970, as RFC 3339 has it, in UTC.
pub fn when(milliseconds: u64) -> String {
    let seconds = i64::try_from(milliseconds / 1000).unwrap_or(i64::MAX);
    let time = OffsetDateTime::from_unix_timestamp(seconds).map(|time| time.format(&Rfc3339));
    time.map_or_else(|_| seconds.to_string(), |text| text.unwrap_or_else(|_| seconds.to_string()))
}

/// A table without lines, as Docker's own are.
fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if N > 0 {
        table.set_header(header);
    }
    table
}

/// A text as a table can show it: Docker takes names with line breaks in them, which would make two
/// rows of one, and terminals obey what follows an escape character.
fn cell(text: &str) -> String {
    if !text.contains(char::is_control) {
        return text.to_owned();
    }
    let escape =
        |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(escape).collect()
}

fn list<T: Display>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_makes_two_rows_of_one_or_reaches_the_terminal_as_a_command() {
        let mut rows = table(["NAME", "ID"]);
        rows.add_row([cell("a\nb\u{1b}[2J"), "1".to_owned()]);
        let shown = rows.trim_fmt();
        assert_eq!(shown.lines().count(), 2, "{shown}");
        assert!(shown.contains("a\\nb\\u{1b}[2J"), "{shown}");
        assert_eq!(cell("naïve 名"), "naïve 名");
    }
}
