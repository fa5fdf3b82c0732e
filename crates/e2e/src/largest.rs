//! The largest packet that a network carries.

use anyhow::{Result, ensure};
use shoutd_lab::wait_until;

use crate::{Container, Datagrams, SOON, start_receiver};

/// Octets of the headers of IPv4 and UDP.
const HEADERS: usize = 28;

/// Prints how many fragments the host has sent: its own, and those of the encrypted underlay.
const FRAGMENTS: &str = r#"
awk '$1 == "Ip:" && !column { for (n = 2; n <= NF; n++) if ($n == "FragCreates") column = n; next }
    $1 == "Ip:" { print $column }' /proc/net/snmp
for run in '' 'ip netns exec shout-wg'; do
    $run awk '$1 == "Ip6FragCreates" { print $2 }' /proc/net/snmp6
done"#;

/// Checks that containers on this network have this MTU; that a packet of that size, which must not
/// be fragmented (DF, RFC 791), reaches a container on another host, and in one piece; and that one
/// more octet is refused.
pub fn carries_up_to(mtu: usize, from: &Container, to: &Container, network: &str) -> Result<()> {
    let has = from.sh("cat /sys/class/net/eth0/mtu")?;
    ensure!(has.trim() == mtu.to_string(), "the MTU is {has}, not {mtu}");
    let address = to.address(network)?;
    let datagrams = Datagrams {
        receive: "UDP4-RECV:6011".to_owned(),
        send: format!("UDP4-DATAGRAM:{address}:6011,mtudiscover=2"),
    };
    let receiver = start_receiver(to, &datagrams)?;
    from.ping(&address.to_string())?;
    let send = |size: usize| {
        let octets = format!("head -c {} /dev/zero | tr '\\000' x", size - HEADERS);
        from.try_sh(&format!("{octets} | socat -b 9000 -u - {}", datagrams.send))
    };
    let before = from.host.sh(FRAGMENTS)?;
    let output = send(mtu)?;
    ensure!(output.success(), "a packet of {mtu} octets is not sent: {output}");
    wait_until(&format!("a packet of {mtu} octets to arrive"), SOON, || {
        Ok((receiver.printed().0.len() == mtu - HEADERS).then_some(()))
    })?;
    let after = from.host.sh(FRAGMENTS)?;
    ensure!(before == after, "fragments were sent: {before} before, {after} after");
    let output = send(mtu + 1)?;
    let is_refused = output.stderr.contains("Message too long");
    ensure!(is_refused, "a packet of {} octets is sent: {output}", mtu + 1);
    Ok(())
}
