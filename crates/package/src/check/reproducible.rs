//! Whether the same commit makes the same packages in another directory.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use shoutd_tooling::terminal::show_progress;

use crate::project::Project;
use crate::tools::{empty_directory, output, run};
use crate::{CHECKSUMS, Product, make};

/// Makes the packages of a clone elsewhere, and compares their checksums.
pub fn check(project: &Project, products: &[Product], packages: &Path, work: &Path) -> Result<()> {
    let mut status = Command::new("git");
    let changes = output(status.args(["status", "--porcelain"]).current_dir(&project.root))?;
    ensure!(
        changes.is_empty(),
        "packages can be compared only for a commit, and there are changes: commit them first"
    );
    show_progress("building the same commit in another directory");
    let clone = empty_directory(work.join("elsewhere"))?;
    run(Command::new("git").args(["clone", "--quiet"]).arg(&project.root).arg(&clone))?;
    let mut elsewhere = Project::at(&clone)?;
    elsewhere.target = work.join("another-target");
    // The tools need not be built again.
    std::fs::create_dir_all(&elsewhere.target)?;
    std::os::unix::fs::symlink(project.target.join("tools"), elsewhere.target.join("tools"))?;
    let again = work.join("again");
    make(&elsewhere, products, &again)?;
    let lists =
        [packages, &again].map(|directory| std::fs::read_to_string(directory.join(CHECKSUMS)));
    let [first, second] = lists;
    let (first, second) = (first?, second?);
    let differ: Vec<_> =
        first.lines().filter(|line| !second.lines().any(|other| other == *line)).collect();
    ensure!(differ.is_empty() && first == second, "not the same in another directory: {differ:?}");
    Ok(())
}
