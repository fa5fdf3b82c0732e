//! The error that a driver gives to Docker.

use std::fmt;

use crate::one_line;

/// Limit of an error message to Docker, in bytes.
const MESSAGE_LIMIT: usize = 2048;

/// The error of a driver, in one line for the user of the `docker` command. Docker adds a prefix
/// such as `remote: `.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriverError(String);

impl DriverError {
    /// An error with this message. Line ends become spaces, and it is cut to 2048 bytes.
    pub fn new(message: impl AsRef<str>) -> Self {
        let line = one_line(message.as_ref(), MESSAGE_LIMIT);
        // Docker takes an empty message for a success.
        Self(if line.is_empty() { "shoutd failed without a message".to_owned() } else { line })
    }

    /// The message.
    pub fn message(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DriverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for DriverError {}
