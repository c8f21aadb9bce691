//! Numbers in sentences.

use super::verdict::{Evidence, Relation, Unit};
use crate::terminal;

/// A number with its unit.
#[must_use]
pub fn number(unit: Unit, value: f64) -> String {
    match unit {
        Unit::Count if value.fract() == 0.0 && (0.0..1e15).contains(&value) => {
            terminal::count(value as u64)
        }
        Unit::Count => small(value),
        Unit::PerSecond => terminal::per_second(Some(value)),
        Unit::Ratio => percent(value),
        Unit::Factor => format!("{}x", terminal::cores(Some(value))),
        Unit::Seconds => seconds(value),
        Unit::Cores => cores(value),
        Unit::Bytes => bytes(value),
        Unit::BytesPerSecond => terminal::bytes(Some(value)),
    }
}

/// The number of a piece of evidence; a dash where it is absent.
#[must_use]
pub fn value(evidence: &Evidence) -> String {
    let shown = evidence.value.map(|value| number(evidence.unit, value));
    shown.unwrap_or_else(|| terminal::ABSENT.to_owned())
}

/// What a number is compared with: `>= 5.0%`.
#[must_use]
pub fn threshold(evidence: &Evidence) -> String {
    let Some(compared) = &evidence.compared else {
        return String::new();
    };
    let sign = match compared.relation {
        Relation::AtLeast => ">=",
        Relation::Above => ">",
        Relation::AtMost => "<=",
        Relation::Below => "<",
    };
    format!("{sign} {}", number(evidence.unit, compared.threshold))
}

pub(super) fn cores(value: f64) -> String {
    format!("{} cores", small(value))
}

/// Three digits, and as many after the point as a small number needs to show two.
fn small(value: f64) -> String {
    if value <= 0.0 || value >= 0.1 {
        return terminal::cores(Some(value));
    }
    let zeros = ((-value.log10()).ceil() - 1.0).clamp(0.0, 9.0) as usize;
    format!("{value:.*}", zeros + 2)
}

/// What a number is, for a reader: its name without the unit, which stands at the number.
#[must_use]
pub fn label(name: &str) -> String {
    let bare = [
        "_bytes_per_second",
        "_per_second",
        "_ratio",
        "_seconds",
        "_bytes",
        "_cores",
    ]
    .iter()
    .find_map(|unit| name.strip_suffix(unit))
    .unwrap_or(name);
    bare.replace('_', " ")
}

pub(super) fn percent(value: f64) -> String {
    terminal::percent(Some(value))
}

pub(super) fn seconds(value: f64) -> String {
    terminal::seconds(Some(value))
}

pub(super) fn bytes(value: f64) -> String {
    terminal::size(Some(value))
}

pub(super) fn speed(value: f64) -> String {
    terminal::bytes(Some(value))
}

/// Names in a sentence: `a`, `a and b`, `a, b and c`.
pub(super) fn list(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_small_ones_are_not_nothing() {
        for (unit, value, text) in [
            (Unit::Cores, 1.5, "1.50 cores"),
            (Unit::Cores, 0.001, "0.0010 cores"),
            (Unit::Cores, 0.0, "0.00 cores"),
            (Unit::Count, 12_345.0, "12,345"),
            (Unit::Count, 0.0123, "0.012"),
            (Unit::Count, 1e20, "100000000000000000000"),
            (Unit::Ratio, 0.05, "5.0%"),
            (Unit::Factor, 1.1, "1.10x"),
            (Unit::Seconds, 0.0002, "200us"),
            (Unit::Bytes, 1_048_576.0, "1.00MiB"),
            (Unit::BytesPerSecond, 1_048_576.0, "1.00MiB/s"),
            (Unit::PerSecond, 10.0, "10.0/s"),
        ] {
            assert_eq!(number(unit, value), text);
        }
    }

    #[test]
    fn a_label_has_no_unit_and_a_threshold_its_sign() {
        assert_eq!(label("throttled_periods_ratio"), "throttled periods");
        assert_eq!(label("received_bytes_per_second"), "received");
        assert_eq!(label("oom_kills"), "oom kills");
        let compared = Evidence::new("x_ratio", Unit::Ratio, None).is(Relation::Below, ("", 0.5));
        assert_eq!(threshold(&compared), "< 50.0%");
        assert_eq!(value(&compared), "-");
    }
}
