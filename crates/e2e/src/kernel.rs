//! The parts of shoutd in a host's kernel.

use anyhow::Result;
use shoutd_lab::Host;

/// Lists everything that exists only while a network is in use: segments, veths in the host's
/// namespace, the socket that receives VXLAN (UDP port 7789, 1E6D in hexadecimal).
const LEFT: &str = r"
for file in /run/netns/shout-[0-9]*; do [ -e $file ] && echo namespace $file; done
ip -brief link | grep -E '^(shp|shc|shg|shoutvx|shoutbr)' | sed 's/^/device /'
ip -oneline link | grep 'alias shoutd' | cut -d ' ' -f 2 | sed 's/^/device with our alias /'
grep --no-filename ':1E6D ' /proc/net/udp /proc/net/udp6 | sed 's/^/socket /'
true";

/// The parts of networks in a host's kernel, one line each.
pub fn left_in_kernel(host: &Host) -> Result<Vec<String>> {
    Ok(host.sh(LEFT)?.lines().map(str::to_owned).collect())
}

/// The names of the namespaces of the host's segments.
pub fn segments(host: &Host) -> Result<Vec<String>> {
    let listed = host.sh("ls /run/netns 2>/dev/null | grep '^shout-[0-9]' || true")?;
    Ok(listed.lines().map(str::to_owned).collect())
}
