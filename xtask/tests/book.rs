//! The book and the readmes are whole: every page is in the summary, each shell block is run by
//! `e2e_book` or says why not, and all relative links of the project's documents lead somewhere.
#![allow(clippy::unwrap_used, reason = "tests say what they expect by failing")]

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use shoutd_tooling::book::{self, Document, Kind};

#[test]
fn each_shell_block_is_run_or_says_why_not() {
    let mut run = 0;
    for path in book::paths().unwrap() {
        let page = book::read(&path).unwrap();
        run += page.steps.iter().filter(|step| matches!(step.kind, Kind::Shell(_))).count();
    }
    // If the parser found none, nothing would be tested.
    assert!(run > 50, "only {run} blocks are run");
}

#[test]
fn relative_links_and_anchors_lead_somewhere() {
    let root = book::root().canonicalize().unwrap();
    let mut files = book::files(&root, "md").unwrap();
    // What the benchmarks write is made of templates there.
    files.retain(|file| !file.starts_with(root.join("crates")));
    let documents: BTreeMap<PathBuf, Document> =
        files.iter().map(|file| (file.clone(), Document::read(file).unwrap())).collect();
    let mut broken = Vec::new();
    for (file, document) in &documents {
        for link in &document.links {
            if link.to.contains("://") || link.to.starts_with("mailto:") {
                continue;
            }
            let (path, anchor) = link.to.split_once('#').unwrap_or((&link.to, ""));
            let target =
                if path.is_empty() { file.clone() } else { joined(file.parent().unwrap(), path) };
            let has_anchor = anchor.is_empty()
                || documents.get(&target).is_some_and(|found| found.anchors.contains(anchor));
            if !target.exists() || !target.starts_with(&root) || !has_anchor {
                let shown = file.strip_prefix(&root).unwrap().display();
                broken.push(format!("{shown}:{}: {}", link.line, link.to));
            }
        }
    }
    assert!(broken.is_empty(), "links that lead nowhere:\n{}", broken.join("\n"));
}

/// `directory/path` without `..`.
fn joined(directory: &Path, path: &str) -> PathBuf {
    let mut joined = directory.to_owned();
    for component in Path::new(path).components() {
        match component {
            Component::ParentDir => _ = joined.pop(),
            Component::CurDir => {}
            other => joined.push(other),
        }
    }
    joined
}
