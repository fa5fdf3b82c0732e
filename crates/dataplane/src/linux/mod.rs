//! The Linux kernel of this host.

mod backup_querier;
mod counters;
mod counts;
mod early_joins;
mod encryption;
mod execute;
mod facts;
mod forwarding;
mod group_members;
mod handle;
mod keeper;
mod memberships;
mod observe;
mod ping;
mod rate_limiter;
mod rates;
mod registry;
mod reports;
mod source_filters;
mod stamps;
mod tunnel;
mod tunnel_probes;
mod underlay_filter;
mod way_out;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use counters::segment_counters;
pub use counts::{Counting, CountsWanted, send_probe};
use encryption::Encryption;
pub use encryption::{EncryptionSetup, WireguardTier, kernel_has_wireguard};
pub use facts::{Facts, FactsWanted, Subject, facts};
use forwarding::LinuxForwarding;
pub use group_members::group_members;
use handle::{SandboxHandle, SegmentHandle, Watch};
pub use keeper::Keeper;
use memberships::LinuxMemberships;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
pub use ping::{PingSockets, PingTo};
pub use rates::{Rated, measure};
use registry::Registry;
use shoutd_core::Vni;
use shoutd_core::limits::LEARNED_MAX;
use shoutd_core::plane::{Action, Observed, OwnerTag, namespace_vni};
use shoutd_netlink::{Link, Monitor, NamedNamespaces, Namespace, Route};
pub use tunnel_probes::TunnelProbes;
use underlay_filter::UnderlayFilterHandle;

use crate::forwarding::{ForwardingTables, MembershipSource};
use crate::kernel::Kernel;
use crate::kernel_error::KernelError;

/// The device group (`IFLA_GROUP`) of our devices: "shou" in ASCII. A device can be created in a
/// group, but its alias, which is the owner tag, can only be set later. So a device in the group
/// without a tag is the incomplete remainder of a crash.
const GROUP: u32 = 0x7368_6f75;

/// Learned FDB entries read or removed at once: enough to detect too many in the FDBs of a bridge
/// and of a VXLAN device together.
const LEARNED_READ_MAX: usize = 2 * LEARNED_MAX + 1;

/// How long a network's sockets for requests stay open after their last use.
const BUSY_FOR: Duration = Duration::from_secs(60);

/// The protocol of our MDB entries in VXLAN devices (`MDBE_ATTR_RTPROT`): a number that iproute2's
/// list does not assign, the ASCII code of "s".
pub(crate) const PROTOCOL: u8 = 115;

/// The Linux kernel, seen from the host's network namespace.
#[derive(Debug)]
pub struct LinuxKernel {
    host: Namespace,
    host_route: Route,
    host_monitor: Monitor,
    underlay_filter: UnderlayFilterHandle,
    encryption: Option<Encryption>,
    named: NamedNamespaces,
    /// Reports created and deleted names.
    names: Inotify,
    segments: BTreeMap<Vni, SegmentHandle>,
    sandboxes: BTreeMap<PathBuf, SandboxHandle>,
    /// Whether the kernel has IPv6.
    ipv6: bool,
    registry: Arc<Registry>,
}

impl LinuxKernel {
    /// Uses the calling thread's network namespace as the host's, and keeps segments in
    /// `directory`, usually [`NamedNamespaces::DEFAULT_DIRECTORY`].
    pub fn new(directory: impl Into<PathBuf>) -> Result<Self, KernelError> {
        let host = Namespace::current()?;
        let named = NamedNamespaces::new(directory);
        let names = watch(named.directory()).map_err(|error| KernelError::Watch {
            directory: named.directory().to_owned(),
            error,
        })?;
        // A crash leaves names without a namespace, which could be neither found nor deleted later.
        for name in named.list()? {
            if namespace_vni(&name).is_some() && named.open(&name)?.is_none() {
                named.delete(&name)?;
            }
        }
        Ok(Self {
            host_route: Route::open(&host)?,
            host_monitor: Monitor::links(&host)?,
            underlay_filter: UnderlayFilterHandle::open(&host)?,
            encryption: None,
            host,
            named,
            names,
            segments: BTreeMap::new(),
            sandboxes: BTreeMap::new(),
            ipv6: Path::new("/proc/sys/net/ipv6").exists(),
            registry: Registry::new().map_err(KernelError::Descriptor)?,
        })
    }
}

impl LinuxKernel {
    /// Lets it have encrypted networks.
    #[must_use]
    pub fn with_encryption(mut self, setup: EncryptionSetup) -> Self {
        self.encryption = Some(Encryption::new(setup));
        self
    }
}

impl Kernel for LinuxKernel {
    fn observe(&mut self, sandboxes: &BTreeSet<PathBuf>) -> Result<Observed, KernelError> {
        self.observe_all(sandboxes)
    }

    fn execute(&mut self, action: &Action) -> Result<(), KernelError> {
        self.execute_action(action)
    }

    fn forwarding(&self) -> Box<dyn ForwardingTables> {
        Box::new(LinuxForwarding::new(self.registry.clone()))
    }

    fn memberships(&self) -> Box<dyn MembershipSource> {
        Box::new(LinuxMemberships::new(self.registry.clone()))
    }

    fn wait(&mut self, wake: BorrowedFd<'_>, timeout: Duration) {
        let mut sources = vec![Source::Names(&self.names), Source::Host(&self.host_monitor)];
        sources.push(Source::Handle(&self.underlay_filter.watch));
        sources.extend(self.segments.values().flat_map(SegmentHandle::watches).map(Source::Handle));
        sources.extend(self.sandboxes.values().map(|sandbox| Source::Handle(&sandbox.watch)));
        let mut waiting = vec![PollFd::new(wake, PollFlags::POLLIN)];
        waiting.extend(
            sources.iter().map(|source| PollFd::new(source.descriptor(), PollFlags::POLLIN)),
        );
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match poll(&mut waiting, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
                Err(Errno::EINTR) => continue,
                Err(_) | Ok(0) => return,
                Ok(_) => {}
            }
            let mut is_over = waiting.first().is_some_and(is_ready);
            // All are drained, not only up to the first change.
            for (source, waiting) in sources.iter().zip(waiting.iter().skip(1)) {
                is_over |= is_ready(waiting) && source.drain();
            }
            if is_over {
                return;
            }
        }
    }
}

/// A source of change notifications.
enum Source<'a> {
    Names(&'a Inotify),
    Host(&'a Monitor),
    Handle(&'a Watch),
}

impl Source<'_> {
    fn descriptor(&self) -> BorrowedFd<'_> {
        match self {
            Self::Names(names) => names.as_fd(),
            Self::Host(monitor) => monitor.as_fd(),
            Self::Handle(watch) => watch.as_fd(),
        }
    }

    /// Reads all pending events and returns whether any is a change.
    fn drain(&self) -> bool {
        match self {
            Self::Names(names) => names.read_events().is_ok(),
            Self::Host(monitor) => monitor.drain(),
            Self::Handle(watch) => watch.drain(),
        }
    }
}

/// Watches a directory for names; creates it if necessary.
fn watch(directory: &Path) -> io::Result<Inotify> {
    std::fs::create_dir_all(directory)?;
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
    inotify.add_watch(
        directory,
        AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVE,
    )?;
    Ok(inotify)
}

/// Whether poll(2) reported anything for a descriptor.
fn is_ready(polled: &PollFd<'_>) -> bool {
    polled.any().unwrap_or(true)
}

/// The owner tag of a device, if it has one.
fn owner_tag(link: &Link) -> Option<OwnerTag> {
    link.alias.as_deref().and_then(|alias| alias.parse().ok())
}

/// Whether a device in a segment's namespace is ours.
fn is_ours(link: &Link) -> bool {
    owner_tag(link).is_some() || link.group == GROUP
}

/// Whether a device exists in every namespace: loopback, and the fallback devices of tunnel modules
/// (`net.core.fb_tunnels_only_for_init_net`), which cannot be deleted.
fn is_everywhere(link: &Link) -> bool {
    const FALLBACKS: [&str; 11] = [
        "lo", "tunl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "sit0", "ip6tnl0",
        "ip6gre0", "teql0",
    ];
    FALLBACKS.contains(&link.name.as_str())
}

/// Writes a setting of the calling thread's network namespace, which is the one that
/// `/proc/sys/net` shows.
fn write_setting(name: &str, value: &str) -> io::Result<()> {
    let path = Path::new("/proc/sys/net").join(name);
    std::fs::write(&path, value).map_err(|error| {
        io::Error::new(error.kind(), format!("cannot set {}: {error}", path.display()))
    })
}
