//! The statically linked build of both programs, and their debug symbols apart.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use shoutd_tooling::terminal::show_progress;

use crate::project::{PACKAGE, PROFILE, Project, TARGET};
use crate::tools::{empty_directory, run};

/// The names of the programs.
pub const PROGRAMS: [&str; 2] = ["shoutd", "shoutdctl"];

/// The built programs.
#[derive(Debug)]
pub struct Programs {
    /// Directory of the programs without symbols.
    directory: PathBuf,
    /// Directory of the symbols.
    symbols: PathBuf,
}

impl Programs {
    /// Builds the programs, and moves their symbols to files of their own.
    pub fn build(project: &Project) -> Result<Self> {
        show_progress("building the programs: link-time optimization takes many minutes");
        let mut command = project.cargo()?;
        command.args(["build", "--locked", "--package", PACKAGE, "--bins"]);
        command.args(["--profile", PROFILE, "--target", TARGET]);
        run(&mut command)?;
        let built = project.build_directory();
        let programs = Self {
            directory: empty_directory(built.join("stripped"))?,
            symbols: empty_directory(built.join("symbols"))?,
        };
        for name in PROGRAMS {
            programs.split(&built.join(name), name)?;
        }
        Ok(programs)
    }

    /// Programs without symbols.
    pub fn program(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The symbols of a program.
    pub fn symbols(&self, name: &str) -> PathBuf {
        self.symbols.join(format!("{name}.debug"))
    }

    fn split(&self, built: &Path, name: &str) -> Result<()> {
        let (program, symbols) = (self.program(name), self.symbols(name));
        run(Command::new("objcopy").arg("--only-keep-debug").arg(built).arg(&symbols))?;
        let mut strip = Command::new("objcopy");
        // A debugger finds the symbols by this link, which has their checksum.
        strip.arg("--strip-all").arg(format!("--add-gnu-debuglink={}", symbols.display()));
        run(strip.arg(built).arg(&program))
    }
}
