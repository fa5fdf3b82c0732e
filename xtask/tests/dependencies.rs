//! The licences and sources of all dependencies, by `deny.toml`.
//!
//! `cargo deny check` reads the same file and checks advisories, too, where it is installed. It
//! takes minutes to build, so CI has this test for what needs no advisory database.
#![allow(clippy::unwrap_used, reason = "tests say what they expect by failing")]

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::process::Command;

use serde_json::Value;
use spdx::{Expression, ParseMode};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// The licences that `deny.toml` allows for a crate.
fn allowed(name: &str) -> BTreeSet<String> {
    let text = fs::read_to_string(format!("{ROOT}/deny.toml")).unwrap();
    let table: toml::Table = text.parse().unwrap();
    let licenses = &table["licenses"];
    let exceptions = licenses.get("exceptions").and_then(toml::Value::as_array);
    let own = exceptions.into_iter().flatten().filter(|own| own["crate"].as_str() == Some(name));
    let lists = own.chain([licenses]).map(|list| list["allow"].as_array().unwrap());
    lists.flatten().map(|name| name.as_str().unwrap().to_owned()).collect()
}

/// The packages of the workspace and all that they depend on.
fn packages() -> Vec<Value> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--locked", "--all-features"])
        .current_dir(ROOT)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

#[test]
fn licences_are_those_that_deny_toml_allows() {
    let mut refused = Vec::new();
    for package in packages() {
        let allowed = allowed(package["name"].as_str().unwrap_or_default());
        let text = package["license"].as_str().unwrap_or_default();
        let licence = Expression::parse_mode(text, ParseMode::LAX);
        let is_allowed = licence
            .is_ok_and(|licence| licence.evaluate(|wanted| allowed.contains(&wanted.to_string())));
        if !is_allowed {
            refused.push(format!("{} {}: {text:?}", package["name"], package["version"]));
        }
    }
    assert!(refused.is_empty(), "{refused:#?}");
}

#[test]
fn dependencies_come_from_the_registry() {
    for package in packages() {
        let name = package["name"].as_str().unwrap();
        match package["source"].as_str() {
            None => assert!(name.starts_with("shoutd") || name == "xtask", "{name}"),
            Some(source) => assert_eq!(source, REGISTRY, "{name}"),
        }
    }
}
