//! Why `shoutdctl groups` shows nothing. Pure.

use crate::view::NetworkRow;

/// Why `shoutdctl groups` has no rows on the host `me`, in one line; limited to one network or
/// host, if given.
pub fn why_no_groups(
    me: &str,
    networks: &[NetworkRow],
    network: Option<&str>,
    host: Option<&str>,
) -> String {
    let wanted: Vec<_> = networks
        .iter()
        .filter(|row| network.is_none_or(|wanted| row.name.as_deref() == Some(wanted)))
        .collect();
    let subject =
        network.map_or_else(|| "any network".to_owned(), |network| format!("network {network}"));
    if wanted.iter().any(|row| row.hosts.iter().any(|host| host == me)) {
        let who = host.map_or_else(
            || "no container".to_owned(),
            |host| format!("no container of host {host}"),
        );
        let place = network.map_or_else(
            || format!("the networks of {me}"),
            |network| format!("network {network}"),
        );
        return format!("{who} is a member of a group on {place}");
    }
    let mut elsewhere: Vec<_> =
        wanted.iter().flat_map(|row| row.hosts.iter().map(String::as_str)).collect();
    elsewhere.sort_unstable();
    elsewhere.dedup();
    if elsewhere.is_empty() {
        return format!("no host has a container on {subject}");
    }
    let which = if elsewhere.len() == 1 { "" } else { "and one of " };
    let elsewhere = elsewhere.join(", ");
    format!(
        "{me} has no container on {subject}, and knows the groups of its own networks only: add \
         --host {which}{elsewhere}"
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_empty_list_of_groups_says_why() {
        let all: [(&str, &[&str]); 3] =
            [("foo", &["h1", "h2"]), ("bar", &["h2", "h3"]), ("idle", &[])];
        let networks: [NetworkRow; 3] = all.map(|(name, hosts)| {
            serde_json::from_value(json!({
                "id": "0123456789abcdef0123456789abcdef", "name": name, "vni": 0x10_0001,
                "subnets": [], "options": {}, "internal": false, "origin": "h1", "hosts": hosts,
                "addresses": 0, "removal_waits_for": null,
            }))
            .unwrap()
        });
        assert_eq!(
            why_no_groups("h1", &networks, None, None),
            "no container is a member of a group on the networks of h1"
        );
        assert_eq!(
            why_no_groups("h1", &networks, Some("foo"), Some("h2")),
            "no container of host h2 is a member of a group on network foo"
        );
        let why = why_no_groups("h1", &networks, Some("bar"), None);
        assert!(why.ends_with("add --host and one of h2, h3"), "{why}");
        let why = why_no_groups("h4", &networks, None, None);
        assert!(why.ends_with("add --host and one of h1, h2, h3"), "{why}");
        assert_eq!(
            why_no_groups("h4", &networks, Some("idle"), None),
            "no host has a container on network idle"
        );
        assert!(
            networks[0].is_called("foo")
                && networks[0].is_called("0123456789ab")
                && !networks[0].is_called("0123")
        );
    }
}
