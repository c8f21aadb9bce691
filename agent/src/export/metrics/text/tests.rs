use prometheus::{
    Encoder as _, TextEncoder,
    proto::{Bucket, Counter, LabelPair, Metric as ProtoMetric, MetricFamily, MetricType},
};

use std::io::{self, Write};

use super::{PIECE_BYTES, Text, Value, escape_label};
use crate::snapshot::Histogram;

fn written(write: impl FnOnce(&mut Text<'_>)) -> String {
    let mut bytes = Vec::new();
    let mut text = Text::into_sink(&mut bytes);
    write(&mut text);
    let count = text.finish().expect("memory takes all");
    assert_eq!(count, bytes.len() as u64);
    String::from_utf8(bytes).expect("it is text")
}

/// Takes so many bytes and no more.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self
            .0
            .checked_sub(bytes.len())
            .ok_or(io::ErrorKind::StorageFull)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_long_text_goes_out_in_pieces_and_a_sink_that_fails_is_told() {
    let long = |sink: &mut dyn Write| {
        let mut text = Text::into_sink(sink);
        for count in 0..10_000 {
            text.sample("m", "", "label=\"value\"", "", Value::Count(count));
            assert!(text.piece.len() < PIECE_BYTES);
        }
        text.finish()
    };
    let mut bytes = Vec::new();
    assert_eq!(long(&mut bytes).unwrap(), bytes.len() as u64);
    assert_eq!(bytes.iter().filter(|byte| **byte == b'\n').count(), 10_000);
    let error = long(&mut Full(100_000)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
}

#[test]
fn numbers_are_written_exactly() {
    for (value, expected) in [
        (Value::Count(0), "0"),
        (Value::Count(u64::MAX), "18446744073709551615"),
        (Value::Nanoseconds(0), "0"),
        (Value::Nanoseconds(1), "0.000000001"),
        (Value::Nanoseconds(1_500_000_000), "1.5"),
        (Value::Nanoseconds(u64::MAX), "18446744073.709551615"),
        (Value::Microseconds(1_000_001), "1.000001"),
        (Value::Milliseconds(1_700_000_000_500), "1700000000.5"),
        (Value::Real(0.25), "0.25"),
        (Value::Real(f64::NAN), "NaN"),
        (Value::Real(f64::INFINITY), "+Inf"),
    ] {
        let text = written(|text| text.sample("m", "", "", "", value));
        assert_eq!(text, format!("m {expected}\n"));
    }
}

/// Xorshift; a seed gives the same texts each time.
fn next(seed: &mut u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed
}

/// Any text: quotes, backslashes, line ends, control characters, letters of many scripts.
fn any_text(seed: &mut u64) -> String {
    let length = next(seed) % 12;
    (0..length)
        .map(|_| match next(seed) % 4 {
            0 => ['"', '\\', '\n', '\r', ',', '=', '{', '}', ' ', '#'][(next(seed) % 10) as usize],
            1 => char::from((1 + next(seed) % 127) as u8),
            _ => char::from_u32((next(seed) % 0x11_0000) as u32).unwrap_or('\u{fffd}'),
        })
        .map(|character| if character == '\0' { 'x' } else { character })
        .collect()
}

#[test]
fn any_name_and_number_is_written_as_the_prometheus_crate_writes_it() {
    let mut seed = 0x2545_f491_4f6c_dd1d;
    let bounds = [(-20, "9.5367431640625e-07"), (-4, "0.0625"), (0, "1")];
    for _ in 0..2_000 {
        let help = any_text(&mut seed);
        let name = any_text(&mut seed);
        let count = next(&mut seed) % (1 << 50);
        let mut latency = Histogram::default();
        for _ in 0..5 {
            let shift = next(&mut seed) % 40;
            latency.record(next(&mut seed) >> (24 + shift));
        }

        let mut labels = String::from("container=\"");
        escape_label(&name, &mut labels);
        labels.push('"');
        let mine = written(|text| {
            text.family("m_total", "counter", &help);
            text.sample("m_total", "", &labels, "kind=\"a\"", Value::Count(count));
            text.family("l_seconds", "histogram", &help);
            text.histogram("l_seconds", &labels, "", &bounds, &latency);
        });

        let theirs = by_the_crate(&name, &help, count, &latency);
        // Those that differ in notation only: compare them as numbers.
        assert_eq!(canonical(&mine), canonical(&theirs), "{name:?}");
    }
}

fn by_the_crate(name: &str, help: &str, count: u64, latency: &Histogram) -> String {
    let label = |name: &str, value: &str| {
        let mut pair = LabelPair::default();
        pair.set_name(name.to_owned());
        pair.set_value(value.to_owned());
        pair
    };
    let family = |name: &str, kind, metric| {
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        family.set_metric(vec![metric]);
        family
    };
    let mut counter = Counter::default();
    counter.set_value(count as f64);
    let mut first = ProtoMetric::default();
    first.set_label(vec![label("container", name), label("kind", "a")]);
    first.set_counter(counter);

    let mut histogram = prometheus::proto::Histogram::default();
    histogram.set_sample_count(latency.count());
    histogram.set_sample_sum(latency.sum_ns() as f64 / 1e9);
    let bucket = |log2: i32| {
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(f64::powi(2.0, log2));
        bucket.set_cumulative_count(latency.count_up_to_log2(log2));
        bucket
    };
    histogram.set_bucket(vec![bucket(-20), bucket(-4), bucket(0)]);
    let mut second = ProtoMetric::default();
    second.set_label(vec![label("container", name)]);
    second.set_histogram(histogram);

    let families = [
        family("m_total", MetricType::COUNTER, first),
        family("l_seconds", MetricType::HISTOGRAM, second),
    ];
    let mut out = Vec::new();
    TextEncoder::new()
        .encode(&families, &mut out)
        .expect("it encodes");
    String::from_utf8(out).expect("it is UTF-8")
}

/// The text with one notation for each number, and without an empty help line.
fn canonical(text: &str) -> String {
    let text = text.replace("9.5367431640625e-07", "0.00000095367431640625");
    let lines = text.split('\n').filter_map(|line| {
        if line.starts_with('#') {
            let empty_help = line == "# HELP m_total " || line == "# HELP l_seconds ";
            return (!empty_help).then(|| line.to_owned());
        }
        let number = line
            .rsplit_once(' ')
            .and_then(|(series, value)| Some(format!("{series} {:e}", value.parse::<f64>().ok()?)));
        Some(number.unwrap_or_else(|| line.to_owned()))
    });
    lines.collect::<Vec<_>>().join("\n")
}
