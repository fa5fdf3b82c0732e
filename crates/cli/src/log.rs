//! What a daemon logs.

use std::fmt;
use std::str::FromStr;

use tracing_subscriber::filter::{LevelFilter, Targets};

/// A module whose messages `shoutd-consensus` repeats where they matter: it logs at each heartbeat.
const NOISY: &str = "openraft";

/// Which messages are logged: a level for all, and levels for modules.
#[derive(Debug, Clone, PartialEq)]
pub struct LogFilter {
    text: String,
    targets: Targets,
}

impl LogFilter {
    /// The filter. openraft logs only if it is named.
    pub fn targets(&self) -> Targets {
        if self.targets.iter().any(|(target, _)| target.starts_with(NOISY)) {
            return self.targets.clone();
        }
        self.targets.clone().with_target(NOISY, LevelFilter::OFF)
    }
}

impl FromStr for LogFilter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let targets = text.parse().map_err(|_| {
            "give a level (off, error, warn, info, debug, trace), or module=level, separated by \
             commas"
                .to_owned()
        })?;
        // A word that is no level would be a module that logs everything.
        let is_word = |part: &str| !part.contains('=') && part.parse::<LevelFilter>().is_err();
        if text.is_empty() || text.split(',').any(is_word) {
            return Err(format!(
                "{text:?} has no level; give error, warn, info, debug or trace, or module=level"
            ));
        }
        Ok(Self { text: text.to_owned(), targets })
    }
}

impl fmt::Display for LogFilter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn a_level_holds_for_all_modules_but_openraft() {
        let filter: LogFilter = "info,shoutd_dataplane=debug".parse().unwrap();
        let targets = filter.targets();
        assert!(targets.would_enable("shoutd_core", &Level::INFO));
        assert!(!targets.would_enable("shoutd_core", &Level::DEBUG));
        assert!(targets.would_enable("shoutd_dataplane::reconciler", &Level::DEBUG));
        assert!(!targets.would_enable("openraft::core", &Level::ERROR));
        let named: LogFilter = "warn,openraft=info".parse().unwrap();
        assert!(named.targets().would_enable("openraft::core", &Level::INFO));
        for wrong in ["", "loud", "info,loud", "info,x=loud"] {
            assert!(wrong.parse::<LogFilter>().is_err(), "{wrong}");
        }
    }
}
