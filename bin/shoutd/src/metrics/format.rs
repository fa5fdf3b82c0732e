//! The two text formats: OpenMetrics 1.0, as the client library writes it, and Prometheus' text
//! format 0.0.4, which older programs and `promtool check metrics` read.

use std::fmt::Write;

/// A format of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' text format 0.0.4.
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

/// The media type of OpenMetrics.
const OPEN_METRICS: &str = "application/openmetrics-text";

impl Format {
    /// The format for this `Accept` header: OpenMetrics if it is named and not less wanted than
    /// text.
    pub fn negotiate(accept: &str) -> Self {
        let (mut open_metrics, mut text) = (0.0_f32, 0.0_f32);
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
            let (mut quality, mut is_known) = (1.0_f32, true);
            for (name, value) in parts.filter_map(|part| part.split_once('=')) {
                match name.trim().to_ascii_lowercase().as_str() {
                    "q" => quality = value.trim().parse().unwrap_or(0.0),
                    "version" => is_known = is_version(&kind, value.trim().trim_matches('"')),
                    _ => {}
                }
            }
            match kind.as_str() {
                OPEN_METRICS if is_known => open_metrics = quality.max(open_metrics),
                "text/plain" | "text/*" | "*/*" if is_known => text = quality.max(text),
                _ => {}
            }
        }
        if open_metrics > 0.0 && open_metrics >= text { Self::OpenMetrics } else { Self::Text }
    }

    /// The value of `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

fn is_version(kind: &str, version: &str) -> bool {
    if kind == OPEN_METRICS { ["1.0.0", "0.0.1"].contains(&version) } else { version == "0.0.4" }
}

/// Rewrites OpenMetrics text as Prometheus' text format: there, the name of a counter ends with
/// `_total` in its description, too, and nothing has a unit or an end.
pub fn prometheus_text(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let mut help = None;
    for line in open_metrics.lines() {
        if let Some(described) = line.strip_prefix("# HELP ") {
            help = described.split_once(' ');
        } else if let Some(described) = line.strip_prefix("# TYPE ") {
            let (name, kind) = described.split_once(' ').unwrap_or((described, "untyped"));
            let (suffix, kind) = match kind {
                "counter" => ("_total", kind),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                _ => ("", kind),
            };
            // A HELP line precedes each TYPE line. Writing to a string cannot fail.
            if let Some((_, words)) = help.take() {
                let _ = writeln!(text, "# HELP {name}{suffix} {words}");
            }
            let _ = writeln!(text, "# TYPE {name}{suffix} {kind}");
        } else if !line.starts_with('#') {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_gets_the_format_that_it_asks_for() {
        // Of Prometheus 2.42, 2.5 and 3.0, of curl, of a browser, and of a client without it.
        for (accept, format) in [
            (
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;\
                 version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                Format::OpenMetrics,
            ),
            (
                "application/openmetrics-text; version=0.0.1,text/plain;version=0.0.4;q=0.5,\
                 */*;q=0.1",
                Format::OpenMetrics,
            ),
            (
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
                 application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;\
                 escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
                Format::OpenMetrics,
            ),
            ("*/*", Format::Text),
            ("text/html,application/xhtml+xml,*/*;q=0.8", Format::Text),
            ("", Format::Text),
            ("text/plain;version=0.0.4;q=0.9,application/openmetrics-text;q=0.3", Format::Text),
            ("application/openmetrics-text;q=0", Format::Text),
            ("application/openmetrics-text;version=2.0.0", Format::Text),
            ("Application/OpenMetrics-Text; Version=\"1.0.0\"", Format::OpenMetrics),
            (";;;,,q=,application/openmetrics-text;q=x", Format::Text),
        ] {
            assert_eq!(Format::negotiate(accept), format, "{accept}");
        }
    }

    #[test]
    fn counters_have_their_suffix_in_their_description() {
        let open_metrics = "# HELP a_b Counted.\n# TYPE a_b counter\n# UNIT a_b b\na_b_total{x=\"# \
                            y\"} 1\n# HELP g A gauge.\n# TYPE g gauge\ng 2.5\n# HELP i Of.\n# TYPE \
                            i info\ni_info{v=\"1\"} 1\n# EOF\n";
        let text = "# HELP a_b_total Counted.\n# TYPE a_b_total counter\na_b_total{x=\"# y\"} 1\n\
                    # HELP g A gauge.\n# TYPE g gauge\ng 2.5\n# HELP i_info Of.\n# TYPE i_info \
                    gauge\ni_info{v=\"1\"} 1\n";
        assert_eq!(prometheus_text(open_metrics), text);
    }
}
