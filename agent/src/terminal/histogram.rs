//! Histograms as the bcc tools print them: one row a power of two.
//!
//! The rows are exact: each bound is a power of two of a *second* and so a bound of the finer buckets
//! too, hence no count is shared out between rows. Only the printed bounds are rounded, unless exact
//! ones are asked for.

use std::fmt::Write as _;

use ctrscope_ebpf::histogram::{FIRST_BOUND_LOG2, LAST_BOUND_LOG2};

use super::{count, seconds};
use crate::snapshot::Histogram;

/// Letters of the longest bar.
const BAR_WIDTH: usize = 40;

/// Unit of the bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Microseconds.
    Microseconds,
    /// Milliseconds.
    Milliseconds,
}

impl Unit {
    fn title(self) -> &'static str {
        match self {
            Self::Microseconds => "usecs",
            Self::Milliseconds => "msecs",
        }
    }

    fn per_second(self) -> f64 {
        match self {
            Self::Microseconds => 1e6,
            Self::Milliseconds => 1e3,
        }
    }
}

/// One row: the durations above `lower` and up to `upper` seconds, both powers of two.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Octave {
    /// Lower bound, exclusive; 0 in the first row.
    pub lower_seconds: f64,
    /// Upper bound, inclusive; `None` in the last row, which has none.
    pub upper_seconds: Option<f64>,
    /// How many.
    pub count: u64,
}

/// The rows from the first to the last that is not empty.
#[must_use]
pub fn octaves(histogram: &Histogram) -> Vec<Octave> {
    let mut rows = Vec::new();
    let mut lower_seconds = 0.0;
    let mut below = 0;
    for log2 in FIRST_BOUND_LOG2..=LAST_BOUND_LOG2 {
        let up_to = histogram.count_up_to_log2(log2);
        let upper = f64::powi(2.0, log2);
        rows.push(Octave {
            lower_seconds,
            upper_seconds: Some(upper),
            count: up_to - below,
        });
        lower_seconds = upper;
        below = up_to;
    }
    rows.push(Octave {
        lower_seconds,
        upper_seconds: None,
        count: histogram.count() - below,
    });
    let last = rows.iter().rposition(|row| row.count > 0);
    rows.truncate(last.map_or(0, |last| last + 1));
    let first = rows.iter().position(|row| row.count > 0).unwrap_or(0);
    rows.split_off(first)
}

/// Renders the rows; nothing for an empty histogram.
#[must_use]
pub fn render_histogram(histogram: &Histogram, unit: Unit, exact: bool) -> String {
    let rows = octaves(histogram);
    let bound = |seconds: f64| bound_label(seconds * unit.per_second(), exact);
    let labels: Vec<(String, String)> = rows
        .iter()
        .map(|row| {
            let upper = row.upper_seconds.map_or_else(|| "...".to_owned(), bound);
            (bound(row.lower_seconds), upper)
        })
        .collect();
    let width = |texts: &mut dyn Iterator<Item = usize>| texts.max().unwrap_or(0).max(8);
    let lower_width = width(&mut labels.iter().map(|(lower, _)| lower.len()));
    let upper_width = width(&mut labels.iter().map(|(_, upper)| upper.len()));
    let most = rows.iter().map(|row| row.count).max().unwrap_or(0);
    let mut text = String::new();
    if most > 0 {
        let title_width = lower_width + 4 + upper_width;
        let title = unit.title();
        let _ = writeln!(text, "{title:>title_width$} : count      distribution");
    }
    for (row, (lower, upper)) in rows.iter().zip(&labels) {
        let _ = writeln!(
            text,
            "{lower:>lower_width$} -> {upper:<upper_width$} : {:<10} |{:<BAR_WIDTH$}|",
            row.count,
            bar(row.count, most),
        );
    }
    text
}

/// Renders the line below a histogram: count, mean and quantiles.
#[must_use]
pub fn render_summary(histogram: &Histogram) -> String {
    let number = histogram.count();
    if number == 0 {
        return "count 0".to_owned();
    }
    let mean = histogram.sum_ns() as f64 / 1e9 / number as f64;
    let quantile = |q| seconds(histogram.quantile_seconds(q));
    format!(
        "count {}  mean {}  p50 {}  p90 {}  p99 {}",
        count(number),
        seconds(Some(mean)),
        quantile(0.5),
        quantile(0.9),
        quantile(0.99)
    )
}

/// Never shorter than one letter where there is something to show.
fn bar(count: u64, most: u64) -> String {
    if count == 0 || most == 0 {
        return String::new();
    }
    let letters = (count as f64 / most as f64 * BAR_WIDTH as f64).round();
    "*".repeat((letters as usize).clamp(1, BAR_WIDTH))
}

/// Three digits, whole numbers in full; or the exact decimal, which a power of two always has.
fn bound_label(value: f64, exact: bool) -> String {
    if exact || value == 0.0 {
        return format!("{value}");
    }
    if value >= 99.95 {
        return format!("{value:.0}");
    }
    let digits_before_point = value.log10().floor() + 1.0;
    let decimals = (3.0 - digits_before_point).max(0.0) as usize;
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram() -> Histogram {
        let mut histogram = Histogram::default();
        for (ns, times) in [(500, 1), (1_500, 20), (6_000, 40), (20_000_000_000, 2)] {
            for _ in 0..times {
                histogram.record(ns);
            }
        }
        histogram
    }

    #[test]
    fn rows_are_powers_of_two_of_a_second() {
        let rows = octaves(&histogram());
        assert_eq!(rows.len(), 26);
        assert_eq!(rows.iter().map(|row| row.count).sum::<u64>(), 63);
        assert_eq!(rows[1].lower_seconds, 1.0 / 1_048_576.0);
        assert_eq!(rows[1].upper_seconds, Some(2.0 / 1_048_576.0));
        assert_eq!(rows[25].upper_seconds, None);
        assert!(octaves(&Histogram::default()).is_empty());
    }

    #[test]
    fn a_histogram_looks_like_those_of_bcc() {
        let mut histogram = Histogram::default();
        for ns in [1_500, 1_600, 6_000] {
            histogram.record(ns);
        }
        let expected = "               usecs : count      distribution
   0.954 -> 1.91     : 2          |****************************************|
    1.91 -> 3.81     : 0          |                                        |
    3.81 -> 7.63     : 1          |********************                    |
";
        assert_eq!(
            render_histogram(&histogram, Unit::Microseconds, false),
            expected
        );
        assert_eq!(
            render_histogram(&Histogram::default(), Unit::Microseconds, false),
            ""
        );
    }

    #[test]
    fn exact_bounds_are_printed_in_full() {
        let mut histogram = Histogram::default();
        histogram.record(1_500);
        let text = render_histogram(&histogram, Unit::Microseconds, true);
        assert!(
            text.contains("0.95367431640625 -> 1.9073486328125 : 1 "),
            "{text}"
        );
    }

    #[test]
    fn the_last_row_is_open_and_milliseconds_shift_the_bounds() {
        let text = render_histogram(&histogram(), Unit::Milliseconds, false);
        assert!(text.contains("   16000 -> ...      : 2 "), "{text}");
        assert!(text.contains("       0 -> 0.000954 : 1 "), "{text}");
    }

    #[test]
    fn the_summary_has_count_mean_and_quantiles() {
        let mut histogram = Histogram::default();
        for _ in 0..1_000 {
            histogram.record(1_000_000);
        }
        let summary = render_summary(&histogram);
        assert!(
            summary.starts_with("count 1,000  mean 1.00ms  p50 "),
            "{summary}"
        );
        assert_eq!(render_summary(&Histogram::default()), "count 0");
    }
}
