//! Folded stacks to a flame graph: a self-contained SVG with search and zoom.
//!
//! Colours follow the mixed-mode flame graph: kernel orange, C++ and Rust (`::`) yellow, other
//! native code red, functions that were inlined aqua, code of a just-in-time compiler green, frames without a symbol grey, container
//! and process blue. The shade within a colour depends on the name alone, so two graphs can be laid
//! side by side.

use std::io;

use inferno::flamegraph::{
    self, Options, TextTruncateDirection,
    color::{BackgroundColor, Color, PaletteMap},
};

use super::{
    fold::fold,
    frame_name::{INLINED_SUFFIX, JIT_SUFFIX, KERNEL_SUFFIX, clean},
    named::Profile,
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
}

impl FlameGraph {
    /// A flame graph of a container, or of the host.
    #[must_use]
    pub fn new(subject: impl Into<String>) -> Self {
        Self {
            subject: subject.into(),
        }
    }

    /// Draws a flame graph. The same profile gives the same bytes. A profile without samples gives a
    /// picture that says so.
    ///
    /// # Errors
    ///
    /// [`SvgError`] when the drawing library refuses it.
    pub fn draw(&self, profile: &Profile) -> Result<Vec<u8>, SvgError> {
        let title = self.title(profile);
        let lines = fold(profile);
        if lines.is_empty() {
            return Ok(self.draw_empty(&title, profile).into_bytes());
        }
        let mut palette = palette(profile);
        let mut options = Options::default();
        options.title = title;
        options.subtitle = Some(subtitle(profile));
        profile
            .profile_type
            .count_name()
            .clone_into(&mut options.count_name);
        options.name_type = "Frame:".to_owned();
        options.palette_map = Some(&mut palette);
        options.bgcolors = Some(BackgroundColor::Flat(rgb(0xfa, 0xfa, 0xf8)));
        options.deterministic = true;
        options.text_truncate_direction = TextTruncateDirection::Right;
        let lines: Vec<String> = lines
            .into_iter()
            .map(|(stack, value)| format!("{stack} {value}"))
            .collect();
        let mut svg = Vec::new();
        flamegraph::from_lines(&mut options, lines.iter().map(String::as_str), &mut svg)?;
        Ok(svg)
    }

    fn title(&self, profile: &Profile) -> String {
        let asked = profile.asked;
        let frequency = match profile.frequency {
            0 => String::new(),
            hertz if hertz < asked.frequency => format!("{hertz} of {} Hz, ", asked.frequency),
            hertz => format!("{hertz} Hz, "),
        };
        let part = if profile.seconds < asked.seconds {
            format!(" of {}", round(asked.seconds))
        } else {
            String::new()
        };
        format!(
            "{} — {}, {frequency}{}{part} s",
            clean(&self.subject),
            profile.profile_type.measure(),
            round(profile.seconds),
        )
    }

    fn draw_empty(&self, title: &str, profile: &Profile) -> String {
        let lost = match profile.losses.total() {
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

fn subtitle(profile: &Profile) -> String {
    let mut text = format!(
        "{} {}, {} lost",
        thousands(profile.count),
        profile.profile_type.count_name(),
        thousands(profile.losses.total()),
    );
    if let Some(ratio) = profile.symbol_ratio() {
        text.push_str(&format!(", {:.0} % of addresses named", ratio * 100.0));
    }
    let stacks = profile.user_stacks;
    for (count, what) in [
        (stacks.cut, "broken"),
        (stacks.pointers, "by frame pointers alone"),
        (stacks.truncated, "deeper than kept"),
        (stacks.unmapped, "of exited processes"),
    ] {
        if count > 0 {
            text.push_str(&format!(", {} {what}", thousands(count)));
        }
    }
    if !profile.cuts.is_empty() {
        let cuts = profile.cuts.iter();
        let cuts: Vec<String> = cuts
            .map(|(reason, count)| format!("{} {}", reason.replace('_', " "), thousands(*count)))
            .collect();
        text.push_str(&format!(" (broken: {})", cuts.join(", ")));
    }
    if let Some(note) = profile.inlined_note() {
        text.push_str(&format!(", {note}"));
    }
    text
}

/// A colour for every frame.
fn palette(profile: &Profile) -> PaletteMap {
    let mut map = PaletteMap::default();
    for frame in &profile.frames {
        map.insert(&frame.name, code_color(&frame.name));
    }
    // The row below all has no name.
    map.insert("", root_color(""));
    for stack in &profile.stacks {
        for root in profile.roots(stack) {
            map.insert(&root, root_color(&root));
        }
    }
    map
}

/// 0 to 40, by the name alone (FNV-1a).
fn shade(name: &str) -> u8 {
    let hash = name.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    u8::try_from((hash >> 8) % 41).unwrap_or(0)
}

/// Of containers, processes and threads.
fn root_color(name: &str) -> Color {
    let shade = shade(name);
    rgb(0x90 + shade / 2, 0xb4 + shade / 2, 0xe0)
}

fn code_color(name: &str) -> Color {
    let shade = shade(name);
    let unnamed = |name: &str| {
        name.starts_with('[')
            || name.rsplit_once("+0x").is_some_and(|(_, digits)| {
                !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit())
            })
    };
    if unnamed(name.strip_suffix(KERNEL_SUFFIX).unwrap_or(name)) {
        rgb(0xb4 + shade / 2, 0xb4 + shade / 2, 0xb0 + shade / 2)
    } else if name.ends_with(KERNEL_SUFFIX) {
        rgb(0xf2, 0x8c + shade, 0x28)
    } else if name.ends_with(JIT_SUFFIX) {
        rgb(0x58 + shade, 0xc0 + shade / 2, 0x58 + shade)
    } else if name.ends_with(INLINED_SUFFIX) {
        rgb(0x50 + shade, 0xb8 + shade / 2, 0xbc + shade / 2)
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
    use crate::profile::{
        Asked, InlinedLeftOut,
        made::{of_lines, with_inlined},
    };

    fn draw(subject: &str, profile: &Profile) -> String {
        String::from_utf8(FlameGraph::new(subject).draw(profile).unwrap()).unwrap()
    }

    #[test]
    fn the_titles_say_what_was_measured() {
        let svg = draw(
            "web",
            &of_lines(&[("web;nginx;main;read_[k]", 1234), ("web;nginx;x", 1)]),
        );
        for part in [
            ">web — on-CPU, 99 Hz, 10 s<",
            ">1,235 samples, 3 lost, 90 % of addresses named, 12 broken (broken: fault 9, unmapped 3)<",
            "total_samples=\"1235\"",
            "main (1,234 samples, 99.92%)",
        ] {
            assert!(svg.contains(part), "{part} is missing");
        }
    }

    #[test]
    fn the_subtitle_says_what_was_left_out_of_inlined_functions() {
        let mut profile = with_inlined();
        let svg = draw("web", &profile);
        assert!(svg.contains(", inlined functions of 2 files left out<"));
        assert!(svg.contains("leaf (3 samples"), "without its mark: {svg}");
        profile.inlined_left_out.files = 1;
        assert!(draw("web", &profile).contains(", inlined functions of 1 file left out<"));
        profile.inlined_left_out.stacks = 3;
        let svg = draw("web", &profile);
        assert!(svg.contains(", inlined functions of 1 file and 3 stacks left out<"));
        profile.inlined_left_out = InlinedLeftOut::default();
        assert!(!draw("web", &profile).contains("left out"));
    }

    #[test]
    fn the_title_says_what_is_less_than_was_asked_for() {
        let mut profile = of_lines(&[("web;nginx;main", 1)]);
        profile.frequency = 60;
        profile.seconds = 2.54;
        profile.asked = Asked {
            seconds: 10.0,
            frequency: 99,
        };
        let svg = draw("web", &profile);
        assert!(
            svg.contains(">web — on-CPU, 60 of 99 Hz, 2.5 of 10 s<"),
            "{svg}"
        );
        profile.frequency = 99;
        profile.seconds = 10.02;
        let svg = draw("web", &profile);
        assert!(svg.contains(">web — on-CPU, 99 Hz, 10 s<"), "{svg}");
    }

    #[test]
    fn names_are_escaped() {
        let svg = draw(
            "<script>alert(1)</script>",
            &of_lines(&[("<script>alert(2)</script>;a&b;\"<x onload='y'>", 1)]),
        );
        assert!(!svg.contains("<script>alert"));
        assert!(!svg.contains("<x "));
        assert!(svg.contains("&lt;script&gt;alert(1)"));
        let empty = draw("<script>alert(1)</script>\u{1}", &of_lines(&[]));
        assert!(!empty.contains("<script>") && !empty.contains('\u{1}'));
    }

    #[test]
    fn the_same_profile_gives_the_same_bytes() {
        let profile = of_lines(&[("a;b;c::d;e_[k]", 5), ("a;b;c::d;f_[j]", 6)]);
        assert_eq!(draw("a", &profile), draw("a", &profile));
    }

    #[test]
    fn a_profile_without_samples_says_so() {
        for stacks in [&[][..], &[("a;b", 0)]] {
            let svg = draw("web", &of_lines(stacks));
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
            let svg = draw("x", &of_lines(stacks));
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
            "f_[i]",
            "libc.so.6+0x1f",
            "[kernel]+0x1_[k]",
        ];
        let colors = names.map(code_color);
        for (index, color) in colors[..6].iter().enumerate() {
            assert!(!colors[..index].contains(color), "{}", names[index]);
        }
        assert_ne!(root_color("main"), colors[0]);
        assert_eq!(thousands(1), "1");
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!((round(10.0).as_str(), round(2.25).as_str()), ("10", "2.2"));
    }
}
