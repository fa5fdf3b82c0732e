//! What can go wrong between shoutd and the kernel.

use std::fmt;
use std::io;
use std::time::Duration;

use nix::errno::Errno;

/// An operation on the kernel that failed, named with its object. Its text says all, the fault's
/// included.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation}: {fault}")]
pub struct Error {
    operation: String,
    fault: Fault,
}

impl Error {
    /// What failed.
    pub fn fault(&self) -> &Fault {
        &self.fault
    }

    /// The error number, if the kernel gave one.
    pub fn errno(&self) -> Option<Errno> {
        self.fault.errno()
    }
}

/// Why it failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The kernel refused, perhaps in words of its own (`NLMSGERR_ATTR_MSG`).
    Refused {
        /// Its error number.
        errno: Errno,
        /// Its words.
        text: Option<String>,
    },
    /// A system call failed.
    System(#[from] io::Error),
    /// The kernel did not answer in time.
    Late {
        /// How long it was waited for.
        after: Duration,
    },
    /// What is being dumped kept changing, so that no consistent copy could be had.
    Unstable,
    /// There are so many entries that were learnt from traffic that reading was given up.
    Crowded {
        /// How many were to be read at the most.
        most: usize,
    },
    /// The answer makes no sense.
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

    /// The error, now that it is known what was being done.
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
            Self::Late { after } => write!(f, "the kernel did not answer within {after:?}"),
            Self::Unstable => f.write_str("it changed too often while it was read"),
            Self::Crowded { most } => {
                write!(
                    f,
                    "more than {most} MAC addresses were learnt from traffic; they are being \
                     removed"
                )
            }
            Self::Malformed(what) => write!(f, "the kernel's answer makes no sense: {what}"),
        }
    }
}
