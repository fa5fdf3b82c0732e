//! Reads small files that users and shoutd write, with a size limit.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, ErrorKind, IsTerminal, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::OFlag;

/// Size limit of a token file, in octets. A token has 103.
pub const TOKEN_FILE_BYTES_MAX: u64 = 4096;

/// Reads a file that has at most `limit` octets.
///
/// # Errors
/// The file cannot be read. [`ErrorKind::InvalidData`] if it is larger, or is a directory, a pipe
/// or a device.
pub fn read_at_most(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    // O_NONBLOCK, because opening a pipe would wait for a writer.
    let file = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidData, "it is not a file"));
    }
    read_limited(file, limit)
}

/// Reads the token from a file that the user named. It may be a pipe, such as a shell's `<(...)`;
/// `-` is standard input.
pub(crate) fn read_token(path: &Path) -> io::Result<String> {
    try_read_token(path)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

fn try_read_token(path: &Path) -> io::Result<String> {
    let octets = if path == Path::new("-") {
        read_input()?
    } else {
        read_limited(File::open(path)?, TOKEN_FILE_BYTES_MAX)?
    };
    let text = String::from_utf8(octets)
        .map_err(|_| io::Error::new(ErrorKind::InvalidData, "it is not valid UTF-8"))?;
    Ok(text.trim().to_owned())
}

/// Reads one line of standard input: users who type the token do not send an end of file.
fn read_input() -> io::Result<Vec<u8>> {
    let input = io::stdin();
    if input.is_terminal() {
        eprint!("token: ");
    }
    let mut line = Vec::new();
    input.lock().take(TOKEN_FILE_BYTES_MAX).read_until(b'\n', &mut line)?;
    Ok(line)
}

fn read_limited(file: File, limit: u64) -> io::Result<Vec<u8>> {
    let mut octets = Vec::new();
    file.take(limit + 1).read_to_end(&mut octets)?;
    if octets.len() as u64 > limit {
        return Err(io::Error::new(
            ErrorKind::InvalidData,
            format!("it is larger than {limit} octets"),
        ));
    }
    Ok(octets)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn larger_files_and_other_kinds_of_files_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, [b'x'; 10]).unwrap();
        assert_eq!(read_at_most(&path, 10).unwrap(), [b'x'; 10]);
        assert_eq!(read_at_most(&path, 9).unwrap_err().to_string(), "it is larger than 9 octets");
        assert_eq!(
            read_at_most(&directory.path().join("none"), 9).unwrap_err().kind(),
            ErrorKind::NotFound
        );
        for other in [directory.path(), Path::new("/dev/zero")] {
            assert_eq!(read_at_most(other, 9).unwrap_err().to_string(), "it is not a file");
        }
    }

    #[test]
    fn a_token_may_come_through_a_pipe_up_to_the_size_limit() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        fs::write(&path, " SHOUT1-x\n").unwrap();
        assert_eq!(read_token(&path).unwrap(), "SHOUT1-x");
        fs::write(&path, [0xff]).unwrap();
        assert_eq!(
            read_token(&path).unwrap_err().to_string(),
            format!("{}: it is not valid UTF-8", path.display())
        );
        let error = read_token(Path::new("/dev/zero")).unwrap_err().to_string();
        assert_eq!(error, "/dev/zero: it is larger than 4096 octets");
        fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let writer = std::thread::spawn({
            let path = path.clone();
            move || fs::write(path, "SHOUT1-y\n").unwrap()
        });
        assert_eq!(read_token(&path).unwrap(), "SHOUT1-y");
        writer.join().unwrap();
    }
}
