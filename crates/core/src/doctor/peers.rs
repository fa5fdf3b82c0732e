//! The other hosts: TCP, tunnels, clocks.

use super::{Check, DaemonFacts, Facts, Finding, Level};
use crate::limits::{CLOCK_DIFFERENCE_MAX, PORT};
use crate::tunnel::{
    Carriage, TunnelProblem, TunnelState, encrypted_tunnel_problem, tunnel_problem,
};
use crate::view::HostRow;

/// Whether the other hosts answer on TCP.
pub fn peers(facts: &Facts) -> Vec<Finding> {
    let others: Vec<&HostRow> = facts.daemon.iter().flat_map(others).collect();
    let silent = others.iter().filter(|host| !host.reachable);
    let mut findings: Vec<Finding> = silent
        .map(|host| {
            Finding::new(
                Check::Peers,
                Level::Error,
                format!("host {} does not answer at {} (tcp)", host.name, host.address),
                format!(
                    "on {}: shoutdctl status; if it is well there, allow TCP port {} between the \
                     hosts; if it is lost for good: shoutdctl remove {}",
                    host.name,
                    host.address.port(),
                    host.id
                ),
            )
        })
        .collect();
    findings.extend(facts.peers.iter().filter_map(|peer| {
        let why = peer.failure.as_ref()?;
        Some(Finding::new(
            Check::Peers,
            Level::Error,
            format!("nothing answers at {} (tcp): {why}", peer.address),
            format!(
                "start shoutd there, and allow TCP port {} between the hosts",
                peer.address.port()
            ),
        ))
    }));
    let answered = facts.peers.iter().filter(|peer| peer.failure.is_none()).count()
        + others.iter().filter(|host| host.reachable).count();
    if answered > 0 {
        let text = format!("{answered} other hosts answer on TCP");
        findings.push(Finding::ok(Check::Peers, text));
    }
    if findings.is_empty() {
        let (text, remedy) = match &facts.daemon {
            Ok(_) => ("this host knows no other host", "start shoutd on another host"),
            Err(_) => (
                "shoutd does not run here, and no peer is named",
                "shoutdctl doctor --peer-addresses=<addresses of hosts on which shoutd runs>",
            ),
        };
        findings.push(Finding::new(Check::Peers, Level::NotChecked, text, remedy));
    }
    findings
}

fn others(daemon: &DaemonFacts) -> impl Iterator<Item = &HostRow> {
    daemon.hosts.iter().filter(|host| !host.this_host)
}

/// The directions of tunnels that do not carry.
pub fn tunnel_problems(daemon: &DaemonFacts) -> Vec<TunnelProblem> {
    let me = &daemon.status.name;
    let states = others(daemon).filter_map(|host| Some((&host.name, host.tunnel?)));
    let problems = states.flat_map(|(peer, state)| {
        [tunnel_problem(peer, me, state.inbound), tunnel_problem(me, peer, state.outbound)]
    });
    problems
        .chain(others(daemon).flat_map(|host| encrypted_problems(daemon, host)))
        .flatten()
        .collect()
}

/// The directions of the tunnel of encrypted networks to this host that do not carry.
fn encrypted_problems(daemon: &DaemonFacts, host: &HostRow) -> [Option<TunnelProblem>; 2] {
    let (me, peer) = (&daemon.status.name, &host.name);
    let own = daemon.status.wireguard.as_ref().and_then(|own| own.port);
    let (Some(state), Some(own)) = (host.encrypted_tunnel, own) else { return [None, None] };
    let port = host.wireguard.map_or(own, |wireguard| wireguard.port);
    [
        encrypted_tunnel_problem(peer, me, own, state.inbound),
        encrypted_tunnel_problem(me, peer, port, state.outbound),
    ]
}

/// Whether both directions are in one of these states.
fn both(tunnel: Option<TunnelState>, carriage: Carriage) -> bool {
    tunnel.is_some_and(|tunnel| (tunnel.inbound, tunnel.outbound) == (carriage, carriage))
}

/// Whether it is not known of a direction.
fn is_unknown(tunnel: Option<TunnelState>) -> bool {
    tunnel.is_none_or(|tunnel| [tunnel.inbound, tunnel.outbound].contains(&Carriage::Unknown))
}

fn names<'a>(daemon: &'a DaemonFacts, is_one: impl Fn(&HostRow) -> bool) -> Option<String> {
    let names = others(daemon).filter(|host| is_one(host)).map(|host| host.name.as_str());
    let names: Vec<&'a str> = names.collect();
    (!names.is_empty()).then(|| names.join(", "))
}

/// Whether VXLAN arrives, in both directions and at full size.
pub fn tunnels(facts: &Facts) -> Vec<Finding> {
    let Ok(daemon) = &facts.daemon else {
        return vec![Finding::new(
            Check::Tunnels,
            Level::NotChecked,
            format!("UDP port {PORT} between the hosts, at full MTU: shoutd does not run here"),
            "start shoutd on all hosts, and a container on one network on each; then \
             shoutdctl doctor",
        )];
    };
    let mut findings: Vec<Finding> = tunnel_problems(daemon)
        .into_iter()
        .map(|problem| Finding::new(Check::Tunnels, Level::Error, problem.what, problem.remedy))
        .collect();
    for (carries, what) in [
        (names(daemon, |host| both(host.tunnel, Carriage::Carries)), "VXLAN"),
        (names(daemon, |host| both(host.encrypted_tunnel, Carriage::Carries)), "WireGuard"),
    ] {
        let Some(hosts) = carries else { continue };
        let text = format!(
            "{what} passes in both directions and at full MTU between this host and {hosts}"
        );
        findings.push(Finding::ok(Check::Tunnels, text));
    }
    let remedy = if daemon.status.tunnel_probes {
        "start a container on one such network on both hosts, wait 15 s, and type shoutdctl doctor \
         again"
    } else {
        "shoutdctl stop, and shoutdctl start --tunnel-probes=on"
    };
    if let Some(hosts) = names(daemon, |host| is_unknown(host.tunnel)) {
        let text = format!("UDP port {PORT} to and from {hosts}, at full MTU");
        findings.push(Finding::new(Check::Tunnels, Level::NotChecked, text, remedy));
    }
    let encrypts = daemon.networks.iter().any(|network| network.encrypted);
    let own = daemon.status.wireguard.as_ref().and_then(|own| own.port).filter(|_| encrypts);
    if let Some(own) = own
        && let Some(hosts) = names(daemon, |host| is_unknown(host.encrypted_tunnel))
    {
        let text = format!("UDP port {own} (WireGuard) to and from {hosts}, at full MTU");
        findings.push(Finding::new(Check::Tunnels, Level::NotChecked, text, remedy));
    }
    if findings.is_empty() {
        let text = "there is no other host to which a tunnel leads";
        findings.push(Finding::ok(Check::Tunnels, text));
    }
    findings
}

/// The differences between the clocks.
pub fn clocks(facts: &Facts) -> Vec<Finding> {
    let clocks = facts.daemon.iter().flat_map(|daemon| &daemon.clocks);
    let (mut findings, mut good) = (Vec::new(), 0_usize);
    let allowed = i128::try_from(CLOCK_DIFFERENCE_MAX.as_millis()).unwrap_or(i128::MAX);
    for clock in clocks {
        let apart = i128::from(clock.ahead).abs();
        // Half of the question's time is not known.
        if apart - i128::from(clock.uncertain) <= allowed {
            good += 1;
            continue;
        }
        let direction = if clock.ahead > 0 { "ahead of" } else { "behind" };
        findings.push(Finding::new(
            Check::Clocks,
            Level::Warning,
            format!(
                "the clock of host {} is {} s {direction} this host's: times in logs and events do \
                 not fit, and tokens may seem expired",
                clock.name,
                apart / 1000
            ),
            "have both hosts take their time from the same NTP servers (timedatectl set-ntp true)",
        ));
    }
    if good > 0 {
        let text = format!(
            "the clocks of {good} other hosts differ from this host's by at most {} s",
            CLOCK_DIFFERENCE_MAX.as_secs()
        );
        findings.push(Finding::ok(Check::Clocks, text));
    }
    if findings.is_empty() {
        findings.push(Finding::new(
            Check::Clocks,
            Level::NotChecked,
            "the clocks of other hosts: none tells its time",
            "start shoutd on this host and on others; then shoutdctl doctor",
        ));
    }
    findings
}
