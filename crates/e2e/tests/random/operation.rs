//! The operations that a run draws from.

use std::collections::BTreeSet;
use std::fmt;
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use shoutd_lab::{Host, IMAGE, Output};

/// The networks' names, each with the subnet that users may give.
const NETWORKS: [(&str, &str); 4] = [
    ("red", "10.91.0.0/24"),
    ("green", "10.92.0.0/24"),
    ("blue", "10.93.0.0/28"),
    ("grey", "10.94.0.0/16"),
];

/// Containers of one host.
const CONTAINERS: [&str; 4] = ["one", "two", "three", "four"];

/// How long a Docker command may take while shoutd is away: Docker gives up each plugin call after
/// 15 s, and the removal of a container from two networks takes six calls.
const COMMAND_DEADLINE: Duration = Duration::from_secs(150);

/// How much later than the engine a late shoutd is started.
const LATE: Duration = Duration::from_secs(2);

/// A user's command on one host. Docker may refuse it.
#[derive(Debug, Clone)]
pub enum Command {
    /// Creates a network.
    Create { network: &'static str, options: Vec<String>, waits: bool },
    /// Removes a network.
    Remove { network: &'static str, waits: bool },
    /// Removes all networks that no container of the host uses.
    Prune,
    /// Starts a new container, with `--restart=always` or not.
    Run { container: &'static str, network: &'static str, always: bool },
    /// Does something with a container.
    Container { verb: Verb, container: &'static str },
    /// Connects a container to a network.
    Connect { container: &'static str, network: &'static str },
    /// Disconnects a container from a network.
    Disconnect { container: &'static str, network: &'static str },
}

/// What can be done with a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Start,
    Stop,
    Kill,
    Restart,
    Pause,
    Unpause,
    Remove,
}

/// Trouble on a host. When [`Trouble::strike`] returns, it is over.
#[derive(Debug, Clone, Copy)]
pub enum Trouble {
    /// shoutd is killed, or stopped, and is away for so long.
    Shoutd { killed: bool, away: Duration },
    /// The engine is killed or stopped.
    Engine { killed: bool },
    /// Both are killed at once, and one of them is started first.
    Both { engine_first: bool },
    /// The cable is unplugged.
    Cable { away: Duration },
    /// The power fails and comes back.
    Power { shoutd_first: bool },
}

/// How often a user names something that does not exist, or creates something that does.
const MISTAKEN: f64 = 0.1;

/// The networks and containers that a user of a host knows.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// Networks of the cluster.
    pub networks: BTreeSet<&'static str>,
    /// Containers of the host.
    pub containers: BTreeSet<&'static str>,
}

impl Known {
    /// Picks one of `all` that is known, or one that is not; sometimes the other way round.
    fn choose<T: Copy>(random: &mut StdRng, all: &[T], is_wanted: impl Fn(T) -> bool) -> Option<T> {
        let mistaken = random.random_bool(MISTAKEN);
        let choice: Vec<T> =
            all.iter().copied().filter(|one| mistaken || is_wanted(*one)).collect();
        choice.choose(random).copied()
    }

    fn network(&self, random: &mut StdRng, there: bool) -> Option<(&'static str, &'static str)> {
        Self::choose(random, &NETWORKS, |(name, _)| self.networks.contains(name) == there)
    }

    fn container(&self, random: &mut StdRng, there: bool) -> Option<&'static str> {
        Self::choose(random, &CONTAINERS, |name| self.containers.contains(name) == there)
    }
}

impl Command {
    /// Draws a command, if there is anything to run it on.
    pub fn draw(random: &mut StdRng, known: &Known) -> Option<Self> {
        let waits = random.random_bool(0.3);
        let command = match random.random_range(0..100) {
            0..12 => {
                let (network, subnet) = known.network(random, false)?;
                let options: &[&str] = match random.random_range(0..4) {
                    0 => &[],
                    1 => &["--subnet", subnet],
                    2 => &["--ipam-driver", "shoutd", "--internal"],
                    _ => &["--ipam-driver", "shoutd"],
                };
                Self::Create {
                    network,
                    options: options.iter().map(|&word| word.to_owned()).collect(),
                    waits,
                }
            }
            12..18 => Self::Remove { network: known.network(random, true)?.0, waits },
            18..20 => Self::Prune,
            20..45 => {
                let (container, (network, _)) =
                    (known.container(random, false)?, known.network(random, true)?);
                Self::Run { container, network, always: random.random_bool(0.5) }
            }
            45..58 => {
                let (container, (network, _)) =
                    (known.container(random, true)?, known.network(random, true)?);
                Self::Connect { container, network }
            }
            58..64 => {
                let (container, (network, _)) =
                    (known.container(random, true)?, known.network(random, true)?);
                Self::Disconnect { container, network }
            }
            drawn => {
                let verb = match drawn {
                    64..70 => Verb::Start,
                    70..74 => Verb::Stop,
                    74..78 => Verb::Kill,
                    78..82 => Verb::Restart,
                    82..84 => Verb::Pause,
                    84..88 => Verb::Unpause,
                    _ => Verb::Remove,
                };
                Self::Container { verb, container: known.container(random, true)? }
            }
        };
        Some(command)
    }

    /// The command line.
    fn line(&self) -> Vec<String> {
        let words: Vec<&str> = match self {
            Self::Create { network, options, waits } => {
                let create: &[&str] = match waits {
                    true => &["shoutdctl", "network", "create", "--timeout", "10"],
                    false => &["docker", "network", "create", "--driver", "shoutd"],
                };
                create
                    .iter()
                    .copied()
                    .chain(options.iter().map(String::as_str))
                    .chain([*network])
                    .collect()
            }
            Self::Remove { network, waits: true } => {
                vec!["shoutdctl", "network", "rm", "--timeout", "10", network]
            }
            Self::Remove { network, waits: false } => vec!["docker", "network", "rm", network],
            Self::Prune => vec!["docker", "network", "prune", "--force"],
            Self::Run { container, network, always } => {
                let restart = if *always { "--restart=always" } else { "--restart=no" };
                let run = [
                    "docker",
                    "run",
                    "--detach",
                    "--init",
                    restart,
                    "--name",
                    container,
                    "--network",
                    network,
                ];
                run.into_iter().chain([IMAGE, "sleep", "100000"]).collect()
            }
            Self::Container { verb, container } => {
                let verb: &[&str] = match verb {
                    Verb::Start => &["start"],
                    Verb::Stop => &["stop", "--time", "1"],
                    Verb::Kill => &["kill"],
                    Verb::Restart => &["restart", "--time", "1"],
                    Verb::Pause => &["pause"],
                    Verb::Unpause => &["unpause"],
                    Verb::Remove => &["rm", "--force"],
                };
                ["docker"].iter().chain(verb).chain([container]).copied().collect()
            }
            Self::Connect { container, network } => {
                vec!["docker", "network", "connect", network, container]
            }
            Self::Disconnect { container, network } => {
                vec!["docker", "network", "disconnect", network, container]
            }
        };
        words.into_iter().map(str::to_owned).collect()
    }

    /// Does it.
    pub fn run(&self, host: &Host) -> Result<Output> {
        host.run_for(COMMAND_DEADLINE, self.line())
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line().join(" "))
    }
}

impl Trouble {
    /// Draws one.
    pub fn draw(random: &mut StdRng) -> Self {
        let away = Duration::from_millis(random.random_range(0..3000));
        match random.random_range(0..20) {
            0..8 => Self::Shoutd { killed: random.random_bool(0.7), away },
            8..12 => Self::Engine { killed: random.random_bool(0.5) },
            12..14 => Self::Both { engine_first: random.random_bool(0.5) },
            14..18 => Self::Cable { away: away * 3 },
            _ => Self::Power { shoutd_first: random.random_bool(0.7) },
        }
    }

    /// Makes it happen, and ends it.
    pub fn strike(self, host: &Host) -> Result<()> {
        match self {
            Self::Shoutd { killed, away } => {
                if killed { host.kill_shoutd() } else { host.stop_shoutd() }?;
                thread::sleep(away);
                host.start_shoutd(&[]).map(|_| ())
            }
            Self::Engine { killed } => {
                if killed { host.kill_engine() } else { host.stop_engine() }?;
                host.start_engine()
            }
            Self::Both { engine_first } => {
                host.kill_shoutd()?;
                host.kill_engine()?;
                start_both(host, !engine_first)
            }
            Self::Cable { away } => {
                host.cut()?;
                thread::sleep(away);
                host.mend()
            }
            Self::Power { shoutd_first } => {
                host.power_off()?;
                host.boot()?;
                start_both(host, shoutd_first)
            }
        }
    }
}

/// An engine that starts first waits for shoutd before it answers: 15 s for each network without
/// shoutd.
fn start_both(host: &Host, shoutd_first: bool) -> Result<()> {
    if shoutd_first {
        host.boot_shoutd()?;
        host.start_engine()?;
    } else {
        thread::scope(|scope| {
            let engine = scope.spawn(|| host.start_engine());
            thread::sleep(LATE);
            host.boot_shoutd()?;
            engine.join().unwrap_or_else(|_| bail!("a thread panicked"))
        })?;
    }
    // As a user would, to check that it serves.
    host.start_shoutd(&[]).map(|_| ())
}
