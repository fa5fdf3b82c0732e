//! How many file descriptors the daemon needs and may have.

/// File descriptors per network in use on a host: its namespace, and the netlink sockets for its
/// devices, filters, memberships and joins. While the network changes there are up to ten.
pub const DESCRIPTORS_PER_NETWORK: u64 = 5;
/// File descriptors per container on such a network: its namespace, and a netlink socket for its
/// devices.
pub const DESCRIPTORS_PER_CONTAINER: u64 = 2;

/// A problem text once three quarters of the limit are used.
pub fn descriptors_problem(open: u64, limit: u64) -> Option<String> {
    if open < limit / 4 * 3 {
        return None;
    }
    let networks =
        limit.saturating_sub(open) / (DESCRIPTORS_PER_NETWORK + DESCRIPTORS_PER_CONTAINER);
    let more = limit.saturating_mul(4);
    Some(format!(
        "the daemon has {open} files open and may have {limit}: this allows about {networks} more \
         networks with a container each. Raise the limit (LimitNOFILE={more} in shoutd.service, \
         or `ulimit -Hn {more}` in the shell that starts shoutd) and start shoutd again"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_reported_before_it_is_reached() {
        assert_eq!(descriptors_problem(3071, 4096), None);
        let line = descriptors_problem(3072, 4096).unwrap();
        assert!(
            line.contains("3072 files open and may have 4096")
                && line.contains("146 more networks"),
            "{line}"
        );
        assert!(descriptors_problem(5000, 4096).unwrap().contains("about 0 more"));
        assert_eq!(descriptors_problem(100, u64::MAX), None);
    }
}
