//! The licences of all crates that are linked into the programs.
//!
//! Cargo knows the crates, and each crate's sources have its licences: there is nothing to ask a
//! server or to guess from texts, as the tools for it do.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::files::read;
use crate::project::{PACKAGE, Project, TARGET};
use crate::tools::output;

/// How names of files with licences and notices begin, in lower case.
const NAMES: [&str; 6] = ["license", "licence", "copying", "notice", "unlicense", "copyright"];

/// The head of the file, in Debian's format (copyright-format 1.0).
const HEAD: &str = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: shoutd
Source: https://github.com/shoutd/shoutd

Files: *
Copyright: the shoutd developers
License: Apache-2.0
Comment: The programs are statically linked. The crates that are in them, and their licences, are
 listed below. The C library in them is the GNU C Library (LGPL-2.1-or-later), whose sources and
 licence are in Debian's package glibc, or in that of the system on which the programs were built.

License: Apache-2.0
 On Debian systems, the text is in /usr/share/common-licenses/Apache-2.0.
";

/// The text of the file `copyright`.
pub fn copyright(project: &Project) -> Result<String> {
    let mut command = project.cargo()?;
    command.args(["metadata", "--format-version=1", "--locked", "--filter-platform", TARGET]);
    let metadata: Value = serde_json::from_slice(&output(&mut command)?)?;
    let mut text = HEAD.to_owned();
    // Many crates have the same text to the letter.
    let mut texts: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in linked_packages(&metadata)? {
        let name = format!("{} {}", text_of(package, "name")?, text_of(package, "version")?);
        text.push_str(&stanza(package, &name)?);
        let manifest = Path::new(text_of(package, "manifest_path")?);
        for licence in licence_texts(manifest.parent().context("a crate's directory")?)? {
            texts.entry(licence).or_default().insert(name.clone());
        }
    }
    for (licence, crates) in texts {
        let crates: Vec<_> = crates.into_iter().collect();
        text.push_str(&format!(
            "\nComment: The following is in the crates {}\n .\n{}",
            crates.join(", "),
            indented(&licence)
        ));
    }
    Ok(text)
}

fn stanza(package: &Value, name: &str) -> Result<String> {
    let licence = package["license"].as_str();
    let licence = licence.with_context(|| format!("the crate {name} names no licence"))?;
    let authors: Vec<_> =
        package["authors"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let authors =
        if authors.is_empty() { format!("the authors of {name}") } else { authors.join("\n ") };
    // "MIT/Apache-2.0" is an older way to write OR.
    let licence = licence.replace('/', " or ").replace(" OR ", " or ").replace(" AND ", " and ");
    let directory = name.replace(' ', "-");
    Ok(format!("\nFiles: crates.io/{directory}/*\nCopyright: {authors}\nLicense: {licence}\n"))
}

/// Paragraphs of a text, as the continuation of a field.
fn indented(text: &str) -> String {
    let lines = text.lines().map(|line| match line.trim_end() {
        "" => " .\n".to_owned(),
        line => format!(" {line}\n"),
    });
    lines.collect()
}

/// What only the full Apache License 2.0 has.
const APACHE_TERMS: &str = "TERMS AND CONDITIONS FOR USE, REPRODUCTION, AND DISTRIBUTION";

/// Stands for that text, which Debian's packages may not repeat (Debian Policy, 12.5).
const APACHE: &str = "The Apache License 2.0 is the licence of shoutd, too: its text is in LICENSE \
                      of the archive, and in /usr/share/common-licenses/Apache-2.0 on Debian.";

fn licence_texts(directory: &Path) -> Result<Vec<String>> {
    let mut texts = Vec::new();
    let entries =
        fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))?;
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        if path.is_file() && NAMES.iter().any(|begin| name.starts_with(begin)) {
            let text = String::from_utf8_lossy(&read(&path)?).trim().to_owned();
            let is_apache = text.contains(APACHE_TERMS);
            texts.push(if is_apache { APACHE.to_owned() } else { text });
        }
    }
    Ok(texts)
}

/// The crates from crates.io that are linked into the programs, sorted by name: not those that only
/// build scripts, procedural macros and tests need.
fn linked_packages(metadata: &Value) -> Result<Vec<&Value>> {
    let packages = metadata["packages"].as_array().context("packages")?;
    let nodes = metadata["resolve"]["nodes"].as_array().context("resolved dependencies")?;
    let by_id: BTreeMap<&str, &Value> =
        packages.iter().filter_map(|package| Some((package["id"].as_str()?, package))).collect();
    let nodes: BTreeMap<&str, &Value> =
        nodes.iter().filter_map(|node| Some((node["id"].as_str()?, node))).collect();
    let root = packages.iter().find(|package| package["name"] == PACKAGE);
    let root = root.and_then(|package| package["id"].as_str()).context("the package shoutd")?;
    let (mut found, mut next) = (BTreeSet::new(), vec![root]);
    while let Some(id) = next.pop() {
        let is_macro = by_id.get(id).is_some_and(|package| is_procedural_macro(package));
        if is_macro || !found.insert(id) {
            continue;
        }
        let dependencies = nodes.get(id).and_then(|node| node["deps"].as_array());
        for dependency in dependencies.into_iter().flatten() {
            let mut kinds = dependency["dep_kinds"].as_array().into_iter().flatten();
            if kinds.any(|kind| kind["kind"].is_null()) {
                next.extend(dependency["pkg"].as_str());
            }
        }
    }
    let mut linked: Vec<&Value> =
        found.into_iter().filter_map(|id| by_id.get(id)).copied().collect();
    linked.retain(|package| !package["source"].is_null());
    linked.sort_by_key(|package| (package["name"].to_string(), package["version"].to_string()));
    ensure!(!linked.is_empty(), "Cargo lists no crate that is linked");
    Ok(linked)
}

fn is_procedural_macro(package: &Value) -> bool {
    let mut targets = package["targets"].as_array().into_iter().flatten();
    targets.any(|target| {
        target["kind"].as_array().is_some_and(|kind| kind.contains(&"proc-macro".into()))
    })
}

fn text_of<'a>(package: &'a Value, field: &str) -> Result<&'a str> {
    package[field].as_str().with_context(|| format!("a package without {field}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Offline and quick: Cargo reads only what it has built from.
    #[test]
    fn every_linked_crate_has_its_licence_in_the_file() {
        let project = Project { epoch: 0, ..Project::find().unwrap() };
        let text = copyright(&project).unwrap();
        for linked in ["tokio-1", "openraft-0", "ring-0", "serde-1"] {
            assert!(text.contains(&format!("\nFiles: crates.io/{linked}")), "{linked}");
        }
        for other in ["proptest", "syn-2", "cc-1", "tempfile"] {
            assert!(!text.contains(&format!("\nFiles: crates.io/{other}")), "{other}");
        }
        assert!(text.contains("Permission is hereby granted"), "MIT asks for its text");
        assert!(!text.contains(APACHE_TERMS), "lintian refuses it");
        assert!(text.lines().all(|line| line.trim_end() == line), "no space ends a line");
    }

    #[test]
    fn paragraphs_are_kept() {
        assert_eq!(indented("a\n\nb "), " a\n .\n b\n");
    }
}
