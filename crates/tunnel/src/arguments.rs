//! What the process is told when it starts.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The first argument of a program that runs [`crate::serve`]: a hidden subcommand.
pub const SUBCOMMAND: &str = "wireguard";

/// The name of the process, as `ps`, `pkill` and `pidof` show it. It differs from the daemon's:
/// `pkill -x shoutd` must not cut encrypted networks.
pub const NAME: &str = "shoutd-wg";

/// What the process serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arguments {
    /// The file of the network namespace in which the TUN device is or will be.
    pub namespace: PathBuf,
    /// The name of the TUN device, at most 15 octets.
    pub device: String,
    /// The UDP port, in the network namespace of the process; 0 for any.
    pub port: u16,
    /// The control socket. Its directory exists.
    pub socket: PathBuf,
}

/// Why arguments are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArgumentError {
    /// An option is unknown.
    #[error("unknown option {0:?}")]
    Unknown(OsString),
    /// An option has no value.
    #[error("the option {0} needs a value")]
    NoValue(&'static str),
    /// An option is missing.
    #[error("the option {0} is missing")]
    Missing(&'static str),
    /// The value of an option is invalid.
    #[error("the value {1:?} of {0} is invalid")]
    Invalid(&'static str, OsString),
}

const NAMESPACE: &str = "--namespace";
const DEVICE: &str = "--device";
const PORT: &str = "--port";
const SOCKET: &str = "--socket";

impl Arguments {
    /// Parses the arguments that follow [`SUBCOMMAND`].
    ///
    /// # Errors
    /// An option is unknown, missing or invalid. Of an option given twice, the last counts.
    pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, ArgumentError> {
        let mut values: [(&'static str, Option<OsString>); 4] =
            [NAMESPACE, DEVICE, PORT, SOCKET].map(|name| (name, None));
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let Some((name, value)) = values.iter_mut().find(|(name, _)| argument == *name) else {
                return Err(ArgumentError::Unknown(argument));
            };
            *value = Some(arguments.next().ok_or(ArgumentError::NoValue(name))?);
        }
        let [namespace, device, port, socket] =
            values.map(|(name, value)| value.ok_or(ArgumentError::Missing(name)));
        let (device, port) = (device?, port?);
        Ok(Self {
            namespace: namespace?.into(),
            device: text(&device)
                .filter(|name| (1..=15).contains(&name.len()))
                .ok_or_else(|| ArgumentError::Invalid(DEVICE, device.clone()))?
                .to_owned(),
            port: text(&port)
                .and_then(|port| port.parse().ok())
                .ok_or_else(|| ArgumentError::Invalid(PORT, port.clone()))?,
            socket: socket?.into(),
        })
    }

    /// These arguments as text, without [`SUBCOMMAND`].
    pub fn to_arguments(&self) -> [OsString; 8] {
        [
            NAMESPACE.into(),
            self.namespace.clone().into(),
            DEVICE.into(),
            self.device.clone().into(),
            PORT.into(),
            self.port.to_string().into(),
            SOCKET.into(),
            self.socket.clone().into(),
        ]
    }

    /// A command that runs the process, from a program that calls [`crate::serve`] if its first
    /// argument is [`SUBCOMMAND`]. The process has a process group of its own, so that it does not
    /// end with a terminal's programs, reads nothing, and logs to the caller's stderr.
    ///
    /// A service manager may end all processes of a service: systemd does unless the unit has
    /// `KillMode=process` (systemd.kill(5)), or the process moves to a unit of its own.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.arg0(NAME).arg(SUBCOMMAND).args(self.to_arguments()).process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    }
}

fn text(value: &OsStr) -> Option<&str> {
    value.to_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments() -> Arguments {
        Arguments {
            namespace: "/run/netns/tunnel".into(),
            device: "shout-wg".into(),
            port: 7789,
            socket: "/run/tunnel.sock".into(),
        }
    }

    #[test]
    fn arguments_read_back_as_written() {
        let command = arguments().command(Path::new("/bin/shoutd"));
        let mut words = command.get_args().map(OsStr::to_owned);
        assert_eq!(words.next().unwrap(), SUBCOMMAND);
        assert_eq!(Arguments::parse(words), Ok(arguments()));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let parse = |words: &str| Arguments::parse(words.split(' ').map(OsString::from));
        assert_eq!(parse("--help"), Err(ArgumentError::Unknown("--help".into())));
        assert_eq!(parse("--port"), Err(ArgumentError::NoValue("--port")));
        assert_eq!(parse("--port 1 --device a"), Err(ArgumentError::Missing("--namespace")));
        let rest = "--namespace /n --socket /s";
        for (name, value, option) in
            [("sixteen-octets-x", "1", DEVICE), ("", "1", DEVICE), ("a", "65536", PORT)]
        {
            let refused = parse(&format!("{rest} --device {name} --port {value}"));
            assert!(matches!(refused, Err(ArgumentError::Invalid(o, _)) if o == option));
        }
    }
}
