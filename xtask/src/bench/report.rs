//! What was found, as Markdown.

use std::fmt::Write;

use super::machine_facts::Facts;
use super::statistics::Spread;
use super::ways::Way;

/// What a figure should be in relation to another way's.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bar {
    against: Way,
    ratio: f64,
    is_least: bool,
}

impl Bar {
    pub(super) fn at_least(against: Way, ratio: f64) -> Self {
        Self { against, ratio, is_least: true }
    }

    pub(super) fn at_most(against: Way, ratio: f64) -> Self {
        Self { against, ratio, is_least: false }
    }

    fn judge(self, ratio: f64) -> String {
        let met = if self.is_least { ratio >= self.ratio } else { ratio <= self.ratio };
        let sign = if self.is_least { "≥" } else { "≤" };
        format!("{sign} {:.2} × {}: {}", self.ratio, self.against, verdict(met))
    }
}

fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "**missed**" }
}

/// A figure of each way, one sample a round.
#[derive(Debug, Clone)]
pub(super) struct Comparison {
    pub(super) title: String,
    pub(super) unit: &'static str,
    bar: Option<Bar>,
    samples: Vec<(Way, Option<f64>)>,
}

impl Comparison {
    pub(super) fn new(title: impl Into<String>, unit: &'static str) -> Self {
        Self { title: title.into(), unit, bar: None, samples: Vec::new() }
    }

    pub(super) fn bar(mut self, bar: Bar) -> Self {
        self.bar = Some(bar);
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

    /// shoutd's figure divided by another's, round by round.
    pub(super) fn ratio(&self, against: Way) -> Option<Spread> {
        let rounds = self.of(Way::Shoutd).into_iter().zip(self.of(against));
        let ratios: Vec<f64> = rounds.filter_map(|(ours, theirs)| Some(ours? / theirs?)).collect();
        Spread::of(&ratios)
    }

    fn row(&self) -> String {
        let cell = |spread: Option<Spread>| spread.map_or("–".to_owned(), show);
        let mut row = format!("| {}, {} |", self.title, self.unit);
        for way in Way::ALL {
            _ = write!(row, " {} |", cell(self.spread(way)));
        }
        for way in [Way::ByHand, Way::Overlay] {
            _ = write!(row, " {} |", cell(self.ratio(way)));
        }
        let judged = self.bar.map(|bar| match self.ratio(bar.against) {
            Some(ratio) => bar.judge(ratio.median),
            None => "not measured".to_owned(),
        });
        _ = write!(row, " {} |", judged.unwrap_or_default());
        row
    }
}

/// A figure of shoutd alone, with the limit that it should not exceed, if there is one.
#[derive(Debug, Clone)]
pub(super) struct Finding {
    pub(super) title: String,
    pub(super) unit: &'static str,
    pub(super) samples: Vec<f64>,
    pub(super) most: Option<f64>,
    pub(super) remark: String,
}

impl Finding {
    fn row(&self) -> String {
        let Self { title, unit, samples, most, remark } = self;
        let spread = Spread::of(samples);
        let value = spread.map_or("not measured".to_owned(), show);
        let bar = match (most, spread) {
            (Some(most), Some(spread)) => {
                format!("≤ {}: {}", plain(*most), verdict(spread.median <= *most))
            }
            (Some(most), None) => format!("≤ {}: not measured", plain(*most)),
            (None, _) => String::new(),
        };
        format!("| {title}, {unit} | {value} | {bar} | {remark} |")
    }
}

/// All that is told.
#[derive(Debug)]
pub(super) struct Report<'a> {
    pub(super) facts: Facts,
    pub(super) rounds: u32,
    pub(super) comparisons: Vec<&'a Comparison>,
    pub(super) findings: &'a [Finding],
    pub(super) notes: &'a [String],
    /// Title and file of each plot.
    pub(super) plots: &'a [(String, String)],
}

/// The page's part that is the same each time.
const METHOD: &str = include_str!("method.md");

impl Report<'_> {
    pub(super) fn markdown(&self) -> String {
        let mut page = format!("{METHOD}\n## Figures\n\n{}\n", self.facts.describe());
        _ = writeln!(
            page,
            "{} rounds; each figure is the median, with the least and the greatest in brackets.\n",
            self.rounds
        );
        page.push_str("### Compared\n\n| figure |");
        for way in Way::ALL {
            _ = write!(page, " {way} |");
        }
        page.push_str(" shoutd / by hand | shoutd / overlay | bar |\n|---|---|---|---|---|---|---|---|\n");
        for comparison in &self.comparisons {
            _ = writeln!(page, "{}", comparison.row());
        }
        page.push_str("\n### shoutd\n\n| figure | measured | bar | |\n|---|---|---|---|\n");
        for finding in self.findings {
            _ = writeln!(page, "{}", finding.row());
        }
        if !self.notes.is_empty() {
            page.push_str("\n### What could not be measured\n\n");
            for note in self.notes {
                _ = writeln!(page, "* {}", note.replace('\n', " "));
            }
        }
        if !self.plots.is_empty() {
            page.push_str("\n### Plots\n");
            for (title, file) in self.plots {
                _ = write!(page, "\n![{title}]({file})\n");
            }
        }
        page
    }
}

fn show(spread: Spread) -> String {
    let Spread { median, least, greatest } = spread;
    if least.total_cmp(&greatest).is_eq() {
        return plain(median);
    }
    format!("{} ({}–{})", plain(median), plain(least), plain(greatest))
}

/// A number with as many digits as say something.
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
        assert_eq!(comparison.ratio(Way::ByHand), Some(Spread { median: 1.0, least: 0.5, greatest: 1.0 }));
        assert_eq!(comparison.ratio(Way::Overlay), None);
        assert!(comparison.row().ends_with("| 1 (0.50–1) | – | ≥ 0.97 × by hand: met |"), "{}", comparison.row());
    }

    #[test]
    fn a_missed_bar_is_marked() {
        assert!(compared([9.0; 3], [10.0; 3]).row().contains("**missed**"));
        let finding = Finding {
            title: "lost".to_owned(),
            unit: "packets",
            samples: vec![2.0],
            most: Some(0.0),
            remark: String::new(),
        };
        assert_eq!(finding.row(), "| lost, packets | 2 | ≤ 0: **missed** |  |");
    }
}
