//! How long an address is silent when it moves from one host to another, announced by a gratuitous
//! ARP only.

use anyhow::{Context, Result, ensure};

use super::finding;
use crate::report::Finding;
use crate::statistics::percentile;
use crate::ways::{End, Ends, HELPER_DEADLINE, findings, number};

/// The address that moves. It is in the middle of the subnet, where neither Docker nor shoutd gives
/// out addresses.
const VIRTUAL: &str = "10.202.0.101";

const PORT: u16 = 5061;

/// How long the address is watched, in seconds.
const SECONDS: f64 = 3.0;

/// Moves the address from the container on host 1 to that on host 2, while the one on host 3
/// queries it.
pub(super) fn measure(ends: &Ends, quick: bool) -> Result<Vec<Finding>> {
    let (first, second, client) = (ends.on(1)?, ends.on(2)?, ends.on(3)?);
    let echoes = [first, second]
        .map(|end| end.ready_helper(&format!("echo 0.0.0.0:{PORT} {} --seconds 200", end.place())));
    let echoes = echoes.into_iter().collect::<Result<Vec<_>>>()?;
    let (mut silent, mut own) = (Vec::new(), Vec::new());
    for _ in 0..if quick { 1 } else { 5 } {
        let (time, taken) = move_once(first, second, client)?;
        silent.push(time * 1e3);
        own.push(taken * 1e3);
    }
    for mut echo in echoes {
        echo.kill()?;
    }
    let own = percentile(&own, 50.0).context("no moves")?;
    let remark = format!(
        "from the last answer of the old host to the first of the new one; to delete the address, \
         add it on the other host and run arping takes {own:.0} ms in the median; the protocol has \
         no timers"
    );
    Ok(vec![Finding {
        remark,
        ..finding("gratuitous ARP: address silent while it is moved", "ms", silent)
    }])
}

/// How long the address was silent, and how long the move itself took, in seconds.
fn move_once(first: &End, second: &End, client: &End) -> Result<(f64, f64)> {
    change(first, "add")?;
    // In every round but the first, the client's ARP entry is that of the last owner.
    announce(first)?;
    let mut asking =
        client.ready_helper(&format!("silence {VIRTUAL}:{PORT} --seconds {SECONDS}"))?;
    let begin = std::time::Instant::now();
    change(first, "delete")?;
    change(second, "add")?;
    announce(second)?;
    let taken = begin.elapsed().as_secs_f64();
    let silent = number(&findings(&mut asking, SECONDS)?, "silent")?;
    change(second, "delete")?;
    Ok((silent, taken))
}

/// Sends a gratuitous ARP.
fn announce(end: &End) -> Result<()> {
    let arping = ["busybox", "arping", "-A", "-c", "1", "-I", end.device(), "-s", VIRTUAL, VIRTUAL];
    let output = end.spawn(&arping)?.wait(HELPER_DEADLINE)?;
    ensure!(output.success(), "arping on {} failed, {output}", end.host.name());
    Ok(())
}

fn change(end: &End, verb: &str) -> Result<()> {
    let address = format!("{VIRTUAL}/24");
    let output = end
        .spawn(&["ip", "address", verb, &address, "dev", end.device()])?
        .wait(HELPER_DEADLINE)?;
    ensure!(output.success(), "{verb} {address} on {} failed, {output}", end.host.name());
    Ok(())
}
