//! `cargo xtask book`: the book as HTML.

use std::path::{Component, Path, PathBuf};
use std::process::{Command, ExitCode};
use std::{env, fs};

use anyhow::{Context, Result, ensure};
use shoutd_tooling::book::{self, PAGES};
use shoutd_tooling::programs;
use shoutd_tooling::terminal::{show_progress, show_verdict};

/// What is installed on demand, each with its version: mdBook, and what draws the book's diagrams.
const TOOLS: [(&str, &str); 2] = [("mdbook", "0.5.4"), ("mdbook-mermaid", "0.17.1")];

/// Where the repository's files are shown, for links that leave the book.
const REPOSITORY: &str = concat!(env!("CARGO_PKG_REPOSITORY"), "/blob/main/");

/// Builds the book into `target/book/html`, with mdBook in `target/tools`.
///
/// # Errors
///
/// Fails when the tools cannot be installed, and when the book cannot be built.
pub(crate) fn run() -> Result<ExitCode> {
    let target = book::root().join("target");
    let tools = target.join("tools");
    for (name, version) in TOOLS {
        install(&tools, name, version)?;
    }
    let source = target.join("book");
    copy_pages(&source)?;
    show_progress("building the book");
    // Adds itself to the copy's book.toml.
    run_tool(&tools, "mdbook-mermaid", &["install"], &source)?;
    let html = source.join("html");
    run_tool(&tools, "mdbook", &["build", "--dest-dir", &html.to_string_lossy()], &source)?;
    show_verdict("the book is in target/book/html/index.html");
    Ok(ExitCode::SUCCESS)
}

/// Installs a tool unless this version is there.
fn install(tools: &Path, name: &str, version: &str) -> Result<()> {
    let found = Command::new(tools.join("bin").join(name)).arg("--version").output();
    if found.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(version)) {
        return Ok(());
    }
    show_progress(&format!("installing {name} {version}, which takes some minutes"));
    let status = programs::cargo()
        .args(["install", "--locked", "--root"])
        .arg(tools)
        .arg(format!("{name}@{version}"))
        .status()
        .context("run cargo install")?;
    ensure!(status.success(), "{name} {version} could not be installed, see above");
    Ok(())
}

/// Runs a tool on the book in `source`. mdBook finds the others in the path.
fn run_tool(tools: &Path, name: &str, arguments: &[&str], source: &Path) -> Result<()> {
    let programs = tools.join("bin");
    let path = env::var_os("PATH").unwrap_or_default();
    let search = env::join_paths([programs.clone()].into_iter().chain(env::split_paths(&path)))
        .context("the path of programs")?;
    let status = Command::new(programs.join(name))
        .args(arguments)
        .arg(source)
        .env("PATH", search)
        .status()
        .with_context(|| format!("run {name}"))?;
    ensure!(status.success(), "{name} failed, see above");
    Ok(())
}

/// Copies the book to `to`. Links that leave the book lead to the repository then.
fn copy_pages(to: &Path) -> Result<()> {
    let pages = book::root().join(PAGES);
    if to.exists() {
        fs::remove_dir_all(to).with_context(|| format!("remove {}", to.display()))?;
    }
    for extension in ["md", "png", "svg"] {
        for file in book::files(&pages, extension)? {
            let place = file.strip_prefix(&pages).context("a page of the book")?;
            let copy = to.join("src").join(place);
            if let Some(directory) = copy.parent() {
                fs::create_dir_all(directory)
                    .with_context(|| format!("make {}", directory.display()))?;
            }
            if extension == "md" {
                let text = fs::read_to_string(&file)
                    .with_context(|| format!("read {}", file.display()))?;
                let directory = Path::new(PAGES).join(place.parent().unwrap_or(Path::new("")));
                fs::write(&copy, without_words(&with_repository_links(&text, &directory)))
            } else {
                fs::copy(&file, &copy).map(|_| ())
            }
            .with_context(|| format!("write {}", copy.display()))?;
        }
    }
    fs::copy(book::root().join("docs/book/book.toml"), to.join("book.toml"))
        .context("copy book.toml")?;
    Ok(())
}

/// The text of a page in `directory`, with its links that leave the book leading to the repository.
fn with_repository_links(text: &str, directory: &Path) -> String {
    let mut parts = text.split("](../");
    let mut linked = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (to, rest) = part.split_once(')').unwrap_or((part, ""));
        let target = without_dots(&directory.join("..").join(to));
        if target.starts_with(PAGES) {
            linked.push_str(&format!("](../{to}){rest}"));
        } else {
            linked.push_str(&format!("]({REPOSITORY}{}){rest}", target.display()));
        }
    }
    linked
}

/// The text without the words after a block's language, which are for the test.
fn without_words(text: &str) -> String {
    let plain = text.lines().map(|line| {
        let info = line.trim_start().strip_prefix("```").and_then(|info| info.split_once(' '));
        info.map_or(line, |(_, words)| line.get(..line.len() - words.len() - 1).unwrap_or(line))
    });
    plain.flat_map(|line| [line, "\n"]).collect()
}

fn without_dots(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => _ = plain.pop(),
            other => plain.push(other),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_do_not_see_words_for_the_test() {
        let text = "```shell host=2\na b\n```\n\n   ```text output\n   x\n   ```\n";
        let plain = "```shell\na b\n```\n\n   ```text\n   x\n   ```\n";
        assert_eq!(without_words(text), plain);
    }

    #[test]
    fn links_out_of_the_book_lead_to_the_repository() {
        let directory = Path::new(PAGES).join("recipes");
        let text = "[a](../faq.md) [b](../../../design/why.md#x) [c](b.md)";
        let linked = with_repository_links(text, &directory);
        let wanted = format!("[a](../faq.md) [b]({REPOSITORY}docs/design/why.md#x) [c](b.md)");
        assert_eq!(linked, wanted);
    }
}
