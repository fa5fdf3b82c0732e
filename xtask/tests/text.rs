//! What CI holds the project's text to.
#![allow(clippy::unwrap_used, reason = "tests say what they expect by failing")]

use std::fs;
use std::path::{Path, PathBuf};

/// Columns of code, comments and prose.
const COLUMNS_MAX: usize = 100;

/// A line with a word of this length, such as an address or a sample of JSON, cannot be broken.
const WORD_MAX: usize = 60;

/// Lines of a source file, and of a file of tests.
const LINES_MAX: usize = 500;
const TEST_LINES_MAX: usize = 650;

/// All files with this extension, without what is built or recorded.
fn files(extension: &str) -> Vec<PathBuf> {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let mut directories = vec![root.to_owned()];
    let mut found = Vec::new();
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                if !["target", "fuzz", ".git"].contains(&name.as_str())
                    || path.ends_with("crates/fuzz")
                {
                    directories.push(path);
                }
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn is_too_wide(line: &str) -> bool {
    line.chars().count() > COLUMNS_MAX
        && !line.trim_start().trim_start_matches(['/', '!']).starts_with(" |")
        && line.split_whitespace().all(|word| word.chars().count() < WORD_MAX)
}

#[test]
fn sources_are_at_most_100_columns_wide() {
    let mut wide = Vec::new();
    for path in files("rs") {
        for (index, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
            if is_too_wide(line) {
                wide.push(format!("{}:{}", path.display(), index + 1));
            }
        }
    }
    assert!(wide.is_empty(), "wider than {COLUMNS_MAX} columns:\n{}", wide.join("\n"));
}

/// Code blocks, tables and pictures are as wide as they have to be.
#[test]
fn prose_is_at_most_100_columns_wide() {
    let mut wide = Vec::new();
    for path in files("md") {
        let mut is_code = false;
        for (index, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
            is_code ^= line.trim_start().starts_with("```");
            let is_prose =
                !is_code && !line.starts_with("![") && !line.trim_start().starts_with('|');
            if is_prose && is_too_wide(line) {
                wide.push(format!("{}:{}", path.display(), index + 1));
            }
        }
    }
    assert!(wide.is_empty(), "wider than {COLUMNS_MAX} columns:\n{}", wide.join("\n"));
}

#[test]
fn files_are_short() {
    let mut long = Vec::new();
    for path in files("rs") {
        let is_test = path.components().any(|part| part.as_os_str() == "tests");
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        if lines > if is_test { TEST_LINES_MAX } else { LINES_MAX } {
            long.push(path);
        }
    }
    assert!(long.is_empty(), "longer than {LINES_MAX} lines: {long:#?}");
}
