//! The report, as Markdown.

use std::fmt::Write;

use super::machine_facts::Facts;
use super::statistics::Spread;
use super::ways::Way;

/// Ratios that differ by at most this are shown as one.
const NEARLY: f64 = 0.02;

/// The ratios that are shown: of one way, to another, and the column's title.
const RATIOS: [(Way, Way, &str); 3] = [
    (Way::Shoutd, Way::ByHand, "shoutd / by hand"),
    (Way::Shoutd, Way::Overlay, "shoutd / overlay"),
    (Way::Encrypted, Way::EncryptedByHand, "encrypted / WireGuard by hand"),
];

/// The target of a figure in relation to another way's.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bar {
    of: Way,
    against: Way,
    ratio: f64,
    is_least: bool,
}

impl Bar {
    pub(super) fn at_least(against: Way, ratio: f64) -> Self {
        Self { of: Way::Shoutd, against, ratio, is_least: true }
    }

    pub(super) fn at_most(against: Way, ratio: f64) -> Self {
        Self { of: Way::Shoutd, against, ratio, is_least: false }
    }

    /// The target of another way than shoutd's plain networks.
    pub(super) fn of(self, way: Way) -> Self {
        Self { of: way, ..self }
    }

    fn is_met(self, ratio: f64) -> bool {
        if self.is_least { ratio >= self.ratio } else { ratio <= self.ratio }
    }

    fn judge(self, ratio: f64) -> String {
        let sign = if self.is_least { "≥" } else { "≤" };
        let of = if self.of == Way::Shoutd { String::new() } else { format!("{} ", self.of) };
        let verdict = verdict(self.is_met(ratio));
        format!("{of}{sign} {:.2} × {}: {verdict}", self.ratio, self.against)
    }
}

fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "**missed**" }
}

/// A figure of all ways, with one sample per round.
#[derive(Debug, Clone)]
pub(super) struct Comparison {
    pub(super) title: String,
    pub(super) unit: &'static str,
    bars: Vec<Bar>,
    samples: Vec<(Way, Option<f64>)>,
}

impl Comparison {
    pub(super) fn new(title: impl Into<String>, unit: &'static str) -> Self {
        Self { title: title.into(), unit, bars: Vec::new(), samples: Vec::new() }
    }

    pub(super) fn bar(mut self, bar: Bar) -> Self {
        self.bars.push(bar);
        self
    }

    /// Adds the sample of a round; `None` if there is none.
    pub(super) fn add(&mut self, way: Way, value: Option<f64>) {
        self.samples.push((way, value));
    }

    fn of(&self, way: Way) -> Vec<Option<f64>> {
        self.samples.iter().filter(|(of, _)| *of == way).map(|(_, value)| *value).collect()
    }

    pub(super) fn spread(&self, way: Way) -> Option<Spread> {
        Spread::of(&self.of(way).into_iter().flatten().collect::<Vec<_>>())
    }

    /// The rounds in which shoutd was measured.
    pub(super) fn rounds(&self) -> usize {
        self.of(Way::Shoutd).into_iter().flatten().count()
    }

    /// One way's figure divided by another's, round by round.
    pub(super) fn ratio(&self, of: Way, against: Way) -> Option<Spread> {
        let rounds = self.of(of).into_iter().zip(self.of(against));
        let ratios: Vec<f64> = rounds.filter_map(|(ours, theirs)| Some(ours? / theirs?)).collect();
        Spread::of(&ratios)
    }

    /// One way's median divided by another's. If a figure has two usual values, it can differ from
    /// the median of the rounds' ratios.
    fn ratio_of_medians(&self, of: Way, against: Way) -> Option<f64> {
        Some(self.spread(of)?.median / self.spread(against)?.median)
    }

    fn row(&self) -> String {
        let mut row = format!("| {}, {} | {} |", self.title, self.unit, self.rounds());
        for way in Way::ALL {
            _ = write!(row, " {} |", self.spread(way).map_or("–".to_owned(), show));
        }
        for (of, against, _) in RATIOS {
            _ = write!(row, " {} |", self.ratio_cell(of, against));
        }
        let judged: Vec<_> = self.bars.iter().map(|bar| self.judge(*bar)).collect();
        _ = write!(row, " {} |", judged.join("; "));
        row
    }

    /// The ratio, with that of the medians if it differs.
    fn ratio_cell(&self, of: Way, against: Way) -> String {
        let of_medians = self.ratio_of_medians(of, against);
        let Some((ratio, of_medians)) = self.ratio(of, against).zip(of_medians) else {
            return "–".to_owned();
        };
        let also = differing(ratio.median, of_medians)
            .map(|other| format!("; {other}"))
            .unwrap_or_default();
        format!("{}{also}", show(ratio))
    }

    fn judge(&self, bar: Bar) -> String {
        let of_medians = self.ratio_of_medians(bar.of, bar.against);
        let Some((ratio, of_medians)) = self.ratio(bar.of, bar.against).zip(of_medians) else {
            return "not measured".to_owned();
        };
        let judged = bar.judge(ratio.median);
        if bar.is_met(ratio.median) == bar.is_met(of_medians) {
            return judged;
        }
        format!("{judged}, {} by the ratio of the medians", verdict(bar.is_met(of_medians)))
    }
}

/// The limit of a figure of shoutd alone, and the samples that must keep it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Limit {
    /// The median.
    Median(f64),
    /// Every one.
    Each(f64),
}

impl Limit {
    fn judge(self, spread: Option<Spread>) -> String {
        let (most, who) = match self {
            Self::Median(most) => (most, ""),
            Self::Each(most) => (most, "each "),
        };
        let judged = spread.map_or("not measured", |spread| match self {
            Self::Median(most) => verdict(spread.median <= most),
            Self::Each(most) => verdict(spread.greatest <= most),
        });
        format!("{who}≤ {}: {judged}", plain(most))
    }
}

/// A figure of shoutd alone, with its limit, if there is one.
#[derive(Debug, Clone)]
pub(super) struct Finding {
    pub(super) title: String,
    pub(super) unit: &'static str,
    pub(super) samples: Vec<f64>,
    pub(super) most: Option<Limit>,
    pub(super) remark: String,
}

impl Finding {
    fn row(&self) -> String {
        let Self { title, unit, samples, most, remark } = self;
        let spread = Spread::of(samples);
        let value =
            spread.map_or("not measured".to_owned(), |spread| show_all(spread, samples.len()));
        let bar = most.map(|most| most.judge(spread)).unwrap_or_default();
        format!("| {title}, {unit} | {value} | {bar} | {remark} |")
    }
}

/// The contents of the report.
#[derive(Debug)]
pub(super) struct Report<'a> {
    pub(super) facts: Facts,
    /// The requested rounds.
    pub(super) rounds: u32,
    pub(super) comparisons: Vec<&'a Comparison>,
    pub(super) findings: &'a [Finding],
    pub(super) notes: &'a [String],
    /// Title and file of each plot.
    pub(super) plots: &'a [(String, String)],
}

/// Columns of prose.
const COLUMNS: usize = 100;

/// The page's first lines.
const HEAD: &str = "# Benchmarks\n\n`cargo xtask bench` writes this page. Do not edit it.\n";

/// The page's text after the figures.
const METHOD: &str = include_str!("method.md");

impl Report<'_> {
    pub(super) fn markdown(&self) -> String {
        let facts = wrapped(&self.facts.describe(), "");
        let mut page = format!("{HEAD}\n## Figures\n\n{facts}\n\n");
        let rounds = format!(
            "{} rounds were requested; each row shows how many were measured. A figure is the \
             median, with the smallest and the largest sample in brackets. [Method](#method) says \
             how they are measured.",
            self.rounds
        );
        _ = writeln!(page, "{}\n", wrapped(&rounds, ""));
        page.push_str("### Compared\n\n| figure | rounds |");
        for way in Way::ALL {
            _ = write!(page, " {way} |");
        }
        page.push_str(
            &RATIOS.iter().map(|(_, _, title)| format!(" {title} |")).collect::<String>(),
        );
        let columns = 2 + Way::ALL.len() + RATIOS.len() + 1;
        _ = write!(page, " limit |\n|{}\n", "---|".repeat(columns));
        for comparison in &self.comparisons {
            _ = writeln!(page, "{}", comparison.row());
        }
        page.push_str("\n### shoutd\n\n| figure | measured | limit | |\n|---|---|---|---|\n");
        for finding in self.findings {
            _ = writeln!(page, "{}", finding.row());
        }
        if !self.notes.is_empty() {
            page.push_str("\n### What could not be measured\n\n");
            for note in self.notes {
                _ = writeln!(page, "{}", wrapped(&format!("* {note}"), "  "));
            }
        }
        if !self.plots.is_empty() {
            page.push_str("\n### Plots\n");
            for (title, file) in self.plots {
                _ = write!(page, "\n![{title}]({file})\n");
            }
        }
        page.push('\n');
        page.push_str(METHOD);
        page
    }
}

/// Breaks a paragraph into lines of at most [`COLUMNS`]; all but the first begin with `indent`.
fn wrapped(text: &str, indent: &str) -> String {
    let (mut lines, mut line) = (Vec::new(), String::new());
    for word in text.split_whitespace() {
        if !line.trim().is_empty() && line.chars().count() + 1 + word.chars().count() > COLUMNS {
            lines.push(std::mem::replace(&mut line, format!("{indent}{word}")));
        } else if line.is_empty() {
            line.push_str(word);
        } else {
            line.push(' ');
            line.push_str(word);
        }
    }
    lines.push(line);
    lines.join("\n")
}

fn show(spread: Spread) -> String {
    let Spread { median, least, greatest } = spread;
    if least.total_cmp(&greatest).is_eq() {
        return plain(median);
    }
    format!("{} ({}–{})", plain(median), plain(least), plain(greatest))
}

/// The same for this many samples.
fn show_all(spread: Spread, samples: usize) -> String {
    let Spread { median, least, greatest } = spread;
    if samples == 1 {
        return format!("{} (one sample)", plain(median));
    }
    if least.total_cmp(&greatest).is_eq() {
        return format!("{} (all {samples} samples)", plain(median));
    }
    format!("{} ({}–{}, {samples} samples)", plain(median), plain(least), plain(greatest))
}

/// The remark on the ratio of the medians, if it differs from the median of the ratios.
pub(super) fn differing(ratio: f64, of_medians: f64) -> Option<String> {
    let differs = (ratio - of_medians).abs() > NEARLY;
    differs.then(|| format!("of the medians {}", plain(of_medians)))
}

/// A number with its significant digits.
pub(super) fn plain(value: f64) -> String {
    if value.fract() == 0.0 || value.abs() >= 100.0 {
        format!("{value:.0}")
    } else if value.abs() >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compared(ours: [f64; 3], theirs: [f64; 3]) -> Comparison {
        let mut comparison = Comparison::new("speed", "m/s").bar(Bar::at_least(Way::ByHand, 0.97));
        for (ours, theirs) in ours.into_iter().zip(theirs) {
            comparison.add(Way::ByHand, Some(theirs));
            comparison.add(Way::Shoutd, Some(ours));
        }
        comparison
    }

    #[test]
    fn ratios_are_of_the_same_round() {
        let comparison = compared([10.0, 20.0, 5.0], [10.0, 20.0, 10.0]);
        assert_eq!(
            comparison.ratio(Way::Shoutd, Way::ByHand),
            Some(Spread { median: 1.0, least: 0.5, greatest: 1.0 })
        );
        assert_eq!(comparison.ratio(Way::Shoutd, Way::Overlay), None);
        assert!(
            comparison.row().ends_with("| 1 (0.50–1) | – | – | ≥ 0.97 × by hand: met |"),
            "{}",
            comparison.row()
        );
    }

    #[test]
    fn prose_is_broken_into_lines() {
        let words = "* ".to_owned() + &"word ".repeat(40);
        let lines = wrapped(&words, "  ");
        assert!(lines.lines().all(|line| line.chars().count() <= COLUMNS), "{lines}");
        assert!(lines.starts_with("* word") && lines.contains("\n  word"), "{lines}");
        assert_eq!(wrapped("short\ntext", "  "), "short text");
    }

    #[test]
    fn a_missed_bar_is_marked() {
        assert!(compared([9.0; 3], [10.0; 3]).row().contains("**missed**"));
        let finding = Finding {
            title: "lost".to_owned(),
            unit: "packets",
            samples: vec![2.0],
            most: Some(Limit::Median(0.0)),
            remark: String::new(),
        };
        assert_eq!(finding.row(), "| lost, packets | 2 (one sample) | ≤ 0: **missed** |  |");
    }

    #[test]
    fn one_sample_beyond_the_limit_is_enough_where_each_counts() {
        let finding = Finding {
            title: "lost".to_owned(),
            unit: "packets",
            samples: vec![0.0, 0.0, 1.0],
            most: Some(Limit::Each(0.0)),
            remark: String::new(),
        };
        assert_eq!(
            finding.row(),
            "| lost, packets | 0 (0–1, 3 samples) | each ≤ 0: **missed** |  |"
        );
    }

    #[test]
    fn a_different_ratio_of_the_medians_is_shown() {
        let comparison = compared([5.0, 12.0, 12.0], [10.0, 12.0, 5.0]);
        let row = comparison.row();
        assert!(
            row.contains("| 3 |") && row.contains("1 (0.50–2.40); of the medians 1.20"),
            "{row}"
        );
        assert!(row.ends_with("≥ 0.97 × by hand: met |"), "{row}");
        let row = compared([5.0, 10.0, 12.0], [10.0, 10.0, 12.0]).row();
        assert!(!row.contains("of the medians"), "{row}");
        let row = compared([9.0, 20.0, 30.0], [10.0, 10.0, 40.0]).row();
        assert!(row.ends_with("**missed**, met by the ratio of the medians |"), "{row}");
    }
}
