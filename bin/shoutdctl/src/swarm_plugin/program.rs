//! The files that this program needs to run in another root file system: its executable, and the
//! libraries that it has mapped.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// `AT_BASE` in `/proc/self/auxv`: the address where the program interpreter is mapped; 0 if there
/// is none (getauxval(3)).
const INTERPRETER_ADDRESS: usize = 7;

/// Magic number of an ELF file.
const ELF: &[u8] = b"\x7fELF";

/// A program and the files that it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// The executable.
    pub executable: PathBuf,
    /// The program interpreter (ld.so), which loads the libraries; `None` for a statically linked
    /// program.
    pub interpreter: Option<PathBuf>,
    /// The shared libraries, including the interpreter.
    pub libraries: BTreeSet<PathBuf>,
    /// Symbolic links to the libraries in their own directories, such as libc.so.6 to libc-2.31.so.
    /// Programs load a library by the link's name (`DT_NEEDED`).
    pub links: BTreeMap<PathBuf, PathBuf>,
}

impl Program {
    /// This program.
    pub fn running() -> Result<Self> {
        let executable = PathBuf::from("/proc/self/exe");
        let itself = fs::read_link(&executable).context("cannot tell which program this is")?;
        let maps = fs::read("/proc/self/maps").context("cannot read /proc/self/maps")?;
        let mapped = mapped_files(&String::from_utf8_lossy(&maps));
        let auxiliary = fs::read("/proc/self/auxv").context("cannot read /proc/self/auxv")?;
        let address = interpreter_address(&auxiliary);
        let interpreter =
            mapped.iter().find(|(start, _)| **start == address).map(|(_, path)| path.clone());
        let libraries: BTreeSet<_> =
            mapped.into_values().filter(|path| *path != itself && is_elf(path)).collect();
        let links = libraries.iter().flat_map(|library| links_to(library)).collect();
        Ok(Self { executable, interpreter, libraries, links })
    }

    /// The directories of the libraries.
    pub fn library_directories(&self) -> BTreeSet<&Path> {
        self.libraries.iter().filter_map(|library| library.parent()).collect()
    }
}

/// The mapped files by start address (proc_pid_maps(5)).
fn mapped_files(maps: &str) -> BTreeMap<usize, PathBuf> {
    maps.lines().filter_map(mapping).collect()
}

fn mapping(line: &str) -> Option<(usize, PathBuf)> {
    let path = &line[line.find('/')?..];
    let start = usize::from_str_radix(line.split('-').next()?, 16).ok()?;
    (!path.ends_with(" (deleted)")).then(|| (start, PathBuf::from(path)))
}

/// Finds [`INTERPRETER_ADDRESS`] in the auxiliary vector, which consists of pairs of words.
fn interpreter_address(auxiliary: &[u8]) -> usize {
    const WORD: usize = size_of::<usize>();
    let words = auxiliary
        .chunks_exact(WORD)
        .filter_map(|word| word.try_into().ok().map(usize::from_ne_bytes));
    let words: Vec<usize> = words.collect();
    words.chunks_exact(2).find(|pair| pair[0] == INTERPRETER_ADDRESS).map_or(0, |pair| pair[1])
}

fn is_elf(path: &Path) -> bool {
    let mut magic = [0; 4];
    File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && magic == ELF
}

/// Symbolic links to this library in its directory, with their targets.
fn links_to(library: &Path) -> BTreeMap<PathBuf, PathBuf> {
    let Some((directory, name)) = library.parent().zip(library.file_name()) else {
        return BTreeMap::new();
    };
    // Such as libc.so.6 for libc-2.31.so. The directory may have thousands of entries, so we
    // resolve only names with the same stem.
    let stem: Vec<u8> =
        name.as_bytes().iter().copied().take_while(|byte| byte.is_ascii_alphabetic()).collect();
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let candidates = entries
        .filter(|entry| entry.file_name().as_bytes().starts_with(&stem))
        .map(|entry| entry.path());
    let links = candidates
        .filter(|path| path.is_symlink() && path.canonicalize().is_ok_and(|file| file == *library));
    links.map(|path| (path, PathBuf::from(name))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_this_program_are_found() {
        let program = Program::running().unwrap();
        assert!(is_elf(&program.executable));
        let Some(interpreter) = &program.interpreter else {
            assert!(program.libraries.is_empty(), "{program:?}");
            return;
        };
        assert!(program.libraries.contains(interpreter), "{program:?}");
        let mut names = program.libraries.iter().filter_map(|path| path.file_name());
        assert!(names.any(|name| name.as_bytes().starts_with(b"libc")), "{program:?}");
    }

    #[test]
    fn mappings_are_read() {
        let maps = "\
            559ee3a00000-559ee3a05000 r--p 00000000 fe:01 1234                       /usr/bin/cat\n\
            7f0000000000-7f0000020000 rw-p 00000000 00:00 0 \n\
            7f1234560000-7f1234586000 r--p 00000000 fe:01 99             \
            \x20           /usr/lib/with a space/libc.so.6\n\
            7f1234600000-7f1234601000 r--p 00000000 fe:01 98             \
            \x20           /usr/lib/libold.so (deleted)\n\
            7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0              \
            \x20           [stack]\n\
            nonsense /x\n";
        let expected = [
            (0x559e_e3a0_0000, PathBuf::from("/usr/bin/cat")),
            (0x7f12_3456_0000, PathBuf::from("/usr/lib/with a space/libc.so.6")),
        ];
        assert_eq!(mapped_files(maps), BTreeMap::from(expected));
    }

    #[test]
    fn the_interpreters_address_is_read() {
        let vector: Vec<u8> =
            [6, 4096, 7, 0x7f00, 0, 0_usize].iter().flat_map(|word| word.to_ne_bytes()).collect();
        assert_eq!(interpreter_address(&vector), 0x7f00);
        assert_eq!(interpreter_address(&vector[..20]), 0);
        assert_eq!(interpreter_address(&[]), 0);
    }
}
