//! The address at which a daemon serves its metrics.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::limits::METRICS_PORT;

/// What users type to turn the metrics off.
const OFF: &str = "none";

/// Where metrics are served. The default is [`METRICS_PORT`] on loopback.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub enum MetricsAddress {
    /// Nowhere.
    Off,
    /// At this address and TCP port.
    At(SocketAddr),
}

/// Text that is neither `none` nor an address of this host with a port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not an address at which this host can serve metrics (such as 127.0.0.1, \
     127.0.0.1:7790 or [::1]:7790), nor none"
)]
pub struct InvalidMetricsAddress(String);

impl Default for MetricsAddress {
    fn default() -> Self {
        Self::At(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), METRICS_PORT))
    }
}

impl FromStr for MetricsAddress {
    type Err = InvalidMetricsAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        if text == OFF {
            return Ok(Self::Off);
        }
        let unbracketed =
            text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        let address = unbracketed
            .parse::<IpAddr>()
            .map(|address| SocketAddr::new(address, METRICS_PORT))
            .or_else(|_| text.parse::<SocketAddr>());
        address
            .ok()
            .filter(|address| address.port() != 0 && !address.ip().is_multicast())
            .map(Self::At)
            .ok_or_else(|| InvalidMetricsAddress(text.chars().take(80).collect()))
    }
}

impl TryFrom<String> for MetricsAddress {
    type Error = InvalidMetricsAddress;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<MetricsAddress> for String {
    fn from(address: MetricsAddress) -> Self {
        address.to_string()
    }
}

impl fmt::Display for MetricsAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str(OFF),
            Self::At(address) => address.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_lack_its_port_and_none_turns_metrics_off() {
        for (text, shown) in [
            ("127.0.0.1", "127.0.0.1:7790"),
            (" 127.0.0.1:9 ", "127.0.0.1:9"),
            ("::1", "[::1]:7790"),
            ("[::1]", "[::1]:7790"),
            ("[::1]:80", "[::1]:80"),
            ("0.0.0.0:7790", "0.0.0.0:7790"),
            ("none", "none"),
        ] {
            let address: MetricsAddress = text.parse().unwrap();
            assert_eq!(address.to_string(), shown, "{text}");
            assert_eq!(shown.parse(), Ok(address), "{shown}");
        }
        assert_eq!(MetricsAddress::default().to_string(), "127.0.0.1:7790");
    }

    #[test]
    fn other_text_is_refused_in_one_line() {
        for text in ["", "7790", ":7790", "localhost", "127.0.0.1:0", "224.0.0.1", "off\nnone"] {
            let error = text.parse::<MetricsAddress>().unwrap_err().to_string();
            assert!(error.contains("nor none") && !error.contains('\n'), "{error}");
        }
    }
}
