//! Checks of packages: that they install, work and go away where users have them.

mod deb;
mod reproducible;
mod root;
mod rpm;
mod wheel;

use std::path::Path;

use anyhow::{Context, Result, ensure};
use shoutd_tooling::terminal::show_verdict;

use self::root::{RELEASES, Root};
use crate::Product;
use crate::project::Project;
use crate::tools::empty_directory;

/// Checks the packages in `output`.
pub fn run(project: &Project, products: &[Product], output: &Path) -> Result<()> {
    let has = |product| products.contains(&product);
    let work = empty_directory(project.target.join("package-check"))?;
    if has(Product::Archive) {
        archive(project, output, &Root::empty(&work)?)?;
        passed("the archive's programs run without any other file");
    }
    if has(Product::Deb) {
        deb::lintian(project, output)?;
        passed("lintian finds no error");
    }
    if has(Product::Rpm) {
        rpm::check(project, output, &work)?;
        passed("the RPM package has what it should");
    }
    for release in RELEASES {
        let root = Root::of_debian(project, release, &work)?;
        if has(Product::Archive) {
            archive(project, output, &root)?;
            passed(&format!("the archive's programs run in {release}"));
        }
        if has(Product::Deb) {
            deb::life(project, output, &root).with_context(|| format!("in {release}"))?;
            passed(&format!(
                "the Debian package is installed, upgraded, downgraded, removed and purged in \
                 {release}"
            ));
        }
        if has(Product::Wheel) {
            wheel::install(output, &root).with_context(|| format!("in {release}"))?;
            passed(&format!("pip installs the wheel in {release}"));
        }
        root.remove()?;
    }
    if has(Product::Wheel) {
        wheel::build_from_source(project, output, &work)?;
        passed("pip builds a wheel from the source distribution");
    }
    reproducible::check(project, products, output, &work)?;
    passed("a build of the same commit in another directory makes the same files");
    std::fs::remove_dir_all(&work).with_context(|| format!("remove {}", work.display()))
}

/// Unpacks the archive in a root file system and runs its programs there.
fn archive(project: &Project, output: &Path, root: &Root) -> Result<()> {
    let name = project.name();
    root.unpack(&output.join(format!("{name}.tar.gz")))?;
    for program in ["shoutd", "shoutdctl"] {
        let told = root.run(&[&format!("/{name}/bin/{program}"), "--version"])?;
        ensure!(told.trim() == format!("{program} {}", project.version), "it says {told:?}");
    }
    Ok(())
}

fn passed(what: &str) {
    show_verdict(&format!("ok: {what}"));
}
