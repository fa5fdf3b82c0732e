//! Links and anchors of a Markdown file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use pulldown_cmark::{Event, Parser, Tag, TagEnd};

/// A Markdown file, as far as links matter.
#[derive(Debug, Clone, Default)]
pub struct Document {
    /// Its links and images, in order.
    pub links: Vec<Link>,
    /// The anchors of its headings.
    pub anchors: BTreeSet<String>,
}

/// A link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The line at which it begins.
    pub line: usize,
    /// Where it leads, as written.
    pub to: String,
}

impl Document {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be read.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        Ok(Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        let mut document = Self::default();
        let mut heading: Option<String> = None;
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for (event, range) in Parser::new_ext(text, super::options()).into_offset_iter() {
            match event {
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    let before = text.get(..range.start).unwrap_or_default();
                    let line = 1 + before.matches('\n').count();
                    document.links.push(Link { line, to: dest_url.into_string() });
                }
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::Text(piece) | Event::Code(piece) => {
                    if let Some(heading) = &mut heading {
                        heading.push_str(&piece);
                    }
                }
                Event::End(TagEnd::Heading(_)) => {
                    let anchor = anchor_of(&heading.take().unwrap_or_default());
                    let count = counts.entry(anchor.clone()).or_default();
                    document.anchors.insert(match *count {
                        0 => anchor,
                        more => format!("{anchor}-{more}"),
                    });
                    *count += 1;
                }
                _ => {}
            }
        }
        document
    }
}

/// The anchor of a heading, as forges and mdBook make it.
#[must_use]
pub fn anchor_of(heading: &str) -> String {
    let kept = heading.trim().chars().filter_map(|letter| match letter {
        ' ' => Some('-'),
        letter if letter.is_alphanumeric() || letter == '-' || letter == '_' => Some(letter),
        _ => None,
    });
    kept.flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anchors_are_those_of_forges() {
        assert_eq!(anchor_of("Swarm: services and stacks"), "swarm-services-and-stacks");
        assert_eq!(anchor_of("`shoutdctl start`"), "shoutdctl-start");
        assert_eq!(anchor_of("快速入门"), "快速入门");
    }

    #[test]
    fn links_and_repeated_headings_are_found() {
        let document =
            Document::parse("# A\n\n## B\n\n## B\n\nsee [x](y.md#z)\n\n![i](j.png) `[n](o)`\n");
        let to: Vec<_> = document.links.iter().map(|link| (link.line, link.to.as_str())).collect();
        assert_eq!(to, [(7, "y.md#z"), (9, "j.png")]);
        assert_eq!(document.anchors, ["a", "b", "b-1"].map(str::to_owned).into());
    }
}
