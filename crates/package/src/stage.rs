//! The files that packages have, in one directory.
//!
//! The tools that make packages read them through Cargo's build directory: `cargo deb` and `cargo
//! generate-rpm` take `target/release/stage/x` to be there, whatever the target and the profile.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use time::format_description::well_known::Rfc2822;

use crate::build::{PROGRAMS, Programs};
use crate::files::{copy, list, read, write, write_gz};
use crate::licences;
use crate::project::{PACKAGE, Project};
use crate::tools::{empty_directory, run};

/// The packages' maintainer, as Debian's changelog has it and `Cargo.toml` for the other packages.
const MAINTAINER: &str = "shoutd developers <shoutd@users.noreply.github.com>";

/// Files that come as they are, from the workspace to the stage.
const FILES: [(&str, &str); 5] = [
    ("packaging/shoutd.service", "shoutd.service"),
    ("packaging/shoutd.toml", "shoutd.toml"),
    ("LICENSE", "LICENSE"),
    ("README.md", "doc/README.md"),
    ("CHANGELOG.md", "doc/CHANGELOG.md"),
];

/// Further documentation: all Markdown in these directories of the workspace.
const DOCUMENTATION: [&str; 1] = ["docs"];

/// Documents of [`DOCUMENTATION`] that are for developers only.
const DEVELOPERS: [&str; 5] = ["adr", "design", "benchmarks", "packaging.md", "release.md"];

/// The filled directory.
#[derive(Debug)]
pub struct Stage {
    directory: PathBuf,
}

impl Stage {
    /// Makes the directory with everything in it.
    pub fn fill(project: &Project, programs: &Programs) -> Result<Self> {
        let stage = Self { directory: empty_directory(project.build_directory().join("stage"))? };
        for name in PROGRAMS {
            stage.add(&programs.program(name), name)?;
        }
        for (from, to) in FILES {
            stage.add(&project.root.join(from), to)?;
        }
        for directory in DOCUMENTATION {
            stage.add_documentation(&project.root.join(directory))?;
        }
        // The manual pages and the completions come from the definition of the command line.
        let mut manual = Command::new(stage.path("shoutdctl"));
        manual.args(["manual", "--directory"]).arg(&stage.directory);
        run(&mut manual)?;
        // It is in the book.
        let reference = stage.path("commands.md");
        fs::remove_file(&reference).with_context(|| format!("remove {}", reference.display()))?;
        for directory in ["man", "completions"] {
            ensure!(!list(&stage.path(directory))?.is_empty(), "shoutdctl wrote no {directory}");
        }
        stage.compress_manual()?;
        write(&stage.path("copyright"), licences::copyright(project)?.as_bytes())?;
        stage.write_debian_changelog(project)?;
        Ok(stage)
    }

    /// The programs, each with its name.
    pub fn programs(&self) -> Vec<(String, PathBuf)> {
        PROGRAMS.iter().map(|name| ((*name).to_owned(), self.path(name))).collect()
    }

    /// The files of the archive, with their paths in it.
    pub fn archive_files(&self) -> Result<Vec<(PathBuf, PathBuf)>> {
        let mut files = Vec::new();
        for file in list(&self.directory)? {
            let path = file.strip_prefix(&self.directory)?.to_owned();
            let is_program = PROGRAMS.iter().any(|name| path == Path::new(name));
            if path == Path::new("changelog.gz") {
                continue;
            }
            files.push((if is_program { Path::new("bin").join(path) } else { path }, file));
        }
        Ok(files)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn add(&self, from: &Path, to: &str) -> Result<()> {
        let to = self.path(to);
        let directory = to.parent().context("a directory")?;
        fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
        copy(from, &to)
    }

    fn add_documentation(&self, directory: &Path) -> Result<()> {
        for file in list(directory)? {
            let path = file.strip_prefix(directory)?;
            let is_text = path.extension().is_some_and(|extension| extension == "md");
            if is_text && !DEVELOPERS.iter().any(|name| path.starts_with(name)) {
                self.add(&file, &format!("doc/{}", path.display()))?;
            }
        }
        Ok(())
    }

    /// Debian asks for compressed manual pages, and every `man` reads them.
    fn compress_manual(&self) -> Result<()> {
        for page in list(&self.path("man"))? {
            write_gz(&page.with_added_extension("gz"), &read(&page)?)?;
            fs::remove_file(&page).with_context(|| format!("remove {}", page.display()))?;
        }
        Ok(())
    }

    /// Debian's changelog has one entry, which refers to the project's own (deb-changelog(5)).
    fn write_debian_changelog(&self, project: &Project) -> Result<()> {
        let text = format!(
            "{PACKAGE} ({}) unstable; urgency=medium\n\n  * See CHANGELOG.md for what changed.\n\n \
             -- {MAINTAINER}  {}\n",
            project.version,
            project.date()?.format(&Rfc2822)?
        );
        write_gz(&self.path("changelog.gz"), text.as_bytes())
    }
}
