//! Makes and checks shoutd's packages, all of one statically linked build: `cargo xtask package`.

mod archive;
mod build;
mod check;
mod deb;
mod files;
pub mod image;
mod licences;
mod project;
mod rpm;
mod sbom;
mod stage;
mod tools;
mod wheel;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use shoutd_tooling::terminal::{show_progress, show_verdict};

use crate::build::Programs;
use crate::files::checksum;
use crate::image::Image;
use crate::project::Project;
use crate::stage::Stage;

/// The list of checksums, as `sha256sum --check` reads it.
const CHECKSUMS: &str = "SHA256SUMS";

/// Make packages.
#[derive(Debug, Args)]
pub struct Options {
    /// What to make
    #[arg(value_enum, default_values_t = Product::ALL)]
    products: Vec<Product>,

    /// Directory of the packages [default: package in Cargo's target directory]
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,

    /// Check the packages that were made: with lintian, by installing them in Debian releases, and
    /// by a second build elsewhere, which must be the same
    #[arg(long)]
    check: bool,
}

/// A package, or what goes with packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Product {
    /// A tar archive of the programs and their files, and one of their debug symbols.
    Archive,
    /// A Debian package.
    Deb,
    /// An RPM package.
    Rpm,
    /// A Python wheel of the programs, and its source distribution.
    Wheel,
    /// A container image for `docker load`.
    Image,
    /// A list of the crates in the programs, in CycloneDX's format.
    Sbom,
}

impl Product {
    const ALL: [Self; 6] =
        [Self::Archive, Self::Deb, Self::Rpm, Self::Wheel, Self::Image, Self::Sbom];
}

/// Makes the packages, and prints where they are.
///
/// # Errors
///
/// A tool is missing and cannot be installed, something does not build, or a check fails.
pub fn run(options: &Options) -> Result<ExitCode> {
    let project = Project::find()?;
    tools::install_debian_packages(options.check)?;
    let output = options.output.clone().unwrap_or_else(|| project.target.join("package"));
    let output = std::path::absolute(output).context("find the output directory")?;
    make(&project, &options.products, &output)?;
    if options.check {
        check::run(&project, &options.products, &output)?;
    }
    show_verdict(&format!("the packages are in {}", output.display()));
    Ok(ExitCode::SUCCESS)
}

/// Makes the packages in `output`, which afterwards has nothing else.
fn make(project: &Project, products: &[Product], output: &Path) -> Result<()> {
    if output.exists() {
        ensure!(
            output.join(CHECKSUMS).exists() || fs::read_dir(output)?.next().is_none(),
            "{} has other files: give a directory that is empty, or one of earlier packages",
            output.display()
        );
        fs::remove_dir_all(output).with_context(|| format!("remove {}", output.display()))?;
    }
    fs::create_dir_all(output).with_context(|| format!("make {}", output.display()))?;
    // The mark of a directory of packages, also if what follows fails.
    files::write(&output.join(CHECKSUMS), b"")?;
    let programs = Programs::build(project)?;
    let stage = Stage::fill(project, &programs)?;
    for product in products {
        show_progress(&format!("making: {product:?}"));
        match product {
            Product::Archive => archive::make(project, &programs, &stage, output),
            Product::Deb => deb::make(project, &project.version, output).map(drop),
            Product::Rpm => rpm::make(project, output),
            Product::Wheel => wheel::make(project, &stage, output),
            Product::Image => {
                let image = Image::of_static_programs(&stage.programs(), project.epoch)?;
                let name = format!("{}-image.tar.gz", project.name());
                image.save(&project.version, &output.join(name))
            }
            Product::Sbom => sbom::make(project, output),
        }
        .with_context(|| format!("make the {product:?}"))?;
    }
    write_checksums(output)
}

fn write_checksums(output: &Path) -> Result<()> {
    let mut text = String::new();
    for path in files::list(output)?.iter().filter(|path| !path.ends_with(CHECKSUMS)) {
        let name = path.strip_prefix(output)?.display();
        text.push_str(&format!("{}  {name}\n", checksum(path)?));
    }
    files::write(&output.join(CHECKSUMS), text.as_bytes())
}
