//! The shell blocks of README.md and of the book, as `docs/book/README.md` describes them, and the
//! links of the project's Markdown.

mod info;
mod links;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

pub use info::{Hosts, Run};
pub use links::{Document, anchor_of};

/// The comment of a page that begins with hosts without shoutd.
const BARE: &str = "<!-- lab: bare -->";

/// The directory of the book's pages, from the root of the repository.
pub const PAGES: &str = "docs/book/src";

/// The readmes, which are pages too.
const READMES: [&str; 2] = ["README.md", "README.zh-CN.md"];

/// A page with blocks.
#[derive(Debug, Clone)]
pub struct Page {
    /// Its path from the root of the repository.
    pub path: String,
    /// Whether it begins with hosts without shoutd.
    pub is_bare: bool,
    /// Its blocks, in order.
    pub steps: Vec<Step>,
}

/// A block of a page.
#[derive(Debug, Clone)]
pub struct Step {
    /// The line of the page at which it begins.
    pub line: usize,
    /// Its text.
    pub text: String,
    /// What it is.
    pub kind: Kind,
}

/// What a block is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Lines of shell, and how they are run.
    Shell(Run),
    /// Lines of shell that are not run, and why.
    Untested(String),
    /// Lines that the block before, or the one in the background of this name, must print.
    Output(Option<String>),
}

/// The root of the repository.
#[must_use]
pub fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// The paths of all pages from the root of the repository: the readmes that exist, then the book's
/// pages in the order of its summary.
///
/// # Errors
///
/// Fails when a file cannot be read, and when the summary lacks a page or has one that is missing.
pub fn paths() -> Result<Vec<String>> {
    let mut pages: Vec<String> = READMES.map(str::to_owned).to_vec();
    pages.retain(|page| root().join(page).exists());
    let summary = Document::read(&root().join(PAGES).join("SUMMARY.md"))?;
    let listed: Vec<String> = summary.links.iter().map(|link| link.to.clone()).collect();
    let mut missing = files(&root().join(PAGES), "md")?
        .iter()
        .filter_map(|file| file.strip_prefix(root().join(PAGES)).ok())
        .map(|file| file.to_string_lossy().into_owned())
        .collect::<BTreeSet<_>>();
    missing.remove("SUMMARY.md");
    for page in &listed {
        ensure!(missing.remove(page), "{PAGES}/SUMMARY.md has {page}, which is missing or twice");
    }
    ensure!(missing.is_empty(), "{PAGES}/SUMMARY.md lacks {missing:?}");
    pages.extend(listed.iter().map(|page| format!("{PAGES}/{page}")));
    Ok(pages)
}

/// All files below a directory with this extension, without what is built.
///
/// # Errors
///
/// Fails when a directory cannot be read.
pub fn files(directory: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let mut directories = vec![directory.to_owned()];
    let mut found = Vec::new();
    while let Some(directory) = directories.pop() {
        let entries =
            fs::read_dir(&directory).with_context(|| format!("read {}", directory.display()))?;
        for entry in entries {
            let path = entry.with_context(|| format!("read {}", directory.display()))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() {
                if name != "target" && name != ".git" {
                    directories.push(path);
                }
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Reads a page.
///
/// # Errors
///
/// Fails when it cannot be read, and when a block is not as `docs/book/README.md` demands.
pub fn read(path: &str) -> Result<Page> {
    let text = fs::read_to_string(root().join(path)).with_context(|| format!("read {path}"))?;
    parse(path, &text)
}

fn parse(path: &str, text: &str) -> Result<Page> {
    let mut page = Page { path: path.to_owned(), is_bare: text.contains(BARE), steps: Vec::new() };
    let mut block: Option<(String, usize, String)> = None;
    for (event, range) in Parser::new_ext(text, options()).into_offset_iter() {
        match event {
            Event::Start(Tag::CodeBlock(kind)) => {
                let line = 1 + text.get(..range.start).unwrap_or_default().matches('\n').count();
                let CodeBlockKind::Fenced(info) = kind else {
                    bail!("{path}:{line}: a block without a fence; give it one and a language")
                };
                block = Some((info.into_string(), line, String::new()));
            }
            Event::Text(piece) => {
                if let Some((.., text)) = &mut block {
                    text.push_str(&piece);
                }
            }
            Event::End(TagEnd::CodeBlock) => {
                let Some((info, line, text)) = block.take() else { continue };
                let kind =
                    info::kind(&info).with_context(|| format!("{path}:{line}: ```{info}"))?;
                if let Some(kind) = kind {
                    page.add(Step { line, text, kind })?;
                }
            }
            _ => {}
        }
    }
    Ok(page)
}

impl Page {
    /// Whether any block is run.
    #[must_use]
    pub fn is_run(&self) -> bool {
        self.steps.iter().any(|step| matches!(step.kind, Kind::Shell(_)))
    }

    fn add(&mut self, step: Step) -> Result<()> {
        if let Kind::Output(name) = &step.kind {
            let fits = |before: &Step| match (&before.kind, name) {
                (Kind::Shell(run), Some(name)) => run.background.as_ref() == Some(name),
                (Kind::Shell(run), None) => run.background.is_none() && !run.is_image,
                _ => false,
            };
            let is_there = if name.is_some() {
                self.steps.iter().any(fits)
            } else {
                self.steps.last().is_some_and(fits)
            };
            ensure!(
                is_there,
                "{}:{}: no block that is run can print this output",
                self.path,
                step.line
            );
        }
        self.steps.push(step);
        Ok(())
    }
}

/// The extensions of Markdown that a forge has.
pub(crate) fn options() -> Options {
    Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH | Options::ENABLE_FOOTNOTES
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# A

```shell
one
```

```text output
1
```

1. x

   ```shell host=2 background=b
   two
   ```

```text output=b
2
```

```toml
a = 1
```

```shell untested=\"no such host\"
three
```
";

    #[test]
    fn blocks_are_read_in_order() {
        let page = parse("a.md", TEXT).unwrap();
        let texts: Vec<_> = page.steps.iter().map(|step| (step.line, step.text.trim())).collect();
        assert_eq!(texts, [(3, "one"), (7, "1"), (13, "two"), (17, "2"), (25, "three")]);
        assert_eq!(page.steps[4].kind, Kind::Untested("no such host".to_owned()));
        assert!(page.is_run() && !page.is_bare);
    }

    #[test]
    fn what_cannot_be_run_is_an_error_with_its_line() {
        for (text, words) in [
            ("```sh\nx\n```\n", "a.md:1"),
            ("```\nx\n```\n", "a.md:1"),
            ("    x\n", "without a fence"),
            ("```shell host=9\nx\n```\n", "host"),
            ("```shell untested=\nx\n```\n", "reason"),
            ("```text output\nx\n```\n", "no block"),
            ("```shell untested=\"x\"\nx\n```\n\n```text output\nx\n```\n", "a.md:5"),
        ] {
            let error = format!("{:#}", parse("a.md", text).unwrap_err());
            assert!(error.contains(words), "{text:?}: {error}");
        }
    }
}
