//! Plots bars as SVG.

use std::fmt::Write;

use super::report::{Comparison, plain};
use super::ways::Way;

const WIDTH: f64 = 640.0;
/// The start of the bars and the end of the longest.
const LEFT: f64 = 130.0;
const RIGHT: f64 = 520.0;
const TOP: f64 = 44.0;
const STEP: f64 = 30.0;

/// Where a value is on the horizontal axis, whose last value is `longest`.
fn position(value: f64, longest: f64) -> f64 {
    LEFT + (RIGHT - LEFT) * value / longest
}

/// A bar for each measured way, as long as the median, with a line from the smallest to the largest
/// sample. `None` if nothing was measured.
pub(super) fn bars(comparison: &Comparison) -> Option<String> {
    let measured: Vec<_> = Way::ALL
        .into_iter()
        .filter_map(|way| comparison.spread(way).map(|spread| (way, spread)))
        .collect();
    let longest = measured.iter().map(|(_, spread)| spread.greatest).fold(0.0, f64::max);
    if longest <= 0.0 {
        return None;
    }
    let mut bars = String::new();
    let mut top = TOP;
    for (way, spread) in &measured {
        let color = if *way == Way::Shoutd { "#2a6fb0" } else { "#a9b4bf" };
        let (middle, end) = (top + 10.0, position(spread.median, longest));
        let greatest = position(spread.greatest, longest);
        _ = write!(
            bars,
            r##"<text x="{label}" y="{base}" text-anchor="end">{way}</text>
<rect x="{LEFT}" y="{top}" width="{width:.1}" height="20" fill="{color}"/>
<path d="M{least:.1} {middle}H{greatest:.1}" stroke="#222" stroke-width="1.5"/>
<text x="{value:.1}" y="{base}">{median}</text>
"##,
            label = LEFT - 8.0,
            base = top + 15.0,
            width = end - LEFT,
            least = position(spread.least, longest),
            value = greatest + 8.0,
            median = plain(spread.median),
        );
        top += STEP;
    }
    let height = top + 10.0;
    Some(format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}"
 viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="13">
<rect width="100%" height="100%" fill="#fff"/>
<text x="12" y="24" font-weight="bold">{title} ({unit})</text>
{bars}</svg>
"##,
        title = comparison.title,
        unit = comparison.unit,
    ))
}

/// A name for the plot's file.
pub(super) fn file_name(title: &str) -> String {
    let words: Vec<String> = title
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect();
    format!("{}.svg", words.join("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_what_was_measured() {
        let mut comparison = Comparison::new("TCP throughput", "Mbit/s");
        assert_eq!(bars(&comparison), None);
        comparison.add(Way::Shoutd, Some(100.0));
        comparison.add(Way::ByHand, None);
        let drawn = bars(&comparison).unwrap();
        assert!(drawn.contains(">shoutd<") && !drawn.contains(">by hand<"), "{drawn}");
        assert_eq!(
            file_name("multicast throughput 1 → 2, 1400 B"),
            "multicast-throughput-1-2-1400-b.svg"
        );
    }
}
