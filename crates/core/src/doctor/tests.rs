use serde_json::json;

use super::*;
use crate::limits::FREE_SPACE_MIN;
use crate::plane::Tier;

/// A new host without faults.
fn new_host() -> Facts {
    Facts {
        kernel: KernelFacts {
            release: "6.18.0-1-amd64".to_owned(),
            tier: Ok(Tier::VxlanMdb),
            wireguard: true,
            userspace: Ok(()),
        },
        engine: Ok(EngineFacts { version: "28.5.2".to_owned(), swarm: false }),
        settings: SettingsFacts {
            file: "/etc/docker/daemon.json".into(),
            content: Settings::Absent,
        },
        ports: PortFacts::default(),
        rules: vec![Ok(RulesText { program: "nft list ruleset".to_owned(), text: String::new() })],
        peers: Vec::new(),
        disks: vec![DiskFacts {
            directory: "/var/lib/shoutd".into(),
            free: Ok(1 << 40),
            holds_state: false,
        }],
        boot: Boot::Unit { exists: false, enabled: false, before_docker: false },
        subnets: Ok(vec![used("172.17.0.0/16", "Docker network bridge")]),
        namespaces: Vec::new(),
        has_state: false,
        daemon: Err("it does not run".to_owned()),
        daemon_runs: false,
    }
}

fn used(subnet: &str, user: &str) -> UsedSubnet {
    let docker = user.starts_with("Docker");
    UsedSubnet { subnet: subnet.parse().unwrap(), user: user.to_owned(), docker }
}

/// A host that serves, with another one, without faults.
fn member() -> Facts {
    let status = json!({
        "version": "0.1.0", "pid": 7, "host": "00000000000000a1", "name": "h1",
        "address": "10.0.0.1:7789", "underlay_mtu": 1500, "agreed_ago": 40,
        "replication": "vxlan-mdb", "tunnel_probes": true, "membership": {"state": "member"},
        "role": "leader", "hosts": 2, "networks": 1, "endpoints": 1,
        "docker": {"state": "serving", "detail": "28.5.2"}, "problems": [],
    });
    let row = |id: &str, name: &str, this_host: bool| {
        json!({
            "id": id, "name": name, "address": "10.0.0.2:7789", "role": "voter", "reachable": true,
            "this_host": this_host, "tunnel": {"inbound": "carries", "outbound": "carries"},
        })
    };
    let network = json!({
        "id": "0123456789abcdef0123456789abcdef", "name": "foo", "vni": 0x10_0001,
        "subnets": ["10.9.0.0/16"], "options": {}, "internal": false, "origin": "h1",
        "hosts": ["h1", "h2"], "addresses": 2, "removal_waits_for": null,
    });
    let hosts = [row("00000000000000a1", "h1", true), row("00000000000000a2", "h2", false)];
    Facts {
        has_state: true,
        daemon_runs: true,
        daemon: Ok(DaemonFacts {
            status: serde_json::from_value(status).unwrap(),
            hosts: hosts.map(|row| serde_json::from_value(row).unwrap()).into(),
            networks: vec![serde_json::from_value(network).unwrap()],
            clocks: vec![ClockFacts { name: "h2".to_owned(), ahead: 40, uncertain: 2 }],
        }),
        boot: Boot::Unit { exists: true, enabled: true, before_docker: true },
        ..new_host()
    }
}

/// The cluster has encrypted networks, which work.
fn encrypts(facts: &mut Facts) {
    let daemon = daemon(facts);
    daemon.networks[0].encrypted = true;
    daemon.status.wireguard = Some(crate::sessions::WireguardView {
        tier: Some("kernel".to_owned()),
        port: Some(7792),
        peers: 1,
        sessions: 1,
    });
    let row = &mut daemon.hosts[1];
    row.encrypted_tunnel = row.tunnel;
    row.wireguard = Some(crate::sessions::PeerWireguard { port: 7000, handshake_ago: Some(9) });
}

#[test]
fn an_encrypted_tunnel_is_checked_and_its_port_named() {
    let mut facts = member();
    encrypts(&mut facts);
    let findings = examine(&facts);
    assert!(findings.iter().all(|finding| finding.level == Level::Ok), "{findings:#?}");
    let tunnel = daemon(&mut facts).hosts[1].encrypted_tunnel.as_mut().unwrap();
    tunnel.outbound = crate::tunnel::Carriage::Silent;
    let errors = of(Level::Error, &facts);
    assert!(errors[0].remedy.as_ref().unwrap().contains("port 7000"), "{errors:#?}");
    daemon(&mut facts).hosts[1].encrypted_tunnel = None;
    let open = of(Level::NotChecked, &facts);
    assert!(open.len() == 1 && open[0].text.contains("UDP port 7792"), "{open:#?}");
}

fn daemon(facts: &mut Facts) -> &mut DaemonFacts {
    facts.daemon.as_mut().unwrap()
}

/// The findings of this level.
fn of(level: Level, facts: &Facts) -> Vec<Finding> {
    examine(facts).into_iter().filter(|finding| finding.level == level).collect()
}

/// Checks that there is one finding worse than ok, and that it says so.
fn ensure_only(facts: &Facts, check: Check, level: Level, words: &str) {
    let findings = examine(facts);
    assert_eq!(worst(&findings), level, "{findings:#?}");
    let bad: Vec<_> = findings.iter().filter(|finding| finding.level > Level::NotChecked).collect();
    assert_eq!(bad.len(), 1, "{bad:#?}");
    assert!(bad[0].check == check && bad[0].text.contains(words), "{bad:#?}");
    assert!(bad[0].remedy.is_some() || check == Check::Daemon, "{bad:#?}");
}

#[test]
fn a_host_without_faults_is_well_and_what_cannot_be_told_is_said() {
    let findings = examine(&member());
    assert!(findings.iter().all(|finding| finding.level == Level::Ok), "{findings:#?}");
    assert_eq!(worst(&examine(&new_host())), Level::Ok);
    let open: Vec<_> =
        of(Level::NotChecked, &new_host()).iter().map(|finding| finding.check).collect();
    assert_eq!(open, [Check::Peers, Check::Tunnels, Check::Clocks, Check::Daemon]);
    assert!(of(Level::NotChecked, &new_host()).iter().all(|finding| finding.remedy.is_some()));
}

type Change = fn(&mut Facts);

/// A change that plants a fault, and what is found.
type Fault = (Change, Check, Level, &'static str);

/// Faults of the kernel and of Docker.
fn faults_below() -> [Fault; 6] {
    [
        (
            |facts| {
                facts.kernel.tier =
                    Err("this kernel has no VXLAN (why): `modprobe vxlan`".to_owned());
            },
            Check::Kernel,
            Level::Error,
            "no VXLAN",
        ),
        (|facts| facts.kernel.tier = Ok(Tier::Flood), Check::Kernel, Level::Warning, "flood"),
        (|facts| facts.kernel.release = "5.10.0".into(), Check::Kernel, Level::Warning, "forge"),
        (|facts| facts.engine = Err("too old".into()), Check::Docker, Level::Error, "too old"),
        (
            |facts| facts.settings.content = Settings::Invalid("EOF".into()),
            Check::Docker,
            Level::Error,
            "not valid JSON",
        ),
        (
            |facts| facts.settings.content = Settings::Valid { iptables: false },
            Check::Docker,
            Level::Warning,
            "iptables",
        ),
    ]
}

/// Other faults of a new host.
fn faults_of_a_host() -> [Fault; 7] {
    [
        (|facts| facts.ports.tcp = Some("in use".into()), Check::Ports, Level::Error, "7789/tcp"),
        (
            |facts| {
                let text = "table ip x {\nchain y {\ntype filter hook input priority 0; policy \
                            accept;\nudp dport 7789 drop\n}\n}";
                facts.rules = vec![Ok(RulesText { program: "nft".into(), text: text.into() })];
            },
            Check::Firewall,
            Level::Error,
            "udp dport 7789 drop",
        ),
        (
            |facts| {
                let failure = Some("connection refused".into());
                let address = "10.0.0.2:7789".parse().unwrap();
                facts.peers = vec![PeerPort { address, failure }];
            },
            Check::Peers,
            Level::Error,
            "10.0.0.2:7789",
        ),
        (
            |facts| facts.disks[0].free = Ok(FREE_SPACE_MIN - 1),
            Check::Disk,
            Level::Error,
            "only 15 MiB",
        ),
        (
            |facts| facts.namespaces = vec!["shout-1048576".into()],
            Check::Leftovers,
            Level::Warning,
            "shout-1048576",
        ),
        (
            |facts| {
                let docker = used("10.0.0.0/8", "Docker network a");
                facts.subnets = Ok(vec![docker, used("10.1.0.0/16", "interface b")]);
            },
            Check::Subnets,
            Level::Warning,
            "10.1.0.0/16 of interface b",
        ),
        (|facts| facts.has_state = true, Check::Daemon, Level::Error, "does not run"),
    ]
}

#[test]
fn each_fault_of_a_new_host_is_found() {
    for (change, check, level, words) in faults_below().into_iter().chain(faults_of_a_host()) {
        let mut facts = new_host();
        facts.boot = Boot::Unit { exists: true, enabled: true, before_docker: true };
        change(&mut facts);
        ensure_only(&facts, check, level, words);
    }
}

#[test]
fn each_fault_of_encryption_is_found() {
    let cases: [Fault; 4] = [
        (
            |facts| {
                encrypts(facts);
                let text = "table ip x {\nchain y {\ntype filter hook input priority 0; policy \
                            accept;\nudp dport 7792 drop\n}\n}";
                facts.rules = vec![Ok(RulesText { program: "nft".into(), text: text.into() })];
            },
            Check::Firewall,
            Level::Error,
            "drops 7792/udp: udp dport 7792 drop",
        ),
        (
            |facts| {
                encrypts(facts);
                let tunnel = daemon(facts).hosts[1].encrypted_tunnel.as_mut().unwrap();
                tunnel.outbound = crate::tunnel::Carriage::Silent;
            },
            Check::Tunnels,
            Level::Error,
            "nothing that h1 sends through the encrypted tunnel",
        ),
        (
            |facts| {
                encrypts(facts);
                facts.kernel.wireguard = false;
            },
            Check::Wireguard,
            Level::Warning,
            "the kernel has none",
        ),
        (
            |facts| {
                encrypts(facts);
                facts.kernel.wireguard = false;
                facts.kernel.userspace = Err("/dev/net/tun: no such file".into());
            },
            Check::Wireguard,
            Level::Error,
            "cannot encrypt",
        ),
    ];
    for (change, check, level, words) in cases {
        let mut facts = member();
        facts.disks[0].holds_state = true;
        change(&mut facts);
        ensure_only(&facts, check, level, words);
    }
}

#[test]
fn each_fault_of_a_member_is_found() {
    let cases: [Fault; 9] = [
        (
            |facts| daemon(facts).hosts[1].reachable = false,
            Check::Peers,
            Level::Error,
            "host h2 does not answer",
        ),
        (
            |facts| {
                let tunnel = daemon(facts).hosts[1].tunnel.as_mut().unwrap();
                tunnel.inbound = crate::tunnel::Carriage::SmallOnly;
                let problem = crate::tunnel::tunnel_problem("h2", "h1", tunnel.inbound).unwrap();
                // The status has it, too.
                daemon(facts).status.problems.push(problem.to_string());
            },
            Check::Tunnels,
            Level::Error,
            "large packets that h2 sends",
        ),
        (
            |facts| daemon(facts).clocks[0].ahead = -60_000,
            Check::Clocks,
            Level::Warning,
            "60 s behind",
        ),
        (
            |facts| facts.subnets = Ok(vec![used("10.9.8.0/24", "interface eth1")]),
            Check::Subnets,
            Level::Warning,
            "10.9.0.0/16 of network foo overlaps 10.9.8.0/24",
        ),
        (|facts| facts.disks[0].free = Ok(0), Check::Disk, Level::Warning, "only 0 KiB"),
        (
            |facts| {
                facts.boot = Boot::Unit { exists: true, enabled: true, before_docker: false };
            },
            Check::Boot,
            Level::Warning,
            "not ordered",
        ),
        (
            |facts| daemon(facts).status.problems = vec!["a table is full".into()],
            Check::Daemon,
            Level::Warning,
            "a table is full",
        ),
        (
            |facts| daemon(facts).status.agreed_ago = None,
            Check::Daemon,
            Level::Error,
            "no contact with the leader",
        ),
        (
            |facts| facts.namespaces = vec!["shout-1048576".into(); 1],
            Check::Leftovers,
            Level::Ok,
            "",
        ),
    ];
    for (change, check, level, words) in cases {
        let mut facts = member();
        facts.disks[0].holds_state = true;
        change(&mut facts);
        if level == Level::Ok {
            assert_eq!(worst(&examine(&facts)), Level::Ok, "{check} is no fault of a member");
        } else {
            ensure_only(&facts, check, level, words);
        }
    }
}

#[test]
fn a_frozen_daemon_is_an_error_with_its_remedy() {
    let mut facts = member();
    facts.daemon = Err("shoutd does not answer: continue it: kill -CONT 7".to_owned());
    let findings = of(Level::Error, &facts);
    assert_eq!(findings.len(), 1, "{findings:#?}");
    assert_eq!(findings[0].remedy.as_deref(), Some("kill -CONT 7"));
}
