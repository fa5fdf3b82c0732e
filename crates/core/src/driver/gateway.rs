//! Whether a container can have its gateway from shoutd.

/// Engines that end with a nil dereference when a network of a plugin is no longer the one with a
/// container's gateway (moby#51554).
const CRASHING: [&str; 3] = ["29.0.0", "29.0.1", "29.0.2"];

/// Whether an engine of this version crashes when containers with a gateway of shoutd end. Docker
/// attaches its own way out to them instead.
pub fn crashes_with_gateways(version: &str) -> bool {
    let number = version.split(['-', '+', '~']).next().unwrap_or(version);
    CRASHING.contains(&number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_releases_crash() {
        for (version, crashes) in [
            ("29.0.0", true),
            ("29.0.2", true),
            ("29.0.1-rd", true),
            ("29.0.3", false),
            ("29.0.20", false),
            ("28.5.2", false),
            ("20.10.24+dfsg1", false),
            ("dev", false),
        ] {
            assert_eq!(crashes_with_gateways(version), crashes, "{version}");
        }
    }
}
