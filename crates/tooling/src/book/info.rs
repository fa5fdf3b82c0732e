//! The words after the language of a block.

use std::num::NonZeroU8;

use anyhow::{Context, Result, bail, ensure};

use super::Kind;

/// The hosts of a lab.
const HOSTS: u8 = 3;

/// Languages of blocks that are no commands.
const OTHERS: [&str; 6] = ["text", "toml", "yaml", "json", "mermaid", "dockerfile"];

/// How lines of shell are run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Where.
    pub hosts: Hosts,
    /// The exit code that they must have.
    pub exit: i32,
    /// Whether they are repeated until they have it.
    pub is_retried: bool,
    /// The name under which they run until the page ends.
    pub background: Option<String>,
    /// Whether they make an image of Debian's packages.
    pub is_image: bool,
}

/// Hosts of the lab.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hosts {
    /// The host with this number.
    One(NonZeroU8),
    /// All.
    All,
}

/// What a block is, by its info string; `None` if it is no step of a test.
///
/// # Errors
///
/// Fails with what is wrong with it.
pub(super) fn kind(info: &str) -> Result<Option<Kind>> {
    let (language, rest) = info.split_once(' ').unwrap_or((info, ""));
    match language {
        "shell" => shell(&words(rest)?).map(Some),
        "text" => output(&words(rest)?),
        other if OTHERS.contains(&other) => Ok(None),
        "" => bail!("a block needs a language: shell for commands, else text"),
        other => bail!("{other} is none of the languages shell, {}", OTHERS.join(", ")),
    }
}

fn output(words: &[(String, Option<String>)]) -> Result<Option<Kind>> {
    match words {
        [] => Ok(None),
        [(word, name)] if word == "output" => Ok(Some(Kind::Output(name.clone()))),
        _ => bail!("text may be followed by output or output=NAME"),
    }
}

fn shell(words: &[(String, Option<String>)]) -> Result<Kind> {
    let mut run = Run {
        hosts: Hosts::One(NonZeroU8::MIN),
        exit: 0,
        is_retried: false,
        background: None,
        is_image: false,
    };
    for (word, value) in words {
        match (word.as_str(), value.as_deref()) {
            ("host", Some("all")) => run.hosts = Hosts::All,
            ("host", Some(number)) => {
                let number = number.parse::<NonZeroU8>().ok().filter(|one| one.get() <= HOSTS);
                run.hosts = Hosts::One(number.with_context(|| format!("host=1 to {HOSTS}"))?);
            }
            ("exit", Some(code)) => run.exit = code.parse().context("exit=CODE")?,
            ("retry", None) => run.is_retried = true,
            ("image", None) => run.is_image = true,
            ("background", Some(name)) => run.background = Some(name.to_owned()),
            ("untested", reason) => {
                let reason = reason.filter(|reason| !reason.is_empty());
                let reason = reason.context("untested needs a reason: untested=\"why\"")?;
                return Ok(Kind::Untested(reason.to_owned()));
            }
            (other, _) => bail!("{other} is not a word for shell; see docs/book/README.md"),
        }
    }
    ensure!(
        run.background.is_none() || (!run.is_retried && run.exit == 0 && !run.is_image),
        "a block in the background has no exit code to wait for"
    );
    ensure!(run.background.is_none() || run.hosts != Hosts::All, "background needs one host");
    Ok(Kind::Shell(run))
}

/// Words, and the values of those with `=`, which may be quoted.
fn words(text: &str) -> Result<Vec<(String, Option<String>)>> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end = rest.find([' ', '=']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        let Some(value) = after.strip_prefix('=') else {
            words.push((word.to_owned(), None));
            rest = after.trim_start();
            continue;
        };
        let (value, after) = match value.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').context("a quotation mark is missing")?,
            None => value.split_once(' ').unwrap_or((value, "")),
        };
        words.push((word.to_owned(), Some(value.to_owned())));
        rest = after.trim_start();
    }
    Ok(words)
}
