//! A profile in the format of pprof, gzip-compressed, as `go tool pprof` and profile stores read it.
//!
//! Frames of a sample are its code alone: container, process and thread are labels. Names are as in
//! the flame graph, without its marks; a mapping says whether a frame is of a file, of a just-in-time
//! compiler, or of the kernel. Functions that were inlined are lines of the location that they are in.

mod messages;

use std::{
    collections::HashMap,
    io::{self, Write},
};

use flate2::{Compression, write::GzEncoder};
use prost::Message as _;

use self::messages as pb;
use super::{
    kind::{ProfileType, Split},
    named::{Frame, FrameKind, NamedStack, Profile},
    numbers::Numbers,
};
use crate::choice::Choice as _;

const NANOSECONDS: &str = "nanoseconds";

/// What is being written.
struct Writer<'a> {
    profile: &'a Profile,
    strings: Numbers<String>,
    /// Functions with what was inlined in them, the outermost first.
    inlined: Numbers<Box<[u32]>>,
}

impl Writer<'_> {
    fn text(&mut self, text: &str) -> i64 {
        // A look-up by `&str` would need the interner to borrow; texts are few beside samples.
        i64::from(self.strings.of(&text.to_owned()))
    }

    fn value_type(&mut self, kind: &str, unit: &str) -> pb::ValueType {
        pb::ValueType {
            kind: self.text(kind),
            unit: self.text(unit),
        }
    }

    fn text_label(&mut self, key: &str, value: &str) -> pb::Label {
        pb::Label {
            key: self.text(key),
            str: self.text(value),
            ..pb::Label::default()
        }
    }

    fn number_label(&mut self, key: &str, value: u32) -> pb::Label {
        pb::Label {
            key: self.text(key),
            num: i64::from(value),
            ..pb::Label::default()
        }
    }

    fn labels(&mut self, stack: &NamedStack) -> Vec<pb::Label> {
        let profile = self.profile;
        let mut labels = Vec::new();
        if let Some(owner) = profile.owners.get(stack.owner as usize) {
            for (key, value) in [
                ("namespace", &owner.namespace),
                ("pod", &owner.pod),
                ("container", &owner.container),
            ] {
                if !value.is_empty() {
                    labels.push(self.text_label(key, value));
                }
            }
        }
        labels.push(self.text_label("type", profile.profile_type.name()));
        labels.push(self.text_label("process", &stack.process));
        if profile.split != Split::Name {
            labels.push(self.number_label("pid", stack.tgid));
        }
        if profile.split == Split::Thread {
            labels.push(self.text_label("thread", &stack.thread));
            labels.push(self.number_label("tid", stack.tid));
        }
        labels
    }

    fn is_inlined(&self, frame: u32) -> bool {
        let frame = self.profile.frames.get(frame as usize);
        frame.is_some_and(|frame| frame.kind == FrameKind::Inlined)
    }

    /// The locations of a stack, the innermost first. Those with inlined functions come after those of the frames.
    fn locations(&mut self, stack: &NamedStack) -> Vec<u64> {
        let mut locations = Vec::with_capacity(stack.frames.len());
        let profile = self.profile;
        let mut rest = &stack.frames[..];
        while let [outer, after @ ..] = rest {
            let is_code = |frame: &Frame| frame.kind == FrameKind::Native;
            let frame = profile.frames.get(*outer as usize);
            let mut count = 0;
            if frame.is_some_and(is_code) {
                let inlined = after.iter().take_while(|frame| self.is_inlined(**frame));
                count = inlined.count();
            }
            if count == 0 {
                locations.push(u64::from(*outer) + 1);
            } else {
                let number = self.inlined.of(&rest[..=count].into());
                locations.push((profile.frames.len() as u64) + 1 + u64::from(number));
            }
            rest = &after[count..];
        }
        locations.reverse();
        locations
    }

    /// The locations that [`locations`](Self::locations) has met, the innermost line first.
    fn inlined_locations(&self, message: &mut pb::Profile) {
        for (group, id) in self.inlined.list().iter().zip(1..) {
            let outer = group.first().map_or(0, |outer| *outer as usize);
            let mapping_id = message.location.get(outer).map_or(0, |at| at.mapping_id);
            if let Some(mapping) = message
                .mapping
                .get_mut((mapping_id as usize).wrapping_sub(1))
            {
                mapping.has_inline_frames = true;
            }
            let lines = group.iter().rev().filter_map(|frame| {
                let location = message.location.get(*frame as usize)?;
                location.line.first().cloned()
            });
            let line = lines.collect();
            message.location.push(pb::Location {
                id: self.profile.frames.len() as u64 + id,
                mapping_id,
                line,
            });
        }
    }

    /// One mapping a module, one function a name, one location a frame: a location's number is its
    /// frame's plus one, for zero is none.
    fn code(&mut self, message: &mut pb::Profile) {
        let mut mappings: HashMap<&str, u64> = HashMap::new();
        for (frame, id) in self.profile.frames.iter().zip(1..) {
            // A source is no file that is mapped.
            let is_code = !matches!(frame.kind, FrameKind::Marker | FrameKind::Python);
            let mapping_id = if !is_code {
                0
            } else if let Some(&known) = mappings.get(&*frame.module) {
                known
            } else {
                let id = message.mapping.len() as u64 + 1;
                mappings.insert(&frame.module, id);
                message.mapping.push(pb::Mapping {
                    id,
                    filename: self.text(&frame.module),
                    has_functions: true,
                    has_inline_frames: false,
                });
                id
            };
            let name = self.text(frame.plain_name());
            message.function.push(pb::Function {
                id,
                name,
                system_name: name,
                filename: self.text(&frame.module),
            });
            message.location.push(pb::Location {
                id,
                mapping_id,
                line: vec![pb::Line {
                    function_id: id,
                    line: i64::from(frame.line),
                }],
            });
        }
    }
}

/// What a sample's two values are called: how often, and how long.
fn value_names(profile_type: ProfileType) -> (&'static str, &'static str) {
    (profile_type.count_name(), profile_type.name())
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// The message.
fn message(profile: &Profile) -> pb::Profile {
    let mut writer = Writer {
        profile,
        strings: Numbers::default(),
        inlined: Numbers::default(),
    };
    // The first string is empty by the format.
    writer.text("");
    let (count, time) = value_names(profile.profile_type);
    let mut message = pb::Profile {
        sample_type: vec![
            writer.value_type(count, "count"),
            writer.value_type(time, NANOSECONDS),
        ],
        time_nanos: signed(profile.began_unix_ms.saturating_mul(1_000_000)),
        duration_nanos: duration_ns(profile.seconds),
        period_type: Some(writer.value_type(time, NANOSECONDS)),
        period: match profile.frequency {
            0 => 1,
            hertz => 1_000_000_000 / i64::from(hertz),
        },
        default_sample_type: writer.text(time),
        ..pb::Profile::default()
    };
    message.comment = comments(profile)
        .iter()
        .map(|comment| writer.text(comment))
        .collect();
    writer.code(&mut message);
    message.sample = profile
        .stacks
        .iter()
        .map(|stack| pb::Sample {
            location_id: writer.locations(stack),
            value: vec![signed(stack.count), signed(stack.ns)],
            label: writer.labels(stack),
        })
        .collect();
    writer.inlined_locations(&mut message);
    message.string_table = writer.strings.into_list();
    message
}

/// What the format has no field for.
fn comments(profile: &Profile) -> Vec<String> {
    let mut comments = vec![format!("lost: {}", profile.losses.total())];
    if let Some(ratio) = profile.symbol_ratio() {
        comments.push(format!("addresses named: {:.1} %", ratio * 100.0));
    }
    comments.extend(profile.inlined_note());
    comments
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a profile is at most minutes long, and the cast saturates"
)]
fn duration_ns(seconds: f64) -> i64 {
    (seconds * 1e9) as i64
}

/// Writes a profile, compressed.
///
/// # Errors
///
/// Those of the writer.
pub fn write_pprof(profile: &Profile, out: impl Write) -> io::Result<()> {
    let mut compressed = GzEncoder::new(out, Compression::fast());
    compressed.write_all(&message(profile).encode_to_vec())?;
    compressed.finish()?;
    Ok(())
}

#[cfg(test)]
mod tests;
