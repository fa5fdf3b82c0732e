//! Values of labels: one for each network and each peer, and never the same for two.

use std::collections::BTreeMap;

/// Octets of a title. Users who choose longer names do not read them in a graph.
const TITLE_BYTES_MAX: usize = 100;

/// Gives each of these its title; to those that share one, with their id in parentheses. A title
/// that could be taken for such a one gets its id, too.
pub fn unique<K: Ord + Clone>(
    named: impl IntoIterator<Item = (K, String)>,
    id: impl Fn(&K) -> String,
) -> BTreeMap<K, String> {
    let named: Vec<(K, String)> = named.into_iter().map(|(key, title)| (key, cut(title))).collect();
    let mut uses: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, title) in &named {
        *uses.entry(title).or_default() += 1;
    }
    let is_shared =
        |title: &str| title.ends_with(')') || uses.get(title).is_some_and(|uses| *uses > 1);
    let titles = named.iter().map(|(key, title)| {
        let title = if is_shared(title) { format!("{title} ({})", id(key)) } else { title.clone() };
        (key.clone(), title)
    });
    titles.collect()
}

/// The title up to its limit, and a dot for each character that cannot be seen.
fn cut(mut title: String) -> String {
    title.truncate(title.floor_char_boundary(TITLE_BYTES_MAX));
    title.replace(char::is_control, ".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_share_a_name_have_their_id_in_the_title() {
        let named = [(1, "web"), (2, "db"), (3, "web"), (4, "web (id 1)")];
        let named = named.map(|(key, name)| (key, name.to_owned()));
        let titles = unique(named, |key| format!("id {key}"));
        let expected = [(1, "web (id 1)"), (2, "db"), (3, "web (id 3)"), (4, "web (id 1) (id 4)")];
        assert_eq!(titles, expected.map(|(key, name)| (key, name.to_owned())).into());
    }

    #[test]
    fn long_and_strange_names_are_cut() {
        let named = [(1, "\u{e9}".repeat(99)), (2, format!("{}x", "\u{e9}".repeat(99)))];
        let titles = unique(named, |key| format!("id {key}"));
        let cut = "\u{e9}".repeat(50);
        assert_eq!(titles, [(1, format!("{cut} (id 1)")), (2, format!("{cut} (id 2)"))].into());
        let titles = unique([(1, "a\r\nb".to_owned())], |key| format!("id {key}"));
        assert_eq!(titles.get(&1).map(String::as_str), Some("a..b"));
    }
}
