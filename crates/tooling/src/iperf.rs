//! Parses the output of iperf (version 2).

/// A receiver's last report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Datagrams that did not arrive, by the numbers in those that did.
    pub lost: u64,
    /// Datagrams that should have arrived.
    pub total: u64,
}

/// Reads a receiver's report on the whole stream, which comes at its end. Reports on intervals
/// begin after 0, except for the first, which is shorter than `seconds`.
pub fn received(line: &str, seconds: f64) -> Option<Received> {
    // [  1] 0.0000-8.0153 sec  1.00 MBytes  1.05 Mbits/sec   0.012 ms 0/716 (0%)
    let (_, rest) = line.split_once(']')?;
    let (interval, rest) = rest.trim_start().split_once(' ')?;
    let (begin, end) = interval.split_once('-')?;
    let (begin, end): (f64, f64) = (begin.parse().ok()?, end.parse().ok()?);
    // The report covers the time from the first datagram to the last, a little less than the
    // sender's time.
    if begin > 0.0 || end < seconds - 1.5 || !rest.contains("ms") {
        return None;
    }
    let (_, counts) = rest.split_once(" ms")?;
    let (lost, total) = counts.split_once('/')?;
    let total = total.split_whitespace().next()?;
    Some(Received { lost: lost.trim().parse().ok()?, total: total.parse().ok()? })
}

/// Reads a sender's report of how many datagrams it sent.
pub fn sent(line: &str) -> Option<u64> {
    // [  1] Sent 717 datagrams
    let (_, rest) = line.split_once("] Sent ")?;
    rest.strip_suffix(" datagrams")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_report_on_the_whole_stream_only() {
        let whole = "[  1] 0.0000-8.0153 sec  1.00 MBytes  1.05 Mbits/sec   0.012 ms 3/716 (0.42%)";
        assert_eq!(received(whole, 8.0), Some(Received { lost: 3, total: 716 }));
        for other in [
            "[  1] 0.0000-1.0000 sec   131 KBytes  1.07 Mbits/sec   0.011 ms 0/91 (0%)",
            "[  1] 7.0000-8.0000 sec   128 KBytes  1.05 Mbits/sec   0.013 ms 0/89 (0%)",
            "[  1] 0.0000-8.0153 sec   517 KBytes  1.05 Mbits/sec",
            "[  1] local 224.1.1.1 port 5000 connected with 172.18.0.3 port 48176",
            "[ ID] Interval       Transfer     Bandwidth        Jitter   Lost/Total Datagrams",
            "",
        ] {
            assert_eq!(received(other, 8.0), None, "{other}");
        }
    }

    #[test]
    fn reads_how_many_were_sent() {
        assert_eq!(sent("[  1] Sent 361 datagrams"), Some(361));
        assert_eq!(sent("[  1] local 172.18.0.3 port 48176"), None);
    }
}
