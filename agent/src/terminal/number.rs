//! Numbers for a reader: three digits and a unit.

use super::ABSENT;

/// Three significant digits.
pub(super) fn three_digits(value: f64) -> String {
    if value < 9.995 {
        format!("{value:.2}")
    } else if value < 99.95 {
        format!("{value:.1}")
    } else {
        format!("{value:.0}")
    }
}

/// Divides by the steps until three digits hold the value.
fn scaled(value: f64, step: f64, units: &[&str]) -> String {
    let mut value = value;
    let mut units = units.iter().peekable();
    let mut unit = "";
    while let Some(next) = units.next() {
        unit = next;
        if value < 999.5 || units.peek().is_none() {
            break;
        }
        value /= step;
    }
    format!("{}{unit}", three_digits(value))
}

/// A duration: `953ns`, `1.91us`, `12.3ms`, `2.00s`.
#[must_use]
pub fn seconds(value: Option<f64>) -> String {
    match value {
        None => ABSENT.to_owned(),
        Some(0.0) => "0s".to_owned(),
        Some(value) => scaled(value * 1e9, 1e3, &["ns", "us", "ms", "s"]),
    }
}

/// Bytes per second: `0B/s`, `4.20MiB/s`.
#[must_use]
pub fn bytes(value: Option<f64>) -> String {
    match value {
        None => ABSENT.to_owned(),
        Some(value) if value < 999.5 => format!("{value:.0}B/s"),
        Some(value) => scaled(
            value / 1024.0,
            1024.0,
            &["KiB/s", "MiB/s", "GiB/s", "TiB/s"],
        ),
    }
}

/// Bytes: `0B`, `4.20MiB`.
#[must_use]
pub fn size(value: Option<f64>) -> String {
    bytes(value).trim_end_matches("/s").to_owned()
}

/// Events per second: `0/s`, `0.50/s`, `1.20k/s`.
#[must_use]
pub fn per_second(value: Option<f64>) -> String {
    match value {
        None => ABSENT.to_owned(),
        Some(0.0) => "0/s".to_owned(),
        Some(value) => scaled(value, 1e3, &["/s", "k/s", "M/s", "G/s"]),
    }
}

/// A share of 0 to 1: `0%`, `<0.1%`, `12.3%`, `100%`.
#[must_use]
pub fn percent(value: Option<f64>) -> String {
    match value.map(|value| value * 100.0) {
        None => ABSENT.to_owned(),
        Some(0.0) => "0%".to_owned(),
        Some(value) if value < 0.05 => "<0.1%".to_owned(),
        Some(value) if value < 99.95 => format!("{value:.1}%"),
        Some(value) => format!("{value:.0}%"),
    }
}

/// Cores: `0.53`.
#[must_use]
pub fn cores(value: Option<f64>) -> String {
    value.map_or_else(|| ABSENT.to_owned(), three_digits)
}

/// A count with its thousands apart: `1,234,567`.
#[must_use]
pub fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_three_digits_and_a_unit() {
        for (value, text) in [
            (0.0, "0s"),
            (953e-9, "953ns"),
            (999.6e-9, "1.00us"),
            (9.996e-6, "10.0us"),
            (12.34e-3, "12.3ms"),
            (0.9996, "1.00s"),
            (1234.0, "1234s"),
        ] {
            assert_eq!(seconds(Some(value)), text);
        }
        assert_eq!(seconds(None), "-");
    }

    #[test]
    fn rates_shares_and_counts_carry_their_units() {
        assert_eq!(bytes(Some(0.0)), "0B/s");
        assert_eq!(bytes(Some(4_404_019.0)), "4.20MiB/s");
        assert_eq!(bytes(Some(1000.0)), "0.98KiB/s");
        assert_eq!(size(Some(4_404_019.0)), "4.20MiB");
        assert_eq!(size(None), "-");
        assert_eq!(per_second(Some(1200.0)), "1.20k/s");
        assert_eq!(per_second(Some(0.5)), "0.50/s");
        assert_eq!(percent(Some(0.0)), "0%");
        assert_eq!(percent(Some(0.0001)), "<0.1%");
        assert_eq!(percent(Some(0.1234)), "12.3%");
        assert_eq!(percent(Some(1.0)), "100%");
        assert_eq!(cores(Some(0.526)), "0.53");
        assert_eq!(count(0), "0");
        assert_eq!(count(1_234_567), "1,234,567");
    }
}
