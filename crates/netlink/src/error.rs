//! Errors of requests to the kernel.

use std::fmt;
use std::io;
use std::time::Duration;

use nix::errno::Errno;

/// A failed operation and its object. The text includes the fault's text.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation}: {fault}")]
pub struct Error {
    operation: String,
    fault: Fault,
}

impl Error {
    /// The cause.
    pub fn fault(&self) -> &Fault {
        &self.fault
    }

    /// The error number, if the kernel gave one.
    pub fn errno(&self) -> Option<Errno> {
        self.fault.errno()
    }
}

/// The cause of an [`Error`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The kernel refused the request, perhaps with an extended acknowledgement
    /// (`NLMSGERR_ATTR_MSG`).
    Refused {
        /// The error number.
        errno: Errno,
        /// The text of the extended acknowledgement.
        text: Option<String>,
    },
    /// A system call failed.
    System(#[from] io::Error),
    /// The kernel did not answer in time.
    TimedOut {
        /// How long we waited.
        after: Duration,
    },
    /// The table changed during every attempt to dump it, so there is no consistent copy.
    Unstable,
    /// The table has more learned entries than we are willing to read.
    TooManyLearned {
        /// The limit.
        most: usize,
    },
    /// There are more of these than we are willing to read or write.
    TooMany {
        /// Of what.
        what: &'static str,
        /// The limit.
        most: usize,
    },
    /// The answer cannot be parsed.
    Malformed(&'static str),
}

impl Fault {
    /// The error number, if the kernel gave one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            Self::System(error) => error.raw_os_error().map(Errno::from_raw),
            _ => None,
        }
    }

    /// Names the operation that failed with this fault.
    pub(crate) fn during(self, operation: impl fmt::Display) -> Error {
        Error { operation: operation.to_string(), fault: self }
    }
}

impl From<Errno> for Fault {
    fn from(errno: Errno) -> Self {
        Self::System(errno.into())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { errno, text: Some(text) } => write!(f, "{text} ({})", errno.desc()),
            Self::Refused { errno, text: None } => f.write_str(errno.desc()),
            Self::System(error) => error.fmt(f),
            Self::TimedOut { after } => write!(f, "the kernel did not answer within {after:?}"),
            Self::Unstable => f.write_str("the table changed during every attempt to read it"),
            Self::TooManyLearned { most } => {
                write!(
                    f,
                    "more than {most} MAC addresses were learned from traffic; they are being \
                     removed"
                )
            }
            Self::TooMany { what, most } => write!(f, "more than {most} {what}"),
            Self::Malformed(what) => write!(f, "unexpected answer from the kernel: {what}"),
        }
    }
}
