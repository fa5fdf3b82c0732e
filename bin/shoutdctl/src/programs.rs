//! Runs programs of the host, each with a deadline and a limit of its output.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::time::timeout;

/// How long a program may take. `docker` and `journalctl` are the slowest.
const PROGRAM_TIME_MAX: Duration = Duration::from_secs(10);

/// Size limit of its error message, in octets.
const ERROR_BYTES_MAX: u64 = 4096;

/// Why there is no output.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// The host does not have it.
    #[error("this host has no program {0}")]
    Missing(String),
    /// It cannot be started, or its output cannot be read.
    #[error("{line}: {source}")]
    Io {
        /// The command line.
        line: String,
        /// The cause.
        source: io::Error,
    },
    /// It was killed after [`PROGRAM_TIME_MAX`].
    #[error("{line} took longer than {} s", PROGRAM_TIME_MAX.as_secs())]
    Late {
        /// The command line.
        line: String,
    },
    /// It failed.
    #[error("{line} failed: {message}")]
    Failed {
        /// The command line.
        line: String,
        /// The first line of its error message.
        message: String,
    },
}

/// The standard output of a program, and whether it was cut off after `limit` octets.
///
/// # Errors
/// See [`ProgramError`].
pub async fn output(line: &[&str], limit: u64) -> Result<(Vec<u8>, bool), ProgramError> {
    let text = line.join(" ");
    let [program, arguments @ ..] = line else { return Err(ProgramError::Missing(text)) };
    let io_error = |source: io::Error| ProgramError::Io { line: text.clone(), source };
    let mut child = match Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
    {
        Ok(child) => child,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(ProgramError::Missing((*program).to_owned()));
        }
        Err(error) => return Err(io_error(error)),
    };
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let work = async {
        let (output, message) =
            tokio::try_join!(limited(stdout, limit), limited(stderr, ERROR_BYTES_MAX))?;
        // A program whose output was cut off would wait for a reader.
        let is_cut = output.1;
        let status = if is_cut { None } else { Some(child.wait().await?) };
        Ok((output, message, status))
    };
    let done = timeout(PROGRAM_TIME_MAX, work).await;
    let done = done.map_err(|_| ProgramError::Late { line: text.clone() })?;
    let (output, (message, _), status) = done.map_err(io_error)?;
    if status.is_some_and(|status| !status.success()) {
        let message = String::from_utf8_lossy(&message);
        let message = message.lines().next().unwrap_or("no error message").to_owned();
        return Err(ProgramError::Failed { line: text, message });
    }
    Ok(output)
}

async fn limited(
    stream: Option<impl AsyncRead + Unpin>,
    limit: u64,
) -> io::Result<(Vec<u8>, bool)> {
    let mut octets = Vec::new();
    let Some(stream) = stream else { return Ok((octets, false)) };
    stream.take(limit + 1).read_to_end(&mut octets).await?;
    let is_cut = octets.len() as u64 > limit;
    octets.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    Ok((octets, is_cut))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_output_is_limited_and_failures_have_their_reason() {
        let read = output(&["echo", "so"], 100).await.unwrap();
        assert_eq!(read, (b"so\n".to_vec(), false));
        let (cut, is_cut) = output(&["yes"], 10).await.unwrap();
        assert_eq!((cut.len(), is_cut), (10, true));
        let error = output(&["sh", "-c", "echo why >&2; exit 3"], 10).await.unwrap_err();
        assert!(error.to_string().ends_with("failed: why"), "{error}");
        let error = output(&["no-such-program"], 10).await.unwrap_err();
        assert!(matches!(error, ProgramError::Missing(_)), "{error}");
    }
}
