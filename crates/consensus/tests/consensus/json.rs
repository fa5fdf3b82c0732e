//! The log and the snapshots are JSON: commands and state must survive a round trip.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use shoutd_core::cluster::{
    Authority, Cluster, Command, Description, Outcome, Pass, Pool, Refusal, ReportedSubnet,
    Settings, Token, WantedAddress,
};
use shoutd_core::{ClusterId, Fingerprint, HostId, NetworkId, TokenHash};

fn host() -> impl Strategy<Value = HostId> {
    // A few small ids, so that commands interact, and the largest.
    prop_oneof![1..4_u64, Just(u64::MAX)].prop_map(|id| HostId::new(id).unwrap())
}

fn network() -> impl Strategy<Value = NetworkId> {
    (0..4_u8).prop_map(|id| format!("{id:064x}").parse().unwrap())
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z]{0,8}", any::<String>()]
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![(0..4_u8, 0..8_u8).prop_map(|(a, b)| IpAddr::from([10, 0, a, b])), any::<IpAddr>()]
}

fn subnet() -> impl Strategy<Value = IpNet> {
    (address(), 16..=28_u8)
        .prop_map(|(address, length)| IpNet::new(address, length).unwrap().trunc())
}

fn pairs() -> impl Strategy<Value = BTreeMap<String, String>> {
    btree_map(text(), text(), 0..3)
}

fn pool() -> impl Strategy<Value = Pool> {
    let auxiliary = btree_map(text(), address(), 0..3);
    (subnet(), proptest::option::of(address()), auxiliary).prop_map(
        |(subnet, gateway, auxiliary)| Pool {
            subnet,
            gateway,
            auxiliary,
            range: gateway.map(IpNet::from),
        },
    )
}

fn settings() -> impl Strategy<Value = Settings> {
    (vec(pool(), 0..3), pairs(), any::<bool>(), any::<bool>()).prop_map(
        |(pools, options, internal, ipv6)| Settings {
            pools,
            options,
            internal,
            ipv6,
            docker_ipam: ipv6,
            swarm: internal,
        },
    )
}

fn reported() -> impl Strategy<Value = ReportedSubnet> {
    (subnet(), text(), any::<bool>()).prop_map(|(subnet, user, exclusive)| ReportedSubnet {
        subnet,
        user,
        exclusive,
        remote: !exclusive,
    })
}

fn time() -> impl Strategy<Value = Duration> {
    (0..4_u64, 0..1_000_000_000_u32).prop_map(|(seconds, nanos)| Duration::new(seconds, nanos))
}

fn hash() -> impl Strategy<Value = TokenHash> {
    (0..3_u8).prop_map(|byte| TokenHash([byte; 32]))
}

fn key() -> impl Strategy<Value = Fingerprint> {
    (0..3_u8).prop_map(|byte| Fingerprint([byte; 32]))
}

fn admission() -> impl Strategy<Value = Command> {
    let token = (proptest::option::of(time()), proptest::option::of(0..3_u32));
    let pass = prop_oneof![hash().prop_map(Pass::Token), key().prop_map(Pass::Approval)];
    prop_oneof![
        ("[0-9a-f]{0,8}", "[0-9a-f]{0,8}").prop_map(|(certificate, sealed_key)| {
            Command::SetAuthority { authority: Authority { certificate, sealed_key } }
        }),
        ("[0-9a-f]{0,8}", "[0-9a-f]{0,8}").prop_map(|(certificate, sealed_key)| {
            let authority = Authority { certificate, sealed_key };
            Command::ReplaceAuthority { former: String::new(), authority }
        }),
        (hash(), token, time()).prop_map(|(hash, (expires, uses), now)| Command::AddToken {
            hash,
            token: Token { expires, uses },
            now
        }),
        Just(Command::RevokeTokens),
        (key(), time(), time()).prop_map(|(key, until, now)| Command::Approve { key, until, now }),
        (host(), pass, time()).prop_map(|(host, pass, now)| Command::Enroll { host, pass, now }),
        (host(), time()).prop_map(|(host, now)| Command::RemoveHost { host, now }),
    ]
}

fn command() -> impl Strategy<Value = Command> {
    let wanted = prop_oneof![
        address().prop_map(WantedAddress::Exactly),
        (subnet(), any::<u16>())
            .prop_map(|(subnet, count)| WantedAddress::Highest { subnet, count })
    ];
    let description =
        (text(), pairs(), any::<bool>()).prop_map(|(name, labels, attachable)| Description {
            swarm: attachable.then(|| name.clone()),
            name,
            labels,
            attachable,
            ..Description::default()
        });
    prop_oneof![
        admission(),
        any::<u128>().prop_map(|id| Command::Found { cluster: ClusterId::new(id) }),
        (host(), text(), address(), any::<u16>()).prop_map(|(host, name, ip, port)| {
            Command::AdmitHost { host, name, address: (ip, port).into() }
        }),
        btree_map(host(), (address(), any::<u16>()).prop_map(Into::into), 0..3)
            .prop_map(|hosts| Command::MoveHosts { hosts }),
        (host(), vec(reported(), 0..3))
            .prop_map(|(host, subnets)| Command::ReportSubnets { host, subnets }),
        (network(), host(), settings()).prop_map(|(id, origin, settings)| Command::CreateNetwork {
            id,
            origin,
            settings
        }),
        (network(), description)
            .prop_map(|(id, description)| Command::DescribeNetwork { id, description }),
        network().prop_map(|id| Command::RemoveNetwork { id }),
        any::<bool>().prop_map(|always| Command::SetEncryption { always }),
        (0..3_u64).prop_map(|to| Command::RotateTunnelKeys { to }),
        (network(), host(), wanted).prop_map(|(network, host, address)| {
            Command::ClaimAddress { network, host, address }
        }),
        (network(), host(), any::<u64>(), vec(address(), 0..4)).prop_map(
            |(network, host, claims, addresses)| {
                Command::ReleaseAddresses { network, host, claims, addresses }
            }
        ),
    ]
}

proptest! {
    #[test]
    fn commands_read_back(command in command()) {
        let json = serde_json::to_string(&command).unwrap();
        prop_assert_eq!(serde_json::from_str::<Command>(&json).unwrap(), command);
    }

    #[test]
    fn a_state_that_was_read_back_behaves_like_the_original(
        commands in vec(command(), 0..40),
        later in vec(command(), 0..10),
    ) {
        let mut cluster = Cluster::default();
        cluster.apply(&Command::Found { cluster: ClusterId::new(7) }).unwrap();
        for command in &commands {
            let result = cluster.apply(command);
            let json = serde_json::to_string(&result).unwrap();
            let read: Result<Outcome, Refusal> = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(read, result);
        }
        let json = serde_json::to_string(&cluster).unwrap();
        let mut copy: Cluster = serde_json::from_str(&json).unwrap();
        prop_assert_eq!(&copy, &cluster);
        // A host that starts from a snapshot must apply later commands like one with the whole
        // log.
        for command in &later {
            prop_assert_eq!(copy.apply(command), cluster.apply(command));
        }
    }
}
