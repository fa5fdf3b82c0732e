//! What `shoutdctl watch` shows: the changes from one [`Scene`] to the next. Pure.

mod news;
mod scene;

pub use news::{Line, News};
pub use scene::{Scene, SeenContainer, SeenHost, SeenMember};

use serde::{Deserialize, Serialize};

use crate::events::Event;
use crate::limits::NEWS_MAX;

/// Asks the daemon for lines from now on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskWatch {
    /// The time of the last event that the watcher knows, in milliseconds since 1970: later ones
    /// are repeated. `None` to repeat none.
    pub after: Option<u64>,
}

/// The lines with which a watcher begins: a summary, the events after the time `after` (in
/// milliseconds since 1970, of the last event that the watcher knows), and the current problems.
pub fn first_lines(now: &Scene, after: Option<u64>) -> Vec<Line> {
    let summary = News::Watching {
        host: now.host.clone(),
        version: now.version.clone(),
        hosts: now.hosts.len(),
        networks: now.networks.len(),
        containers: now.containers.len(),
        problems: now.problems.len(),
    };
    let missed = now.events.iter().rev().filter(|event| after.is_some_and(|at| event.last > at));
    let missed = missed.cloned().map(|event| News::Event { event });
    let problems = now.problems.iter().cloned().map(|problem| News::Problem { problem });
    let news = std::iter::once(summary).chain(missed).chain(problems);
    news.map(|news| Line { at: now.at, news }).collect()
}

/// The changes between two scenes, in the order in which users should read them. If there are more
/// than [`NEWS_MAX`], the last line says how many are left out. If scenes between the two were
/// not seen, the first line says so.
pub fn changes(before: &Scene, now: &Scene) -> Vec<Line> {
    let mut news = Vec::new();
    let scenes = now.number.saturating_sub(before.number).saturating_sub(1);
    news.extend((scenes > 0).then_some(News::Skipped { scenes }));
    news.extend(hosts(before, now));
    news.extend(networks(before, now));
    news.extend(containers(before, now));
    news.extend(members(before, now));
    news.extend(events(before, now));
    news.extend(problems(before, now));
    let surplus = news.len().saturating_sub(NEWS_MAX);
    news.truncate(NEWS_MAX);
    news.extend((surplus > 0).then_some(News::LeftOut { lines: surplus }));
    news.into_iter().map(|news| Line { at: now.at, news }).collect()
}

fn hosts(before: &Scene, now: &Scene) -> Vec<News> {
    let mut news = Vec::new();
    for (id, seen) in &now.hosts {
        let host = seen.name.clone();
        match before.hosts.get(id) {
            None => news.push(News::HostJoined { host }),
            Some(was) if was.reachable == seen.reachable => {}
            Some(_) if seen.reachable => news.push(News::HostReachable { host }),
            Some(_) => news.push(News::HostUnreachable { host }),
        }
    }
    let gone = before.hosts.iter().filter(|(id, _)| !now.hosts.contains_key(id));
    news.extend(gone.map(|(_, seen)| News::HostLeft { host: seen.name.clone() }));
    news
}

fn networks(before: &Scene, now: &Scene) -> Vec<News> {
    let new = now.networks.iter().filter(|(id, _)| !before.networks.contains_key(*id));
    let gone = before.networks.iter().filter(|(id, _)| !now.networks.contains_key(*id));
    let created = new.map(|(_, name)| News::NetworkCreated { network: name.clone() });
    created.chain(gone.map(|(_, name)| News::NetworkRemoved { network: name.clone() })).collect()
}

fn containers(before: &Scene, now: &Scene) -> Vec<News> {
    let gone = before.containers.iter().filter(|(id, _)| !now.containers.contains_key(*id));
    let gone = gone.map(|(_, seen)| News::ContainerDisconnected { container: seen.clone() });
    let new = now.containers.iter().filter(|(id, _)| !before.containers.contains_key(*id));
    let new = new.map(|(_, seen)| News::ContainerConnected { container: seen.clone() });
    let renamed = now.containers.iter().filter(|(id, seen)| {
        let was = before.containers.get(*id);
        !seen.names.is_empty() && was.is_some_and(|was| was.names != seen.names)
    });
    let renamed = renamed.map(|(_, seen)| News::ContainerNamed { container: seen.clone() });
    gone.chain(new).chain(renamed).collect()
}

fn members(before: &Scene, now: &Scene) -> Vec<News> {
    let left = before.members.difference(&now.members).cloned();
    let joined = now.members.difference(&before.members).cloned();
    let left = left.map(|member| News::GroupLeft { member });
    left.chain(joined.map(|member| News::GroupJoined { member })).collect()
}

/// The events that are new, or were recorded again, oldest first.
fn events(before: &Scene, now: &Scene) -> Vec<News> {
    let is_known = |event: &&Event| {
        before.events.iter().any(|known| {
            (known.kind, &known.subject, &known.text) == (event.kind, &event.subject, &event.text)
                && known.count >= event.count
        })
    };
    let new = now.events.iter().rev().filter(|event| !is_known(event));
    new.cloned().map(|event| News::Event { event }).collect()
}

/// The problems that began and ended. One in which only quantities changed is the same problem.
fn problems(before: &Scene, now: &Scene) -> Vec<News> {
    let mut over: Vec<&String> = before.problems.iter().collect();
    let mut news = Vec::new();
    for problem in &now.problems {
        let kind = without_quantities(problem);
        match over.iter().position(|known| without_quantities(known) == kind) {
            Some(known) => {
                over.remove(known);
            }
            None => news.push(News::Problem { problem: problem.clone() }),
        }
    }
    let ended = over.into_iter().map(|problem| News::ProblemEnded { problem: problem.clone() });
    ended.chain(news).collect()
}

/// A problem's text with `#` for each word that is a number, such as the age of something. Numbers
/// in names and addresses stay.
fn without_quantities(problem: &str) -> String {
    let words = problem.split(' ').map(|word| {
        let number = word.trim_matches(|c: char| c.is_ascii_punctuation());
        let is_number = !number.is_empty() && number.bytes().all(|octet| octet.is_ascii_digit());
        if is_number { "#" } else { word }
    });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests;
