//! All limits of shoutd, with reasons. What exceeds a limit is refused with a message that names
//! the limit.

use std::time::Duration;

/// UDP port of VXLAN and TCP port of the cluster, so that users open one port number in a firewall.
/// It is not VXLAN's 4789: on a Swarm node, Docker's overlay driver has a socket on that port with
/// other options. RFC 7348 allows any port.
pub const PORT: u16 = 7789;

/// UDP port of WireGuard, once a network is encrypted.
pub const ENCRYPTION_PORT: u16 = 7792;

/// The age at which a preshared key is replaced without being asked. A stolen key is of use until
/// then, and only together with the private key of one of its two hosts. A renewal costs each pair
/// one call and three small writes to disk, so a cluster of 1000 hosts could afford one an hour.
pub const PRESHARED_KEY_AGE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// TCP port at which a host serves its metrics, on loopback. It is outside of 9100 to 9999, which
/// Prometheus assigns to exporters and which is full.
pub const METRICS_PORT: u16 = 7790;

/// Networks of a host with metrics of their own. Each has some thirty series. With those of the
/// peers and names of usual length, the text stays below 2 MiB.
pub const METERED_NETWORKS_MAX: usize = 500;

/// Hosts per cluster. Head-end replication with one FDB entry per host and network works well past
/// this.
pub const HOSTS_MAX: usize = 1000;

/// Networks per cluster. Each costs a host one namespace, two devices and one UDP socket lookup.
pub const NETWORKS_MAX: usize = 4096;

/// Subnets per network that a user can ask for.
pub const SUBNETS_MAX: usize = 16;

/// Leases per network: the addresses of a /16.
pub const LEASES_PER_NETWORK_MAX: usize = 65_536;

/// Addresses per subnet that a host holds in stock, for containers that start while there is no
/// quorum.
pub const STOCK_MAX: usize = 8;

/// Options and labels per network. They are part of agreed state and are sent to every engine.
pub const PAIRS_MAX: usize = 128;
/// Octets of each text of an option or label; see [`PAIRS_MAX`].
pub const TEXT_BYTES_MAX: usize = 4096;

/// Subnets that one host reports to be in use by something other than shoutd.
pub const REPORTED_SUBNETS_MAX: usize = 512;

/// Routes among the reported subnets, after aggregation. A router may have any number of routes.
pub const REPORTED_ROUTES_MAX: usize = 128;

/// Tokens that are valid at a time. Users have one; tools that make single-use tokens have one per
/// host that they start at the same time.
pub const TOKENS_MAX: usize = 1000;

/// Approvals that are pending at a time.
pub const APPROVALS_MAX: usize = 1000;

/// Hosts that are enrolled and not yet admitted, at a time.
pub const ENROLLED_MAX: usize = 1000;

/// Removed hosts that are remembered, so that they are told of their removal when they come back.
pub const REMOVED_HOSTS_MAX: usize = 1000;

/// Certificate authorities that were replaced and are remembered. A host that was away for more
/// replacements must join again.
pub const FORMER_AUTHORITIES_MAX: usize = 4;

/// Octets of the certificate authority's certificate and sealed key, as text. They need about 2000.
pub const AUTHORITY_BYTES_MAX: usize = 16_384;

/// Voters per cluster. Five voters tolerate the loss of any two; more voters would make every
/// commit slower.
pub const VOTERS_MAX: usize = 5;

/// First VNI that is assigned. Users choose small numbers by hand, and Docker's overlay driver
/// starts at 4096.
pub const VNI_FIRST: u32 = 0x0010_0000;

/// A VNI that no network has: the highest one. A VXLAN device drops what it sends to its own host
/// with this VNI.
pub const VNI_NOWHERE: u32 = 0x00ff_ffff;

/// Groups per container, on kernels that can limit this (6.3). It is enough for several thousand
/// sockets or a test of 5,000 groups, and an eighth of a bridge's MDB, so that one container cannot
/// exhaust the MDB.
pub const GROUPS_PER_PORT_MAX: usize = 8192;

/// MAC addresses that a network learns from traffic on one host. Endpoints are pinned and do not
/// count, so these are virtual addresses (VRRP, CARP); programs use a handful each. More than that
/// are forged. Frames to an address that is not learned are flooded.
pub const LEARNED_MAX: usize = 1024;

/// Learned MAC addresses of all networks of a host. To read this many takes some milliseconds.
pub const LEARNED_SUM_MAX: usize = 16_384;

/// How long a network that learned too many addresses does not learn. It is the ageing time of the
/// kernel's FDB.
pub const LEARNING_SUSPENDED_FOR: Duration = Duration::from_secs(300);

/// MAC addresses in a network's VXLAN device on one host: one per endpoint, one per replicated
/// group, and the learned ones. The device counts them together.
pub const TUNNEL_ADDRESSES_MAX: usize = LEASES_PER_NETWORK_MAX + REPLICATED_MAX + LEARNED_MAX;

/// Octets that VXLAN adds to a frame's payload over an IPv4 underlay: inner Ethernet 14, VXLAN 8,
/// UDP 8, IPv4 20.
pub const OVERHEAD_IPV4: u16 = 50;
/// The same over an IPv6 underlay; the IPv6 header has 40 octets.
pub const OVERHEAD_IPV6: u16 = 70;
/// The minimum MTU of IPv6 (RFC 8200, section 5), in octets.
pub const MTU_MIN: u16 = 1280;

/// How long a command waits for agreement before the caller is told which hosts are missing. Longer
/// than an election, and shorter than Docker's users wait.
pub const AGREEMENT_DEADLINE: Duration = Duration::from_secs(10);

/// Groups per network that a host advertises. A host with more memberships is sent all multicast of
/// the network instead: surplus is better than loss.
pub const ADVERTISED_GROUPS_MAX: usize = 16_384;

/// Replication entries per network, for (\*,G) and (S,G): as many as a bridge's MDB has, about 30
/// MB of kernel memory. Groups beyond are sent to all hosts that have members of any of them.
pub const REPLICATED_MAX: usize = 65_536;

/// Retained (S,G) entries per group. No host selects these sources; the entries stay so that the
/// sources can be selected again without loss. Programs with source filters use a handful.
pub const KEPT_SOURCES_MAX: usize = 32;

/// Groups of members on other hosts, per network, that are reported to multicast routers in
/// containers: as many as are replicated selectively. A router keeps state for each.
pub const REPORTED_GROUPS_MAX: usize = REPLICATED_MAX;

/// Group-specific queries per network that are pending at a time. A querier sends fewer when a
/// container with many memberships ends. If there are more, all groups are reported.
pub const QUESTIONS_MAX: usize = 1024;

/// Sources per group that a host advertises, included or excluded. The kernel keeps 32 per bridge
/// port. A filter with more sources is widened, never narrowed.
pub const ADVERTISED_SOURCES_MAX: usize = 256;

/// Addresses per endpoint. Docker gives one of each family.
pub const ADVERTISED_ADDRESSES_MAX: usize = 16;

/// Items in one host's advertisement: endpoints, addresses, groups and sources. This is about 10 MB
/// on the peer. If a host has more, its networks with the most groups are advertised as having a
/// multicast router.
pub const ADVERTISED_ITEMS_MAX: usize = 100_000;

/// Items in one message: at most 2 MB of JSON, well below what a peer accepts in one request. A
/// larger change is sent in parts.
pub const MESSAGE_ITEMS_MAX: usize = 20_000;

/// Interval at which a host tells its peers that nothing has changed (keepalive).
pub const BEAT_INTERVAL: Duration = Duration::from_secs(2);

/// Time without a message after which a peer is not in sync: three keepalives, because one or two
/// may be late on a busy host.
pub const SILENCE_MAX: Duration = Duration::from_secs(6);

/// Time without a message after which a peer's advertisement is withdrawn. A reboot takes less.
/// After this, a silent host is sent only what is flooded.
pub const HOLD_TIME: Duration = Duration::from_secs(300);

/// Rate limit for messages from one peer: a burst, and the interval for each further message. A
/// host merges the changes made while a message is in flight, so a higher rate would not help.
pub const ADVERTISEMENTS_PER_HOST: (u32, Duration) = (100, Duration::from_millis(5));

/// Rejections that are kept per host and network. More do not help to find the cause.
pub const REJECTIONS_PER_NETWORK_MAX: usize = 64;

/// Rejections per host that are shown, and reported to that host.
pub const REPORTED_REJECTIONS_MAX: usize = 8;

/// How long a rejection that may pass by itself is not reported. It is longer than an election,
/// after which every host knows an agreed lease.
pub const REJECTION_GRACE: Duration = Duration::from_secs(15);

/// First and last interval at which a failed advertisement is repeated. The interval doubles each
/// time.
pub const ADVERTISE_RETRY_FIRST: Duration = Duration::from_millis(100);
/// See [`ADVERTISE_RETRY_FIRST`].
pub const ADVERTISE_RETRY_LAST: Duration = BEAT_INTERVAL;

/// Names per endpoint: the container's name and its aliases on the network.
pub const NAMES_PER_ENDPOINT_MAX: usize = 32;

/// Lines that shoutd writes to a container's hosts file. Programs read the whole file for each
/// lookup.
pub const HOSTS_LINES_MAX: usize = 4096;

/// Octets of such a line without its end. musl reads 511 octets at a time and takes the rest for
/// another line (`name_from_hosts`).
pub const HOSTS_LINE_BYTES_MAX: usize = 500;

/// Events that a host keeps for `shoutdctl events`: some days on an ordinary host.
pub const EVENTS_MAX: usize = 256;

/// Octets of each text of an event, which is one line.
pub const EVENT_TEXT_BYTES_MAX: usize = 1024;

/// Problems of one host that are shown. Users do not read more.
pub const PROBLEMS_SHOWN_MAX: usize = 100;

/// Memberships per network and host in the answer to which containers are members. It keeps the
/// answer within a peer's limit; users do not read more than some thousand lines.
pub const GROUP_MEMBERS_SHOWN_MAX: usize = 8192;

/// Other groups of a container among the facts of `shoutdctl why`. Users compare them by eye.
pub const FACT_GROUPS_MAX: usize = 64;

/// Sockets of a container among these facts.
pub const FACT_SOCKETS_MAX: usize = 64;

/// Addresses for which these facts say by which interface a container sends to them.
pub const FACT_DETOURS_MAX: usize = 1024;

/// Containers of a host among these facts. Their namespaces are entered one after the other, in
/// less than a millisecond each.
pub const FACT_CONTAINERS_MAX: usize = 1024;

/// How often a host sends probes through its tunnels, and asks its peers what they hear.
pub const PROBE_INTERVAL: Duration = Duration::from_secs(2);

/// How often it reads the probes that came.
pub const PROBE_POLL: Duration = Duration::from_millis(500);

/// How long no probe may arrive from a peer that sends them, until its tunnel counts as broken:
/// four probes. Users are told within 15 s, also on the peer, which asks.
pub const PROBE_SILENCE: Duration = Duration::from_secs(8);

/// Small probes that are counted for a peer's loss: those of the last 40 s.
pub const PROBES_COUNTED: usize = 20;

/// How often a host reads the sessions of its WireGuard device. Users are told of what WireGuard
/// lacks within 15 s.
pub const SESSIONS_POLL: Duration = Duration::from_secs(3);

/// How long a host may lack its WireGuard key or a session, until it counts as a problem: a
/// handshake that is lost is repeated after 5 s (`REKEY_TIMEOUT`).
pub const SESSION_GRACE: Duration = Duration::from_secs(11);

/// Containers of a host at which packets are counted at a time, with five sockets each. Each socket
/// looks at every packet of its device.
pub const COUNTED_CONTAINERS_MAX: usize = 64;

/// Other hosts at whose tunnels packets are counted at a time, with two sockets each. Each socket
/// looks at every packet of the underlay's device.
pub const COUNTED_HOSTS_MAX: usize = 32;

/// How often packets are counted on one host at a time. Whoever asks more often is told to wait.
pub const COUNTINGS_MAX: usize = 4;

/// The longest time for which packets are counted, in milliseconds. A peer answers a request within
/// 30 s.
pub const COUNTING_MS_MAX: u64 = 20_000;

/// Packets that are kept at one place for `shoutdctl capture`.
pub const KEPT_PACKETS_MAX: usize = 10_000;

/// Octets of all packets that one host keeps: a peer's answer has 16 MiB at most, and `shoutdctl`
/// reads 32 MiB from all hosts.
pub const KEPT_BYTES_MAX: usize = 1 << 20;

/// Datagrams of one probe of `shoutdctl trace`: one each 10 ms.
pub const TRACE_PROBES_MAX: u16 = 1000;

/// Hosts that ping each other at a time. Each request and each answer goes to all of them.
pub const PING_HOSTS_MAX: usize = 64;

/// Requests that a host sends for `shoutdctl ping`: one each 20 ms.
pub const PING_REQUESTS_MAX: u16 = 500;

/// Sources and groups of one network whose rates are measured at a time. More are not shown.
pub const RATED_FLOWS_MAX: usize = 4096;

/// Networks of a host whose rates are measured at a time, with one socket each.
pub const RATED_NETWORKS_MAX: usize = 256;

/// The longest time for which rates are measured, in milliseconds.
pub const RATED_MS_MAX: u64 = 10_000;

/// Commands `shoutdctl watch` that a daemon serves at a time. Each costs a comparison whenever
/// something changes.
pub const WATCHERS_MAX: usize = 16;

/// Lines of `shoutdctl watch` for what changes at once. Users do not read more.
pub const NEWS_MAX: usize = 1000;

/// How often the daemon tells a watcher that it is alive.
pub const WATCH_BEAT: Duration = Duration::from_secs(1);

/// How long a watcher hears nothing until it says that the daemon does not answer: several times
/// [`WATCH_BEAT`], as a busy host may be late.
pub const WATCH_SILENCE: Duration = Duration::from_secs(5);

/// Free disk space that a new host needs, in octets: several times the size of its files in
/// a cluster of a few hosts and networks.
pub const FREE_SPACE_MIN: u64 = 16 << 20;

/// How much the clocks of two hosts may differ without a warning. NTP keeps them within
/// milliseconds.
pub const CLOCK_DIFFERENCE_MAX: Duration = Duration::from_secs(5);
