//! What the process uses, under the names that all client libraries of Prometheus have for it.

use std::fs;

use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::{SysconfVar, sysconf};

/// What the process uses.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Process {
    /// User and system time, in seconds.
    pub processor: f64,
    /// Resident memory, in octets.
    pub resident: f64,
    /// Virtual memory, in octets.
    pub virtual_memory: f64,
    /// Open file descriptors.
    pub descriptors: f64,
    /// Their limit.
    pub descriptors_max: f64,
    /// Threads.
    pub threads: f64,
    /// When it started, in seconds since 1970.
    pub started: f64,
}

impl Process {
    /// Reads it; `None` if the kernel does not report it.
    pub fn read() -> Option<Self> {
        let ticks = setting(SysconfVar::CLK_TCK)?;
        let page = setting(SysconfVar::PAGE_SIZE)?;
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        let boot = fs::read_to_string("/proc/stat").ok()?;
        let boot = boot.lines().find_map(|line| line.strip_prefix("btime "))?.trim();
        let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
        let open = fs::read_dir("/proc/self/fd").ok()?.count();
        let process = Self::parse(&stat, ticks, page)?;
        Some(Self {
            started: boot.parse::<f64>().ok()? + process.started,
            descriptors: f64::from(u32::try_from(open).ok()?),
            descriptors_max: f64::from(u32::try_from(limit).unwrap_or(u32::MAX)),
            ..process
        })
    }

    /// Parses `/proc/self/stat` (`proc_pid_stat(5)`). The start is since boot.
    fn parse(stat: &str, ticks: f64, page: f64) -> Option<Self> {
        // The name of the program may contain anything.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        // The manual counts from 1, and the first of these is its third.
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        Some(Self {
            processor: (field(14)? + field(15)?) / ticks,
            resident: field(24)? * page,
            virtual_memory: field(23)?,
            threads: field(20)?,
            started: field(22)? / ticks,
            ..Self::default()
        })
    }
}

fn setting(variable: SysconfVar) -> Option<f64> {
    let value = sysconf(variable).ok().flatten()?;
    u32::try_from(value).ok().map(f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_read() {
        let process = Process::read().unwrap();
        assert!(process.resident > 100_000.0 && process.virtual_memory > process.resident);
        assert!(process.threads >= 1.0 && process.descriptors >= 3.0);
        assert!(process.started > 1_600_000_000.0, "{process:?}");
    }

    #[test]
    fn a_name_with_parentheses_is_skipped() {
        let mut fields = vec!["0"; 50];
        fields[0] = "S";
        fields[11] = "150";
        fields[12] = "50";
        fields[21] = "3";
        let stat = format!("7 (a) b (c)) {}", fields.join(" "));
        let process = Process::parse(&stat, 100.0, 4096.0).unwrap();
        assert_eq!((process.processor, process.resident), (2.0, 12288.0));
        assert_eq!(Process::parse("7 (a) S 1", 100.0, 4096.0), None);
    }
}
