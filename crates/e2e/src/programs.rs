//! Other test programs of this workspace, which run on another kernel.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// Builds a test program of this workspace. It builds for the whole workspace: for the program's
/// package alone, dependencies have fewer features and would be built again.
pub fn test_program(name: &str) -> Result<PathBuf> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments = ["test", "--workspace", "--test", name, "--no-run", "--message-format=json"];
    let output = Command::new(cargo).args(arguments).output().context("run cargo")?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the test program {name} does not build: {error}");
    let messages = String::from_utf8(output.stdout).context("read what cargo printed")?;
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut programs = messages.filter(|message| message["target"]["name"] == name);
    programs
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .with_context(|| format!("there is no test program {name}"))
}
