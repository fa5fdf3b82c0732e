//! Objections to the removal of a host from its cluster.

/// The state of a host that a user wants to remove.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Removed<'a> {
    /// Its name.
    pub name: &'a str,
    /// Whether it is the host that got the command.
    pub is_this_host: bool,
    /// Whether it answers.
    pub is_alive: bool,
    /// Its containers on networks of the cluster, as text.
    pub containers: &'a [String],
}

/// Containers that an objection lists.
const NAMED_MAX: usize = 5;

/// Why a host is not removed without `--force`: it runs and would be cut off from the others. A
/// host that does not answer is removed without an objection.
pub fn objection(host: &Removed<'_>) -> Option<String> {
    let Removed { name, is_this_host, is_alive, containers } = *host;
    if !is_this_host && (!is_alive || containers.is_empty()) {
        return None;
    }
    let cut_off = match containers {
        [] => String::new(),
        some => {
            let named =
                some.iter().take(NAMED_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
            let more = some.len().saturating_sub(NAMED_MAX);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            format!(" and would cut its containers off from the others ({named}{more})")
        }
    };
    let (what, place) =
        if is_this_host { ("this host itself", "") } else { ("a running host", " there") };
    Some(format!(
        "host {name} is not removed: it is {what}{cut_off}; stop its containers and let it leave \
         by itself{place} (shoutdctl stop --leave), or use shoutdctl remove --force {name}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host<'a>(is_this_host: bool, is_alive: bool, containers: &'a [String]) -> Removed<'a> {
        Removed { name: "h2", is_this_host, is_alive, containers }
    }

    #[test]
    fn removal_is_refused_only_if_it_would_cut_off_a_running_host() {
        let some: Vec<_> = (0..7).map(|number| format!("web{number} on foo")).collect();
        assert_eq!(objection(&host(false, false, &some)), None, "a dead host");
        assert_eq!(objection(&host(false, true, &[])), None, "a host without containers");
        let text = objection(&host(false, true, &some)).unwrap();
        for words in
            ["web0 on foo", "and 2 more", "shoutdctl stop --leave", "shoutdctl remove --force h2"]
        {
            assert!(text.contains(words), "{words} is missing in: {text}");
        }
        let own = objection(&host(true, true, &[])).unwrap();
        assert!(own.contains("this host itself") && own.contains("--force"), "{own}");
    }
}
