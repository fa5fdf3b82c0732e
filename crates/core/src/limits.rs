//! Every limit of shoutd, with its reason. What exceeds one is refused with a line that names it.

use std::time::Duration;

/// UDP port of VXLAN and TCP port of the cluster: one number to open in a firewall. It is not
/// VXLAN's 4789, because a Swarm node's own overlay has the socket on that port with options of its
/// own (RFC 7348 allows any port).
pub const PORT: u16 = 7789;

/// Hosts of one cluster. Head-end replication and one FDB entry per host and network stay
/// comfortable well past this.
pub const HOSTS_MAX: usize = 1000;

/// Networks of one cluster; each costs a host one namespace, two devices and one UDP lookup.
pub const NETWORKS_MAX: usize = 4096;

/// Subnets of one network and family that a user can ask for.
pub const SUBNETS_MAX: usize = 16;

/// Leases of one network: as many containers as a /16 can address.
pub const LEASES_PER_NETWORK_MAX: usize = 65_536;

/// Addresses of one subnet that a host holds in stock at the most, for containers to come while the
/// cluster cannot agree.
pub const STOCK_MAX: usize = 8;

/// Options and labels of one network, and the bytes of each of their texts: they are kept in agreed
/// state and sent to every engine.
pub const PAIRS_MAX: usize = 128;
/// See [`PAIRS_MAX`].
pub const TEXT_BYTES_MAX: usize = 4096;

/// Subnets that one host reports as used by others than shoutd.
pub const REPORTED_SUBNETS_MAX: usize = 512;

/// Routes among them, merged where they lie side by side: a host that routes for others may have
/// any number.
pub const REPORTED_ROUTES_MAX: usize = 128;

/// Tokens that are good at a time. People have one; tools that make single-use ones have as many as
/// hosts they start at once.
pub const TOKENS_MAX: usize = 1000;

/// Approvals that wait for their hosts at a time.
pub const APPROVALS_MAX: usize = 1000;

/// Hosts that were let in and are not admitted yet, at a time.
pub const ENROLLED_MAX: usize = 1000;

/// Removed hosts that are remembered, so that they are told so when they come back.
pub const REMOVED_HOSTS_MAX: usize = 1000;

/// Octets of the authority's certificate and sealed key, as text. They have about two thousand.
pub const AUTHORITY_BYTES_MAX: usize = 16_384;

/// Voters of one cluster: five survive the loss of any two, and more would make every commit
/// slower.
pub const VOTERS_MAX: usize = 5;

/// First VNI given out: below are the numbers people choose by hand, and 4096 upwards is where
/// Docker's overlay begins.
pub const VNI_FIRST: u32 = 0x0010_0000;

/// A VNI that no network has, the greatest there is: what a VXLAN device sends to its own host
/// under it is dropped.
pub const VNI_NOWHERE: u32 = 0x00ff_ffff;

/// Groups that one container may listen to at a time, on kernels that can hold it to that (6.3):
/// what several thousand sockets or a test of 5,000 groups need, and an eighth of what a bridge has
/// room for, so that one container alone does not crowd the others out.
pub const GROUPS_PER_PORT_MAX: usize = 8192;

/// MAC addresses that a network learns from traffic on one host: virtual ones, as endpoints' are
/// pinned and do not count. Programs that float addresses have a handful of each. More are made up
/// by somebody, and what is not learnt is sent to all.
pub const LEARNED_MAX: usize = 1024;

/// The same of all networks of a host together: to read as many takes some milliseconds.
pub const LEARNED_SUM_MAX: usize = 16_384;

/// How long a network learns nothing that has learnt too much: as long as the kernel remembers what
/// it learnt.
pub const LEARNING_SUSPENDED_FOR: Duration = Duration::from_secs(300);

/// MAC addresses that the VXLAN device of a network knows on one host: as many endpoints as a
/// network can have, as many groups as are sent apart, and those that are learnt. The device counts
/// them all alike.
pub const TUNNEL_ADDRESSES_MAX: usize = LEASES_PER_NETWORK_MAX + REPLICATED_MAX + LEARNED_MAX;

/// Octets that VXLAN adds to a frame's payload over an IPv4 underlay: inner Ethernet 14, VXLAN 8,
/// UDP 8, IPv4 20.
pub const OVERHEAD_IPV4: u16 = 50;
/// The same over IPv6, whose header has 40 octets.
pub const OVERHEAD_IPV6: u16 = 70;
/// The least MTU that IPv6 works with (RFC 8200, section 5).
pub const MTU_MIN: u16 = 1280;

/// How long one agreement may take before the caller is told who is missing. Shorter than Docker's
/// users' patience, longer than an election.
pub const AGREEMENT_DEADLINE: Duration = Duration::from_secs(10);

/// Groups of one network that a host announces. One that listens to more is sent all of the
/// network's multicast instead: loss is worse than surplus.
pub const ANNOUNCED_GROUPS_MAX: usize = 16_384;

/// Groups and sources of one network for which a host keeps apart to which others it sends them: as
/// many as a bridge has room for, some 30 MB of kernel memory. Those beyond are sent to all hosts
/// that want any of them.
pub const REPLICATED_MAX: usize = 65_536;

/// Sources of one group that nobody names any more and for which there still is an entry beside the
/// group's, so that they can be named again without loss. Programs that choose have a handful.
pub const KEPT_SOURCES_MAX: usize = 32;

/// Groups of one network's members on other hosts that are reported to multicast routers in
/// containers: as many as are sent apart. A router keeps state for each, mostly far fewer.
pub const REPORTED_GROUPS_MAX: usize = REPLICATED_MAX;

/// Groups that routers in the containers of one network asked about in the same instant. More than
/// one asks about when a container that listens to many ends; who asks about more is told of all
/// groups.
pub const QUESTIONS_MAX: usize = 1024;

/// Sources of one group that a host announces, ours or excluded; the kernel keeps 32 for each port
/// of a bridge. With more of them the filter is widened to let more through, never less.
pub const ANNOUNCED_SOURCES_MAX: usize = 256;

/// Addresses of one endpoint: Docker gives one of each family.
pub const ANNOUNCED_ADDRESSES_MAX: usize = 16;

/// What a host announces in all, counted in endpoints, addresses, groups and sources: about 10 MB
/// on the peer. With more of it, the networks with the most groups are announced as if a multicast
/// router were there.
pub const ANNOUNCED_ITEMS_MAX: usize = 100_000;

/// What one announcement carries, counted likewise: 2 MB of JSON at the most, well below what a
/// peer takes in one request. A larger change goes in parts.
pub const MESSAGE_ITEMS_MAX: usize = 20_000;

/// How often a host tells the hosts it shares networks with that nothing has changed.
pub const BEAT_INTERVAL: Duration = Duration::from_secs(2);

/// A host that was not heard for so long is not in sync any more: three beats, of which one or two
/// may come late on a busy host.
pub const SILENCE_MAX: Duration = Duration::from_secs(6);

/// How long what a silent host announced is kept. A reboot takes less; one that stays away longer
/// is sent nothing any more that only listeners get.
pub const HOLD_TIME: Duration = Duration::from_secs(300);

/// Announcements that a host takes from another: so many at once, and one more in each of these
/// times. A host merges what changes while an announcement is under way, so that more of them bring
/// nothing.
pub const ANNOUNCEMENTS_PER_HOST: (u32, Duration) = (100, Duration::from_millis(5));

/// Doubts about what a host announces of one network that are kept: whoever has that many is told
/// of enough.
pub const DOUBTS_PER_NETWORK_MAX: usize = 64;

/// Doubts that are shown of one host, and told to it.
pub const DOUBTS_TOLD_MAX: usize = 8;

/// How long a doubt that may pass by itself is kept from people: longer than an election, after
/// which a lease that was agreed on is known everywhere.
pub const DOUBT_GRACE: Duration = Duration::from_secs(15);

/// How soon an announcement that failed is tried again, at first and at last; it doubles in
/// between.
pub const ANNOUNCE_RETRY_FIRST: Duration = Duration::from_millis(100);
/// See [`ANNOUNCE_RETRY_FIRST`].
pub const ANNOUNCE_RETRY_LAST: Duration = BEAT_INTERVAL;

/// Names of one endpoint: its container's, and its aliases on the network.
pub const NAMES_PER_ENDPOINT_MAX: usize = 32;

/// Lines that shoutd keeps in a container's hosts file: programs read all of it for each name.
pub const HOSTS_LINES_MAX: usize = 4096;

/// Octets of one line there, without its end: musl reads 511 at a time, and takes the rest for
/// another line (`name_from_hosts`).
pub const HOSTS_LINE_BYTES_MAX: usize = 500;

/// Decisions that a host remembers for `shoutdctl events`: some days of an ordinary host's.
pub const EVENTS_MAX: usize = 256;

/// Octets of each text of such a decision: a line that people read.
pub const EVENT_TEXT_BYTES_MAX: usize = 1024;

/// Problems of one host that are shown: more lines than these nobody reads.
pub const PROBLEMS_SHOWN_MAX: usize = 100;

/// Memberships that are told of one network of one host when somebody asks which containers listen:
/// some thousand lines are all that people read, and what a peer answers has a limit too.
pub const LISTENERS_SHOWN_MAX: usize = 8192;
