//! `shoutdctl why`, `watch`, `support` and `doctor`: faults are planted, and each must be named.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests say what they expect by failing")]

mod why;

use std::process::ExitCode;

use shoutd_e2e::{Cluster, run_checks};

use crate::why::{
    doctor, encryption, faults, hosts, network, packets, page, ping, plane, silent, support,
    watching,
};

fn main() -> ExitCode {
    run_checks(
        || {
            let cluster = Cluster::up("why", 3)?;
            cluster.form([1, 2, 3])?;
            Ok(cluster)
        },
        &[
            ("planted faults in containers are named first", faults::in_containers),
            ("a daemon that does not run is named first", hosts::a_daemon_that_does_not_run),
            (
                "a tunnel that does not carry is known, though TCP is fine",
                hosts::a_tunnel_that_does_not_carry,
            ),
            ("what WireGuard lacks is named", encryption::what_wireguard_lacks),
            ("TCP is blocked, and what was joined goes on", network::only_tcp_is_blocked),
            ("more than the network's limit is named", network::more_than_the_limit),
            ("what is removed again and again is named", plane::what_is_removed_again_and_again),
            ("an engine that hangs is named, and its containers", plane::an_engine_that_hangs),
            ("another network of the same name is named", plane::another_network_of_the_name),
            ("a removed host is named", plane::a_removed_host),
            ("a trace counts packets, and names where they stop", packets::stop_at_each_place),
            ("a probe is counted exactly beside other traffic", packets::probes_are_exact),
            ("the page shows what the cluster does", page::shows_the_cluster),
            ("ping measures between all hosts", ping::all_hosts),
            ("--host shows what another host shows", ping::of_another_host),
            ("nothing is broken while members come and go", faults::members_come_and_go),
            ("what does not exist is said in one line", hosts::what_does_not_exist),
            ("watch shows what happens", watching::what_happens_is_shown),
            ("doctor finds planted faults, and none on healthy hosts", doctor::planted_faults),
            ("an archive for a report has no secret", support::the_archive_has_no_secret),
            (
                "watch, support and doctor name a silent daemon",
                silent::a_daemon_that_does_not_answer,
            ),
        ],
    )
}
