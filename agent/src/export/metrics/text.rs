//! The Prometheus text format, version 0.0.4, written piece by piece into a sink.

#[cfg(test)]
mod tests;

use std::{
    fmt::Write as _,
    io::{self, Write},
};

use crate::snapshot::Histogram;

/// A number as it is kept, so that it is written without a detour over floating point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Value {
    /// A count, or bytes.
    Count(u64),
    /// Nanoseconds, written as seconds.
    Nanoseconds(u64),
    /// Microseconds, written as seconds.
    Microseconds(u64),
    /// Milliseconds, written as seconds.
    Milliseconds(u64),
    /// Anything else.
    Real(f64),
}

impl Value {
    /// The sum of two values of the same variant; of two different ones, the first.
    pub(crate) fn plus(self, other: Self) -> Self {
        match (self, other) {
            (Self::Count(a), Self::Count(b)) => Self::Count(a.saturating_add(b)),
            (Self::Nanoseconds(a), Self::Nanoseconds(b)) => Self::Nanoseconds(a.saturating_add(b)),
            (Self::Real(a), Self::Real(b)) => Self::Real(a + b),
            (first, _) => first,
        }
    }
}

/// A piece is handed on when it has as many bytes.
const PIECE_BYTES: usize = 32 * 1024;

/// A text that is being written. What the sink refuses is told at the end.
pub(crate) struct Text<'a> {
    piece: String,
    sink: &'a mut dyn Write,
    written: u64,
    failure: Option<io::Error>,
}

impl<'a> Text<'a> {
    /// An empty text.
    pub(crate) fn into_sink(sink: &'a mut dyn Write) -> Self {
        Self {
            piece: String::with_capacity(PIECE_BYTES + PIECE_BYTES / 8),
            sink,
            written: 0,
            failure: None,
        }
    }

    /// Adds a text that is finished in itself.
    pub(crate) fn finished(&mut self, text: &str) {
        self.piece.push_str(text);
        self.hand_on(0);
    }

    /// Hands on what is left. Gives the number of bytes of the whole text.
    pub(crate) fn finish(mut self) -> io::Result<u64> {
        self.hand_on(0);
        match self.failure {
            Some(error) => Err(error),
            None => Ok(self.written),
        }
    }

    fn hand_on(&mut self, from_bytes: usize) {
        if self.piece.len() <= from_bytes {
            return;
        }
        self.written += self.piece.len() as u64;
        if self.failure.is_none()
            && let Err(error) = self.sink.write_all(self.piece.as_bytes())
        {
            self.failure = Some(error);
        }
        self.piece.clear();
    }

    /// Opens a family.
    pub(crate) fn family(&mut self, name: &str, kind: &str, help: &str) {
        let out = &mut self.piece;
        for part in ["# HELP ", name, " "] {
            out.push_str(part);
        }
        for character in help.chars() {
            match character {
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                other => out.push(other),
            }
        }
        for part in ["\n# TYPE ", name, " ", kind, "\n"] {
            out.push_str(part);
        }
    }

    /// Writes one sample. `labels` and `extra` are label pairs, escaped, without braces.
    pub(crate) fn sample(
        &mut self,
        name: &str,
        suffix: &str,
        labels: &str,
        extra: &str,
        value: Value,
    ) {
        self.start(name, suffix, labels, extra);
        if !(labels.is_empty() && extra.is_empty()) {
            self.piece.push('}');
        }
        self.value(value);
    }

    /// Writes the buckets, sum and count of a histogram. `bounds` are powers of two with their text.
    pub(crate) fn histogram(
        &mut self,
        name: &str,
        labels: &str,
        extra: &str,
        bounds: &[(i32, &str)],
        histogram: &Histogram,
    ) {
        let count = histogram.count();
        let finite = bounds
            .iter()
            .map(|&(log2, bound)| (bound, histogram.count_up_to_log2(log2)));
        for (bound, cumulative) in finite.chain([("+Inf", count)]) {
            self.start(name, "_bucket", labels, extra);
            let separator = if labels.is_empty() && extra.is_empty() {
                "{"
            } else {
                ","
            };
            for part in [separator, "le=\"", bound, "\"}"] {
                self.piece.push_str(part);
            }
            self.value(Value::Count(cumulative));
        }
        let sum = Value::Nanoseconds(histogram.sum_ns());
        self.sample(name, "_sum", labels, extra, sum);
        self.sample(name, "_count", labels, extra, Value::Count(count));
    }

    /// Writes a sample up to the last of its labels; the brace stays open if there is one.
    fn start(&mut self, name: &str, suffix: &str, labels: &str, extra: &str) {
        let out = &mut self.piece;
        out.push_str(name);
        out.push_str(suffix);
        if !labels.is_empty() {
            out.push('{');
            out.push_str(labels);
        }
        if !extra.is_empty() {
            out.push(if labels.is_empty() { '{' } else { ',' });
            out.push_str(extra);
        }
    }

    fn value(&mut self, value: Value) {
        self.piece.push(' ');
        match value {
            Value::Count(count) => self.integer(count),
            Value::Nanoseconds(ns) => self.decimal(ns, 1_000_000_000),
            Value::Microseconds(usec) => self.decimal(usec, 1_000_000),
            Value::Milliseconds(ms) => self.decimal(ms, 1_000),
            Value::Real(real) if real.is_nan() => self.piece.push_str("NaN"),
            Value::Real(real) if real.is_infinite() => {
                self.piece
                    .push_str(if real > 0.0 { "+Inf" } else { "-Inf" });
            }
            // Writing to a String does not fail.
            Value::Real(real) => drop(write!(self.piece, "{real}")),
        }
        self.piece.push('\n');
        self.hand_on(PIECE_BYTES);
    }

    fn integer(&mut self, mut value: u64) {
        let mut digits = [0u8; 20];
        let mut start = digits.len();
        for slot in digits.iter_mut().rev() {
            *slot = b'0' + (value % 10) as u8;
            value /= 10;
            start -= 1;
            if value == 0 {
                break;
            }
        }
        // Digits are ASCII, so this is never empty.
        self.piece
            .push_str(std::str::from_utf8(digits.get(start..).unwrap_or(b"0")).unwrap_or("0"));
    }

    /// Writes `value / unit` exactly; `unit` is a power of ten.
    fn decimal(&mut self, value: u64, unit: u64) {
        self.integer(value / unit);
        let mut rest = value % unit;
        if rest == 0 {
            return;
        }
        self.piece.push('.');
        let mut place = unit / 10;
        while rest > 0 {
            self.piece.push(char::from(b'0' + (rest / place) as u8));
            rest %= place;
            place /= 10;
        }
    }
}

/// Appends a label value with the escapes of the format. NUL, which ends the text for Prometheus'
/// lexer, becomes the replacement character.
pub(crate) fn escape_label(value: &str, out: &mut String) {
    for character in value.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' => out.push_str("\\\""),
            '\0' => out.push('\u{fffd}'),
            other => out.push(other),
        }
    }
}
