//! Commands in the log, with the version of their format.
//!
//! A host must not skip a command that it does not know: its state would differ from all others'
//! from then on. So it keeps the command unchanged in its log, and stops when it would have to
//! apply it. A newer build then continues from there.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use shoutd_core::cluster::{Cluster, Command, STATE_WITH_ENCRYPTION};

/// The newest version of commands and of agreed state that this build supports. Raised with every
/// command and every field of agreed state that an older build would not understand. What is
/// written carries the lowest version that supports it, so that hosts of different versions go on
/// together until the first command of the newer version.
pub const STATE_VERSION: u32 = STATE_WITH_ENCRYPTION;

/// Content with the lowest version that supports it.
pub trait Versioned {
    /// The version.
    fn version(&self) -> u32;
}

impl Versioned for Command {
    fn version(&self) -> u32 {
        self.state_version()
    }
}

impl Versioned for Cluster {
    fn version(&self) -> u32 {
        self.state_version()
    }
}

impl<T: Versioned> Versioned for &T {
    fn version(&self) -> u32 {
        T::version(self)
    }
}

/// A command of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Logged {
    /// This build can apply it.
    Known(Command),
    /// This build cannot apply it.
    Unknown(Unknown),
}

/// A command of a newer build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unknown {
    version: u32,
    why: String,
    raw: Value,
}

impl std::fmt::Display for Unknown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { version, why, .. } = self;
        write!(
            f,
            "the cluster agreed on something that this version of shoutd does not know (version \
             {version} of agreed state, "
        )?;
        write!(
            f,
            "this one knows {STATE_VERSION}: {why}): upgrade shoutd on this host; it then \
             continues where it stopped"
        )
    }
}

/// The format on disk and on the wire: `{"v":2,"content":...}`.
#[derive(Serialize, Deserialize)]
struct Envelope<T> {
    v: u32,
    content: T,
}

/// Wraps content in the lowest version that supports it.
pub fn enclose<T: Serialize + Versioned>(content: T) -> impl Serialize {
    Envelope { v: content.version(), content }
}

/// Unwraps an envelope, if this build understands its content.
///
/// # Errors
/// The content as it is, if this build does not understand it.
pub fn disclose<T: DeserializeOwned>(raw: Value) -> Result<T, Unknown> {
    let Envelope::<Value> { v: version, content } = match Envelope::deserialize(&raw) {
        Ok(envelope) => envelope,
        Err(error) => return Err(Unknown { version: 0, why: error.to_string(), raw }),
    };
    if version > STATE_VERSION {
        return Err(Unknown { version, why: "it is newer".to_owned(), raw });
    }
    T::deserialize(content).map_err(|error| Unknown { version, why: error.to_string(), raw })
}

impl From<Command> for Logged {
    fn from(command: Command) -> Self {
        Self::Known(command)
    }
}

impl Serialize for Logged {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Known(command) => enclose(command).serialize(serializer),
            Self::Unknown(unknown) => unknown.raw.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Logged {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(disclose(Value::deserialize(deserializer)?).map_or_else(Self::Unknown, Self::Known))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use shoutd_core::ClusterId;

    use super::*;

    #[test]
    fn commands_carry_their_version() {
        let logged = Logged::from(Command::Found { cluster: ClusterId::new(7) });
        let json = serde_json::to_value(&logged).unwrap();
        assert_eq!(
            json,
            json!({ "v": 2, "content": { "Found": { "cluster": ClusterId::new(7) } } }),
            "builds without encryption know it"
        );
        assert_eq!(serde_json::from_value::<Logged>(json).unwrap(), logged);
        let newer = Logged::from(Command::SetEncryption { always: true });
        assert_eq!(
            serde_json::to_value(&newer).unwrap(),
            json!({ "v": 3, "content": { "SetEncryption": { "always": true } } })
        );
    }

    #[test]
    fn an_unknown_command_is_kept_unchanged() {
        for raw in [
            json!({
                "v": STATE_VERSION + 1,
                "content": { "Paint": { "colour": "red" } },
                "more": [1, 2],
            }),
            json!({ "v": 1, "content": { "Paint": { "colour": "red" } } }),
            json!({ "v": STATE_VERSION + 1, "content": "RevokeTokens" }),
            json!("RevokeTokens"),
            json!(null),
        ] {
            let logged: Logged = serde_json::from_value(raw.clone()).unwrap();
            let Logged::Unknown(unknown) = &logged else { panic!("{logged:?}") };
            let text = unknown.to_string();
            assert!(text.contains("upgrade shoutd on this host") && !text.contains('\n'), "{text}");
            assert_eq!(serde_json::to_value(&logged).unwrap(), raw);
        }
    }
}
