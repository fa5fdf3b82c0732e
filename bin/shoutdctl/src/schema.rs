//! `shoutdctl schema`: what the JSON output of commands looks like.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use clap::Args;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use shoutd_core::configuration::Settings;
use shoutd_core::events::Event;
use shoutd_core::explain::{Explanation, Trace};
use shoutd_core::health::HostHealth;
use shoutd_core::ping::Ping;
use shoutd_core::rates::{RatedGroup, Top};
use shoutd_core::tunnel_keys::KeyRotation;
use shoutd_core::view::{Endpoints, GroupRow, HostRow, NetworkRow, Status};
use shoutd_core::watch::Line;

use crate::doctor::Report;
use crate::show::{Captured, Inspected};
use crate::started::Started;
use crate::token::JoinToken;

/// A command with its options, and what makes the schema of its output.
type Output = (&'static str, fn() -> Schema);

/// The commands with `--json`, and what they print.
const OUTPUTS: [Output; 22] = [
    ("start", of::<Started>),
    ("token show", of::<JoinToken>),
    ("token rotate", of::<JoinToken>),
    ("token prepare", of::<JoinToken>),
    ("config show", of::<Settings>),
    ("status", of::<Status>),
    ("status --cluster", of::<Vec<HostHealth>>),
    ("hosts", of::<Vec<HostRow>>),
    ("networks", of::<Vec<NetworkRow>>),
    ("network inspect", of::<Vec<Inspected>>),
    ("endpoints", of::<Endpoints>),
    ("groups", of::<Vec<GroupRow>>),
    ("groups --rates", of::<Vec<RatedGroup>>),
    ("events", of::<Vec<Event>>),
    ("why", of::<Explanation>),
    ("trace", of::<Trace>),
    ("capture", of::<Captured>),
    ("ping", of::<Ping>),
    ("top", of::<Top>),
    ("watch", of::<Line>),
    ("doctor", of::<Report>),
    ("rotate-keys", of::<KeyRotation>),
];

/// Print the JSON Schema of what a command prints with --json
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  shoutdctl schema
  shoutdctl schema status --cluster
  shoutdctl schema --directory schemas

`watch` prints one object a line; the schema is that of a line.

Exit codes: 0 if it is done, 1 if the command has no JSON output or a file cannot be written, 2 \
                        for a wrong command line.")]
pub struct SchemaOf {
    /// Write the schemas of all commands into this directory instead
    #[arg(long, value_name = "DIR", conflicts_with = "command")]
    directory: Option<PathBuf>,
    /// The command with its options, such as `status --cluster`; without it, all are listed
    #[arg(value_name = "COMMAND", allow_hyphen_values = true)]
    command: Vec<String>,
}

fn of<T: JsonSchema>() -> Schema {
    SchemaGenerator::default().into_root_schema_for::<T>()
}

fn text(schema: fn() -> Schema) -> Result<String> {
    Ok(format!("{}\n", serde_json::to_string_pretty(&schema())?))
}

/// The file of a command's schema.
fn file(command: &str) -> String {
    format!("{}.json", command.replace(" --", "-").replace(' ', "-"))
}

impl SchemaOf {
    /// Prints or writes schemas. Needs neither root nor a daemon.
    ///
    /// # Errors
    /// The command has no JSON output, or a file cannot be written.
    pub fn run(&self) -> Result<()> {
        if let Some(directory) = &self.directory {
            for (command, schema) in OUTPUTS {
                let path = directory.join(file(command));
                fs::write(&path, text(schema)?)
                    .with_context(|| format!("cannot write {}", path.display()))?;
            }
            return Ok(());
        }
        if self.command.is_empty() {
            for (command, _) in OUTPUTS {
                println!("{command}");
            }
            return Ok(());
        }
        let wanted = self.command.join(" ");
        let found = OUTPUTS.iter().find(|(command, _)| *command == wanted);
        let (_, schema) = found.ok_or_else(|| {
            anyhow!("{wanted} has no JSON output with a schema; shoutdctl schema lists those")
        })?;
        println!("{}", text(*schema)?.trim_end());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    const DOCS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/json");

    #[test]
    fn the_docs_have_the_schemas() {
        let mut there: BTreeSet<String> = fs::read_dir(DOCS)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| Path::new(name).extension().is_some_and(|end| end == "json"))
            .collect();
        for (command, schema) in OUTPUTS {
            let name = file(command);
            let written = fs::read_to_string(Path::new(DOCS).join(&name)).unwrap_or_default();
            assert!(
                written == text(schema).unwrap(),
                "docs/json/{name} is not the schema of {command}; write it: shoutdctl schema \
                 --directory docs/json"
            );
            there.remove(&name);
        }
        assert_eq!(there, BTreeSet::new());
    }
}
