//! Types the shell blocks of the readmes and of the book on three hosts, page by page, as
//! `docs/book/README.md` describes.

#[path = "book/cluster.rs"]
mod cluster;
#[path = "book/image.rs"]
mod image;
#[path = "book/page.rs"]
mod page;

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use libtest_mimic::{Arguments, Failed, Trial};
use parking_lot::Mutex;
use shoutd_e2e::Cluster;
use shoutd_tooling::book::{self, Page};

/// Lines of each log that are shown when a page fails.
const LOG_LINES: usize = 60;

fn main() -> ExitCode {
    match trials() {
        Ok(trials) => {
            let mut arguments = Arguments::from_args();
            arguments.test_threads = Some(1);
            // The lab is taken down when the last trial is dropped, which `Conclusion::exit` would
            // prevent.
            libtest_mimic::run(&arguments, trials).exit_code()
        }
        Err(error) => {
            println!("FAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A test for each page with blocks that are run, with the page's path as the name.
fn trials() -> Result<Vec<Trial>> {
    let lab: Arc<Mutex<Option<Cluster>>> = Arc::default();
    let mut trials = Vec::new();
    for path in book::paths()? {
        let page = book::read(&path)?;
        if page.is_run() {
            let lab = Arc::clone(&lab);
            trials.push(Trial::test(path, move || run(&lab, &page)));
        }
    }
    Ok(trials)
}

/// Runs a page, and takes the lab down if it fails: the next page gets another one.
fn run(lab: &Mutex<Option<Cluster>>, page: &Page) -> Result<(), Failed> {
    let mut lab = lab.lock();
    let cluster = match lab.take() {
        Some(cluster) => cluster,
        None => Cluster::up("book", 3).map_err(|error| Failed::from(format!("{error:#}")))?,
    };
    let (begin, logs) = (Instant::now(), cluster.logs());
    let result = cluster::prepare(&cluster, page.is_bare)
        .context("before the page")
        .and_then(|()| page::run(&cluster, page))
        .and_then(|()| cluster::tidy(&cluster).context("after the page"));
    let seconds = begin.elapsed().as_secs_f32();
    match result {
        Ok(()) => {
            print!("({seconds:.1} s) ");
            _ = io::stdout().flush();
            *lab = Some(cluster);
            Ok(())
        }
        Err(error) => {
            println!("FAILED ({seconds:.1} s): {error:#}");
            cluster.show_logs_since(&logs, LOG_LINES);
            Err(Failed::from(format!("{error:#}")))
        }
    }
}
