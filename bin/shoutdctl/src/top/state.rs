//! What `shoutdctl top` shows, and what its keys do. Without a terminal.

use std::cmp::Reverse;

use crossterm::event::{KeyCode, KeyModifiers};
use shoutd_core::rates::{RateRow, Top as Rates};

use super::Sort;
use crate::show::{cell, short};

/// Whether to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// Go on.
    Continue,
    /// Quit.
    Quit,
}

/// What is shown.
#[derive(Debug, Clone)]
pub struct State {
    /// The last rates.
    pub rates: Rates,
    sort: Sort,
    filter: String,
    is_typing: bool,
    is_paused: bool,
    fault: Option<String>,
}

impl State {
    /// Nothing yet, in this order.
    pub fn new(sort: Sort) -> Self {
        Self {
            rates: Rates::default(),
            sort,
            filter: String::new(),
            is_typing: false,
            is_paused: false,
            fault: None,
        }
    }

    /// New rates, or why there are none. While paused, the old ones stay.
    pub fn update(&mut self, answer: Result<Rates, String>) {
        match answer {
            Ok(rates) => {
                self.fault = None;
                if !self.is_paused {
                    self.rates = rates;
                }
            }
            Err(fault) => self.fault = Some(fault),
        }
    }

    /// Handles a key.
    pub fn press(&mut self, key: KeyCode, modifiers: KeyModifiers) -> After {
        if modifiers.contains(KeyModifiers::CONTROL) {
            return if key == KeyCode::Char('c') { After::Quit } else { After::Continue };
        }
        if self.is_typing {
            match key {
                KeyCode::Enter => self.is_typing = false,
                KeyCode::Esc => {
                    self.filter.clear();
                    self.is_typing = false;
                }
                KeyCode::Backspace => _ = self.filter.pop(),
                KeyCode::Char(letter) => self.filter.push(letter),
                _ => {}
            }
            return After::Continue;
        }
        match key {
            KeyCode::Char('q') => return After::Quit,
            KeyCode::Char(' ') => self.is_paused = !self.is_paused,
            KeyCode::Char('/') => self.is_typing = true,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Char('p') => self.sort = Sort::Packets,
            KeyCode::Char('b') => self.sort = Sort::Bits,
            KeyCode::Char('c') => self.sort = Sort::Copies,
            KeyCode::Char('r') => self.sort = Sort::Receivers,
            KeyCode::Char('n') => self.sort = Sort::Network,
            KeyCode::Char('g') => self.sort = Sort::Group,
            KeyCode::Char('s') => self.sort = Sort::Sender,
            _ => {}
        }
        After::Continue
    }

    /// The screen: a summary, the table, and the keys or the fault.
    pub fn lines(&self, width: usize, height: usize) -> Vec<String> {
        let rows = self.rows();
        let total = |rate: fn(&RateRow) -> f64| short(rows.iter().map(|row| rate(row)).sum());
        let mut lines = vec![format!(
            "{} packets/s, {} bits/s, {} copies/s (flooded: {}){}",
            total(|row| row.packets),
            total(|row| row.bits),
            total(|row| row.copies),
            total(|row| row.flooded),
            if self.is_paused { "  PAUSED" } else { "" },
        )];
        lines.extend(self.table(width));
        lines.truncate(height.saturating_sub(1));
        lines.push(match (&self.fault, self.is_typing) {
            (Some(fault), _) => cell(fault),
            (None, true) => format!("filter: {}_", cell(&self.filter)),
            (None, false) if !self.filter.is_empty() => {
                format!("filter: {} (Esc ends it)", cell(&self.filter))
            }
            (None, false) => "p b c r n g s: sort   /: filter   space: pause   q: quit".to_owned(),
        });
        lines.into_iter().map(|line| fit(&line, width)).collect()
    }

    /// The table with its header, and what is missing.
    pub fn table(&self, width: usize) -> Vec<String> {
        // Numbers take 44 columns with the spaces between them.
        let names = width.saturating_sub(44).max(30);
        let (network, group) = (names / 4, names * 3 / 8);
        let sender = names - network - group;
        let line = |texts: [&str; 8]| {
            let [on, to, from, packets, bits, copies, flooded, receivers] = texts;
            let (on, to, from) = (fit(on, network), fit(to, group), fit(from, sender));
            format!(
                "{on:network$} {to:group$} {from:sender$} {packets:>8} {bits:>8} {copies:>8} \
                 {flooded:>8} {receivers:>4}"
            )
        };
        let header = ["NETWORK", "GROUP", "SENDER", "PACKETS", "BITS", "COPIES", "FLOODED", "RECV"];
        let mut lines = vec![line(header)];
        let rows = self.rows();
        lines.extend(rows.iter().map(|row| {
            let name = row.sender.clone().unwrap_or_else(|| row.source.to_string());
            let about = if row.is_estimate { "~" } else { "" };
            line([
                &cell(&row.network),
                &row.group.to_string(),
                &cell(&format!("{name} on {}", row.host)),
                &format!("{about}{}", short(row.packets)),
                &format!("{about}{}", short(row.bits)),
                &format!("{about}{}", short(row.copies)),
                &format!("{about}{}", short(row.flooded)),
                &row.receivers.to_string(),
            ])
        }));
        if rows.is_empty() {
            let filtered = if self.filter.is_empty() { "" } else { " that the filter shows" };
            lines.push(format!("(no container sends multicast{filtered})"));
        }
        let silent = self.rates.silent.iter();
        lines.extend(silent.map(|(host, why)| format!("(no answer from {}: {})", host, cell(why))));
        lines
    }

    fn rows(&self) -> Vec<&RateRow> {
        let wanted = self.filter.to_lowercase();
        let shows = |row: &&RateRow| {
            let texts = [
                row.network.to_lowercase(),
                row.group.to_string(),
                row.source.to_string(),
                row.sender.as_deref().unwrap_or_default().to_lowercase(),
                row.host.to_lowercase(),
            ];
            texts.iter().any(|text| text.contains(&wanted))
        };
        let mut rows: Vec<&RateRow> = self.rates.rows.iter().filter(shows).collect();
        let by_rate = |rows: &mut Vec<&RateRow>, rate: fn(&RateRow) -> f64| {
            rows.sort_by(|a, b| rate(b).total_cmp(&rate(a)));
        };
        match self.sort {
            Sort::Packets => by_rate(&mut rows, |row| row.packets),
            Sort::Bits => by_rate(&mut rows, |row| row.bits),
            Sort::Copies => by_rate(&mut rows, |row| row.copies),
            Sort::Receivers => rows.sort_by_key(|row| Reverse(row.receivers)),
            Sort::Network => rows.sort_by(|a, b| a.network.cmp(&b.network)),
            Sort::Group => rows.sort_by_key(|row| row.group),
            Sort::Sender => rows.sort_by(|a, b| (&a.sender, a.source).cmp(&(&b.sender, b.source))),
        }
        rows
    }
}

/// Shortens a text to this many characters.
fn fit(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(width.saturating_sub(1)).collect();
    short.push('…');
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(network: &str, last: u8, packets: f64) -> RateRow {
        RateRow {
            network: network.to_owned(),
            group: [239, 1, 1, last].into(),
            source: [10, 0, 0, last].into(),
            sender: Some(format!("container-with-a-long-name-{last}")),
            host: "host1".to_owned(),
            packets,
            bits: 8000.0 * packets,
            copies: packets,
            flooded: 31.0 * packets,
            receivers: last.into(),
            is_estimate: last == 9,
        }
    }

    fn state() -> State {
        let mut state = State::new(Sort::Packets);
        let rows = vec![row("foo", 1, 100.0), row("bar", 9, 1_234_567.0), row("foo", 3, 50.0)];
        state.update(Ok(Rates { rows, silent: vec![("host2".to_owned(), "down".to_owned())] }));
        state
    }

    fn press(state: &mut State, keys: &str) {
        for key in keys.chars() {
            let key = if key == '\n' { KeyCode::Enter } else { KeyCode::Char(key) };
            assert_eq!(state.press(key, KeyModifiers::NONE), After::Continue);
        }
    }

    #[test]
    fn lines_fit_at_every_width_and_height() {
        let mut state = state();
        state.rates.rows[0].network = "a\nb".to_owned();
        for (width, height) in [(80, 24), (80, 3), (120, 50), (40, 2)] {
            let lines = state.lines(width, height);
            assert!(lines.len() <= height.max(1), "{lines:?}");
            for line in lines {
                assert!(line.chars().count() <= width && !line.contains('\n'), "{line:?}");
            }
        }
        assert!(state.table(80).iter().take(4).all(|line| line.chars().count() <= 80));
    }

    #[test]
    fn keys_sort_filter_pause_and_quit() {
        let mut state = state();
        let first = |state: &State| state.rows()[0].group.to_string();
        assert_eq!(first(&state), "239.1.1.9");
        press(&mut state, "g");
        assert_eq!(first(&state), "239.1.1.1");
        press(&mut state, "r");
        assert_eq!(first(&state), "239.1.1.9");
        press(&mut state, "/FOO\n");
        assert_eq!(state.rows().len(), 2);
        assert_eq!(state.press(KeyCode::Esc, KeyModifiers::NONE), After::Continue);
        assert_eq!(state.rows().len(), 3);
        press(&mut state, " ");
        state.update(Ok(Rates::default()));
        assert_eq!(state.rows().len(), 3);
        press(&mut state, " ");
        state.update(Err("the daemon does not answer".to_owned()));
        assert!(state.lines(80, 24).last().unwrap().contains("does not answer"));
        state.update(Ok(Rates::default()));
        assert!(state.lines(80, 24).iter().any(|line| line.contains("no container sends")));
        assert_eq!(state.press(KeyCode::Char('q'), KeyModifiers::NONE), After::Quit);
        assert_eq!(state.press(KeyCode::Char('c'), KeyModifiers::CONTROL), After::Quit);
    }
}
