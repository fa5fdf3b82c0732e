//! The daemon's log: lines on standard error.

use std::io;

use shoutd_cli::{LogFilter, LogFormat};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt, registry, reload};

/// What is logged, which may change while the daemon runs.
#[derive(Debug, Clone)]
pub struct Log {
    filter: reload::Handle<Targets, Registry>,
}

impl Log {
    /// Begins to log. Call it once.
    pub fn begin(filter: &LogFilter, format: LogFormat) -> Self {
        let (targets, handle) = reload::Layer::new(filter.targets());
        let lines = fmt::layer().with_writer(io::stderr).with_ansi(false);
        let lines = match format {
            LogFormat::Text => lines.boxed(),
            LogFormat::Json => lines.json().boxed(),
        };
        registry().with(targets).with(lines).init();
        Self { filter: handle }
    }

    /// Logs what this filter lets pass, from now on.
    pub fn set(&self, filter: &LogFilter) {
        // It fails only if the subscriber is gone, which lives as long as the process.
        let _ = self.filter.reload(filter.targets());
    }
}
