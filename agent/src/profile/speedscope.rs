//! A profile as a file of speedscope (<https://www.speedscope.app/file-format-schema.json>): one of its
//! sampled profiles a container, stacks weighed in nanoseconds.

use std::{
    cmp::Reverse,
    collections::HashMap,
    io::{self, Write},
};

use serde::Serialize;

use super::named::{FrameKind, NamedStack, Profile};

const SCHEMA: &str = "https://www.speedscope.app/file-format-schema.json";

#[derive(Serialize)]
struct File<'a> {
    #[serde(rename = "$schema")]
    schema: &'static str,
    exporter: &'static str,
    name: String,
    shared: Shared<'a>,
    profiles: Vec<Sampled>,
}

#[derive(Serialize)]
struct Shared<'a> {
    frames: Vec<SharedFrame<'a>>,
}

#[derive(Serialize)]
struct SharedFrame<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    file: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u32>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Sampled {
    #[serde(rename = "type")]
    kind: &'static str,
    name: String,
    unit: &'static str,
    start_value: u64,
    end_value: u64,
    samples: Vec<Vec<usize>>,
    weights: Vec<u64>,
}

/// The first frame of each function of native code that has others, at other lines, by those: speedscope tells
/// functions apart by frames.
fn same_functions(profile: &Profile) -> HashMap<usize, usize> {
    let mut first = HashMap::new();
    let mut same = HashMap::new();
    for (place, frame) in profile.frames.iter().enumerate() {
        if matches!(frame.kind, FrameKind::Native | FrameKind::Inlined) {
            let known = *first
                .entry((&frame.name, &frame.module, frame.kind))
                .or_insert(place);
            if known != place {
                same.insert(place, known);
            }
        }
    }
    same
}

/// Writes a profile of `subject`.
///
/// # Errors
///
/// Those of the writer.
pub fn write_speedscope(profile: &Profile, subject: &str, out: &mut impl Write) -> io::Result<()> {
    // The frames of process and thread come after the others.
    let mut roots: Vec<String> = Vec::new();
    let mut profiles: Vec<Sampled> = profile
        .owners
        .iter()
        .map(|owner| Sampled {
            kind: "sampled",
            name: owner.label(),
            unit: "nanoseconds",
            start_value: 0,
            end_value: 0,
            samples: Vec::new(),
            weights: Vec::new(),
        })
        .collect();
    let mut known = HashMap::new();
    let same = same_functions(profile);
    let mut stacks: Vec<&NamedStack> = profile.stacks.iter().collect();
    // Those of one process stand side by side, also where time goes from left to right.
    stacks.sort_by(|a, b| {
        (&a.process, a.tgid, a.tid, &a.frames).cmp(&(&b.process, b.tgid, b.tid, &b.frames))
    });
    for stack in stacks {
        let Some(sampled) = profiles.get_mut(stack.owner as usize) else {
            continue;
        };
        let mut frames = Vec::with_capacity(stack.frames.len() + 2);
        for root in profile.roots(stack).into_iter().skip(1) {
            let place = *known.entry(root).or_insert_with_key(|root| {
                roots.push(root.clone());
                profile.frames.len() + roots.len() - 1
            });
            frames.push(place);
        }
        let own = stack.frames.iter().map(|&frame| frame as usize);
        frames.extend(own.map(|frame| same.get(&frame).copied().unwrap_or(frame)));
        sampled.samples.push(frames);
        sampled.weights.push(stack.ns);
        sampled.end_value = sampled.end_value.saturating_add(stack.ns);
    }
    profiles.sort_by_key(|sampled| Reverse(sampled.end_value));
    let frames = profile
        .frames
        .iter()
        .map(|frame| SharedFrame {
            name: frame.plain_name(),
            file: &frame.module,
            // Of native code it is where the function was, and not what tells it from others.
            line: (frame.line > 0 && frame.kind == FrameKind::Python).then_some(frame.line),
        })
        .chain(roots.iter().map(|name| SharedFrame {
            name,
            file: "",
            line: None,
        }))
        .collect();
    let file = File {
        schema: SCHEMA,
        exporter: concat!("ctrscope ", env!("CARGO_PKG_VERSION")),
        name: format!("{subject}, {}", profile.profile_type.measure()),
        shared: Shared { frames },
        profiles,
    };
    serde_json::to_writer(out, &file).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::profile::{
        Split,
        made::{made, with_inlined},
    };

    fn written(profile: &Profile) -> Value {
        let mut out = Vec::new();
        write_speedscope(profile, "web", &mut out).expect("a vector takes all");
        serde_json::from_slice(&out).expect("JSON")
    }

    #[test]
    fn each_container_is_a_profile_with_the_process_at_its_root() {
        let file = written(&made(Split::Name));
        assert_eq!(file["name"], "web, on-CPU");
        let frames = file["shared"]["frames"].as_array().expect("frames");
        let names = |sample: &Value| -> Vec<&str> {
            let places = sample.as_array().expect("a stack").iter();
            places
                .map(|place| {
                    let place = place.as_u64().expect("a number") as usize;
                    frames[place]["name"].as_str().expect("a name")
                })
                .collect()
        };
        let web = &file["profiles"][0];
        assert_eq!(
            (&web["name"], &web["unit"], &web["endValue"]),
            (&json!("shop/a/web"), &json!("nanoseconds"), &json!(50))
        );
        assert_eq!(
            names(&web["samples"][0]),
            ["nginx", "main", "do_syscall_64"]
        );
        assert_eq!(web["weights"], json!([30, 20]));
        assert_eq!(file["profiles"][1]["name"], "db");
        assert_eq!(
            frames[1],
            json!({"name": "do_syscall_64", "file": "[kernel]"})
        );
    }

    #[test]
    fn a_function_is_one_frame_at_whatever_line() {
        let file = written(&with_inlined());
        let samples = &file["profiles"][0]["samples"];
        let frames = file["shared"]["frames"].as_array().expect("frames");
        let place = |sample: usize, at: usize| samples[sample][at].as_u64().expect("a number");
        assert_eq!(place(0, 2), place(1, 2));
        assert_eq!(place(0, 3), place(1, 3));
        let middle = &frames[usize::try_from(place(0, 3)).expect("small")];
        assert_eq!(middle, &json!({"name": "middle", "file": "nginx"}));
    }

    #[test]
    fn an_empty_profile_is_a_file_without_profiles() {
        assert_eq!(written(&Profile::default())["profiles"], json!([]));
    }
}
