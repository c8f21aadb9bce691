//! Folded stacks to a flame graph: a self-contained SVG with search and zoom.
//!
//! Colours follow the mixed-mode flame graph: kernel orange, C++ and Rust (`::`) yellow, other
//! native code red, code of a just-in-time compiler green, frames without a symbol grey, container
//! and process blue. The shade within a colour depends on the name alone, so two graphs can be laid
//! side by side.

use std::{collections::HashSet, io};

use inferno::flamegraph::{
    self, Options, TextTruncateDirection,
    color::{BackgroundColor, Color, PaletteMap},
};

use super::{
    fold::Folded,
    frame_name::{JIT_SUFFIX, KERNEL_SUFFIX, clean},
};

/// A flame graph could not be drawn.
#[derive(Debug, thiserror::Error)]
#[error("cannot draw the flame graph")]
pub struct SvgError(#[from] io::Error);

/// How to draw a flame graph.
#[derive(Clone, Debug)]
pub struct FlameGraph {
    /// What was profiled: a container's name, or the host's.
    pub subject: String,
    /// What was measured: `on-CPU`.
    pub measure: String,
    /// What one of the counts is.
    pub count_name: String,
}

impl FlameGraph {
    /// An on-CPU flame graph.
    #[must_use]
    pub fn on_cpu(subject: impl Into<String>) -> Self {
        Self {
            subject: subject.into(),
            measure: "on-CPU".to_owned(),
            count_name: "samples".to_owned(),
        }
    }

    /// Draws a flame graph. The same profile gives the same bytes. A profile without samples gives a
    /// picture that says so.
    ///
    /// # Errors
    ///
    /// [`SvgError`] when the drawing library refuses it.
    pub fn draw(&self, folded: &Folded) -> Result<Vec<u8>, SvgError> {
        let title = self.title(folded);
        let subtitle = self.subtitle(folded);
        if folded.stacks.values().all(|&count| count == 0) {
            return Ok(self.draw_empty(&title, folded).into_bytes());
        }
        let mut palette = palette(folded);
        let mut options = Options::default();
        options.title = title;
        options.subtitle = Some(subtitle);
        options.count_name.clone_from(&self.count_name);
        options.name_type = "Frame:".to_owned();
        options.palette_map = Some(&mut palette);
        options.bgcolors = Some(BackgroundColor::Flat(rgb(0xfa, 0xfa, 0xf8)));
        options.deterministic = true;
        options.text_truncate_direction = TextTruncateDirection::Right;
        let lines: Vec<String> = folded
            .stacks
            .iter()
            .map(|(stack, count)| format!("{stack} {count}"))
            .collect();
        let mut svg = Vec::new();
        flamegraph::from_lines(&mut options, lines.iter().map(String::as_str), &mut svg)?;
        Ok(svg)
    }

    fn title(&self, folded: &Folded) -> String {
        format!(
            "{} — {}, {} Hz, {} s",
            clean(&self.subject),
            self.measure,
            folded.frequency,
            round(folded.seconds),
        )
    }

    fn subtitle(&self, folded: &Folded) -> String {
        let mut text = format!(
            "{} {}, {} lost",
            thousands(folded.samples),
            self.count_name,
            thousands(folded.losses.total()),
        );
        if let Some(ratio) = folded.symbol_ratio() {
            text.push_str(&format!(", {:.0} % of addresses named", ratio * 100.0));
        }
        let stacks = folded.user_stacks;
        for (count, what) in [
            (stacks.cut, "broken (no frame pointers)"),
            (stacks.truncated, "deeper than kept"),
            (stacks.unmapped, "of exited processes"),
        ] {
            if count > 0 {
                text.push_str(&format!(", {} {what}", thousands(count)));
            }
        }
        text
    }

    fn draw_empty(&self, title: &str, folded: &Folded) -> String {
        let lost = match folded.losses.total() {
            0 => String::new(),
            lost => format!(" ({} were lost)", thousands(lost)),
        };
        format!(
            r##"<?xml version="1.0" standalone="no"?>
<svg version="1.1" width="1200" height="120" viewBox="0 0 1200 120" xmlns="http://www.w3.org/2000/svg">
<rect width="100%" height="100%" fill="#fafaf8"/>
<text id="title" x="50%" y="36" text-anchor="middle" font-family="monospace" font-size="17">{}</text>
<text x="50%" y="76" text-anchor="middle" font-family="monospace" font-size="13" fill="#606060">No sample was taken{lost}.</text>
</svg>
"##,
            escape(title),
        )
    }
}

/// A colour for every frame.
fn palette(folded: &Folded) -> PaletteMap {
    let mut map = PaletteMap::default();
    // The row below all, which has no name.
    map.insert("", color(0, ""));
    let mut seen = HashSet::new();
    for stack in folded.stacks.keys() {
        for (depth, name) in stack.split(';').enumerate() {
            if seen.insert(name) {
                map.insert(name, color(depth, name));
            }
        }
    }
    map
}

fn color(depth: usize, name: &str) -> Color {
    // FNV-1a; 0 to 40.
    let hash = name.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    let shade = u8::try_from((hash >> 8) % 41).unwrap_or(0);
    let unnamed = |name: &str| {
        name.starts_with('[')
            || name.rsplit_once("+0x").is_some_and(|(_, digits)| {
                !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit())
            })
    };
    if depth < 2 {
        rgb(0x90 + shade / 2, 0xb4 + shade / 2, 0xe0)
    } else if unnamed(name.strip_suffix(KERNEL_SUFFIX).unwrap_or(name)) {
        rgb(0xb4 + shade / 2, 0xb4 + shade / 2, 0xb0 + shade / 2)
    } else if name.ends_with(KERNEL_SUFFIX) {
        rgb(0xf2, 0x8c + shade, 0x28)
    } else if name.ends_with(JIT_SUFFIX) {
        rgb(0x58 + shade, 0xc0 + shade / 2, 0x58 + shade)
    } else if name.contains("::") {
        rgb(0xe6, 0xcc + shade / 2, 0x48 + shade)
    } else {
        rgb(0xf0, 0x6c + shade, 0x64 + shade)
    }
}

fn rgb(r: u8, g: u8, b: u8) -> Color {
    Color { r, g, b }
}

/// At most one decimal, none that is zero.
fn round(seconds: f64) -> String {
    let text = format!("{seconds:.1}");
    text.strip_suffix(".0").map(str::to_owned).unwrap_or(text)
}

fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{ProfileLosses, StackCounts};

    fn folded(stacks: &[(&str, u64)]) -> Folded {
        Folded {
            stacks: stacks.iter().map(|&(s, n)| (s.to_owned(), n)).collect(),
            samples: stacks.iter().map(|&(_, n)| n).sum(),
            user_stacks: StackCounts {
                cut: 12,
                ..StackCounts::default()
            },
            symbol_hits: 9,
            symbol_misses: 1,
            seconds: 10.0,
            frequency: 99,
            losses: ProfileLosses {
                samples: 3,
                stacks: 0,
            },
        }
    }

    fn draw(subject: &str, folded: &Folded) -> String {
        String::from_utf8(FlameGraph::on_cpu(subject).draw(folded).unwrap()).unwrap()
    }

    #[test]
    fn the_titles_say_what_was_measured() {
        let svg = draw(
            "web",
            &folded(&[("web;nginx;main;read_[k]", 1234), ("web;nginx;x", 1)]),
        );
        for part in [
            ">web — on-CPU, 99 Hz, 10 s<",
            ">1,235 samples, 3 lost, 90 % of addresses named, 12 broken (no frame pointers)<",
            "total_samples=\"1235\"",
            "main (1,234 samples, 99.92%)",
        ] {
            assert!(svg.contains(part), "{part} is missing");
        }
    }

    #[test]
    fn names_are_escaped() {
        let svg = draw(
            "<script>alert(1)</script>",
            &folded(&[("<script>alert(2)</script>;a&b;\"<x onload='y'>", 1)]),
        );
        assert!(!svg.contains("<script>alert"));
        assert!(!svg.contains("<x "));
        assert!(svg.contains("&lt;script&gt;alert(1)"));
        let empty = draw("<script>alert(1)</script>\u{1}", &folded(&[]));
        assert!(!empty.contains("<script>") && !empty.contains('\u{1}'));
    }

    #[test]
    fn the_same_profile_gives_the_same_bytes() {
        let profile = folded(&[("a;b;c::d;e_[k]", 5), ("a;b;c::d;f_[j]", 6)]);
        assert_eq!(draw("a", &profile), draw("a", &profile));
    }

    #[test]
    fn a_profile_without_samples_says_so() {
        for stacks in [&[][..], &[("a;b", 0)]] {
            let svg = draw("web", &folded(stacks));
            assert!(svg.contains("No sample was taken (3 were lost)"));
            assert!(svg.contains("web — on-CPU") && svg.ends_with("</svg>\n"));
        }
    }

    #[test]
    fn odd_profiles_can_be_drawn() {
        let deep = vec!["f"; 300].join(";");
        let many: Vec<(String, u64)> = (0..5000).map(|i| (format!("a;b;f{i}"), 1)).collect();
        let many: Vec<(&str, u64)> = many.iter().map(|(s, n)| (s.as_str(), *n)).collect();
        for stacks in [&[(";;", 1)][..], &[(&deep, 1)], &[("é 𝄞;…", 2)], &many] {
            let svg = draw("x", &folded(stacks));
            assert!(svg.trim_end().ends_with("</svg>"));
        }
    }

    #[test]
    fn kinds_of_code_have_colours_of_their_own() {
        let names = [
            "main",
            "a::b",
            "f_[j]",
            "f_[k]",
            "libc.so.6+0x1f",
            "[kernel]+0x1_[k]",
        ];
        let colors = names.map(|name| color(2, name));
        for (index, color) in colors[..5].iter().enumerate() {
            assert!(!colors[..index].contains(color), "{}", names[index]);
        }
        assert_ne!(color(0, "main"), colors[0]);
        assert_eq!(thousands(1), "1");
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!((round(10.0).as_str(), round(2.25).as_str()), ("10", "2.2"));
    }
}
