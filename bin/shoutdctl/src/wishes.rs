//! Whether the running shoutd is as `shoutdctl start` was asked for. A running daemon, or a host
//! that is already in a cluster, ignores some of the arguments; then `start` says so and fails.

use std::path::Path;

use anyhow::{Result, bail};
use shoutd_cli::{DOCKER_SOCKET, Directories, PLUGIN_SOCKET, StartArguments, Switch};
use shoutd_core::joining::{PeerCheck, Peers, judge_peers};
use shoutd_core::view::{CheckPeers, DATA_DIRECTORY, Status, TokenView};
use shoutd_peer::{Prepared, Token};

use crate::control;

/// Compares the arguments with the running daemon. `token` is the text of the token, from whatever
/// source.
///
/// # Errors
/// Names the arguments that have no effect, why, and what to do, in one line.
pub async fn check(
    arguments: &StartArguments,
    token: Option<&str>,
    directories: &Directories,
    status: &Status,
) -> Result<()> {
    let mut unmet = settings(arguments, status);
    let token = token.map(str::parse::<Token>).transpose()?;
    let mut is_prepared = false;
    if let Some(token) = &token {
        let held: TokenView = control::get(directories, "/v1/token").await?;
        is_prepared = Prepared::from_token(token)?.is_some();
        if let Some(own) = held.cluster.filter(|own| *own != token.authority) {
            unmet.push(format!(
                "the token is for the cluster with fingerprint {}, but this host already belongs \
                 to the one with {own}; {LEAVE_FIRST}",
                token.authority
            ));
        }
    }
    if !arguments.peer_addresses.is_empty() {
        let asked = CheckPeers { addresses: arguments.peer_addresses.clone() };
        let checks: Vec<PeerCheck> = control::post(directories, "/v1/peers/check", &asked).await?;
        match judge_peers(&checks, is_prepared) {
            Peers::Met(ignored) => {
                for why in ignored {
                    eprintln!("(ignoring one of --peer-addresses: {why})");
                }
            }
            Peers::Unmet(why) => unmet.push(format!(
                "--peer-addresses is ignored, because this host already belongs to cluster {} and \
                 they do not: {why}; {LEAVE_FIRST}",
                status.cluster.map_or_else(|| "unknown".to_owned(), |id| id.to_string())
            )),
        }
    }
    if unmet.is_empty() {
        return Ok(());
    }
    bail!(
        "shoutd serves Docker on {} ({}), but not with these arguments: {}",
        status.name,
        status.address,
        unmet.join("; ")
    )
}

/// How the running daemon finds its address, as its rule is shown.
pub fn address_rule(status: &Status) -> String {
    status.address_rule.clone().unwrap_or_else(|| status.address.to_string())
}

const LEAVE_FIRST: &str = "to join another cluster, leave this one first: shoutdctl stop --leave";

/// Settings that a daemon reads only when it starts, and that differ from the arguments. An
/// argument that was not given does not differ.
pub fn settings(arguments: &StartArguments, status: &Status) -> Vec<String> {
    let mut unmet = Vec::new();
    if let Some(wanted) = arguments.replication.filter(|wanted| wanted.name() != status.replication)
    {
        unmet.push(format!(
            "the running daemon replicates multicast by {}, not by {wanted}; to change that, stop \
             it (shoutdctl stop) and start it again with --replication",
            status.replication
        ));
    }
    let probes = if status.tunnel_probes { Switch::On } else { Switch::Off };
    if arguments.tunnel_probes.is_some_and(|wanted| wanted != probes) {
        let (has, wanted) = if status.tunnel_probes { ("on", "off") } else { ("off", "on") };
        unmet.push(format!(
            "the running daemon has --tunnel-probes={has}; to change that, set tunnel-probes in \
             the configuration file and type shoutdctl config reload, or stop it (shoutdctl stop) \
             and start it again with --tunnel-probes={wanted}"
        ));
    }
    if let (Some(wanted), Some(has)) = (arguments.metrics_address, status.metrics_address)
        && wanted != has
    {
        unmet.push(format!(
            "the running daemon has --metrics-address {has}, not {wanted}; to change that, stop it \
             (shoutdctl stop) and start it again with --metrics-address"
        ));
    }
    let (choice, port) = (status.encryption.wireguard, status.encryption.wireguard_port);
    if let Some(wanted) = arguments.wireguard.filter(|wanted| *wanted != choice) {
        unmet.push(format!(
            "the running daemon has --wireguard={choice}, not {wanted}; to change that, stop it \
             (shoutdctl stop) and start it again with --wireguard"
        ));
    }
    if let Some(wanted) = arguments.wireguard_port.filter(|wanted| *wanted != port) {
        unmet.push(format!(
            "the running daemon has --wireguard-port={port}, not {wanted}; to change that, stop it \
             (shoutdctl stop) and start it again with --wireguard-port"
        ));
    }
    let paths: [(&str, &Path, &str, &Path); 3] = [
        ("--data-dir", &arguments.data_dir, DATA_DIRECTORY, &status.data_directory),
        ("--docker-socket", &arguments.docker_socket, DOCKER_SOCKET, &status.docker_socket),
        ("--plugin-socket", &arguments.plugin_socket, PLUGIN_SOCKET, &status.plugin_socket),
    ];
    for (option, wanted, default, has) in paths {
        // An older daemon does not report its paths.
        if wanted != Path::new(default) && wanted != has && has != Path::new("") {
            unmet.push(format!(
                "the running daemon has {option} {}, not {}; to change that, stop it first: \
                 shoutdctl stop",
                has.display(),
                wanted.display()
            ));
        }
    }
    unmet
}

#[cfg(test)]
mod tests {
    use clap::{Args, FromArgMatches};
    use serde_json::json;

    use super::*;

    fn unmet(line: &[&str]) -> String {
        let command = StartArguments::augment_args(clap::Command::new("start"));
        let matches = command.get_matches_from(["start"].iter().chain(line));
        let status = json!({
            "version": "0.1.0", "pid": 7, "host": "00000000000000a1", "name": "h1",
            "address": "10.0.0.1:7789", "underlay_mtu": 1500, "replication": "vxlan-mdb",
            "tunnel_probes": true, "metrics_address": "127.0.0.1:7790",
            "membership": {"state": "member"}, "role": "leader", "hosts": 1, "networks": 0,
            "endpoints": 0, "docker": {"state": "serving", "detail": "20.10"},
            "docker_socket": "/var/run/docker.sock", "data_directory": "/srv/shoutd",
            "plugin_socket": "/run/docker/plugins/shoutd.sock", "problems": [],
        });
        let status: Status = serde_json::from_value(status).unwrap();
        settings(&StartArguments::from_arg_matches(&matches).unwrap(), &status).join("; ")
    }

    #[test]
    fn settings_that_a_running_daemon_ignores_are_reported() {
        assert_eq!(unmet(&[]), "", "an argument that was not given does not differ");
        assert_eq!(unmet(&["--replication=vxlan-mdb", "--data-dir=/srv/shoutd"]), "");
        assert_eq!(unmet(&["--metrics-address=127.0.0.1"]), "");
        for (option, words) in [
            ("--replication=flood", ["vxlan-mdb", "not by flood"]),
            ("--tunnel-probes=off", ["has --tunnel-probes=on", "again with --tunnel-probes=off"]),
            ("--metrics-address=none", ["127.0.0.1:7790, not none", "start it again"]),
            ("--wireguard=kernel", ["--wireguard=auto", "not kernel"]),
            ("--wireguard-port=7793", ["--wireguard-port=7792", "not 7793"]),
            ("--data-dir=/srv/other", ["/srv/shoutd", "/srv/other"]),
            ("--docker-socket=/run/d.sock", ["/var/run/docker.sock", "/run/d.sock"]),
            ("--plugin-socket=/run/p.sock", ["/run/docker/plugins/shoutd.sock", "/run/p.sock"]),
        ] {
            let text = unmet(&[option]);
            assert!(
                words.iter().all(|word| text.contains(word)) && text.contains("shoutdctl stop"),
                "{text}"
            );
        }
    }
}
