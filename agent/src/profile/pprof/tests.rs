use std::io::Read as _;

use flate2::read::GzDecoder;

use super::*;
use crate::profile::made::{made, with_inlined};

/// What was written, read back.
fn written(profile: &Profile) -> pb::Profile {
    let mut out = Vec::new();
    write_pprof(profile, &mut out).expect("a vector takes all");
    let mut bytes = Vec::new();
    GzDecoder::new(out.as_slice())
        .read_to_end(&mut bytes)
        .expect("gzip");
    pb::Profile::decode(bytes.as_slice()).expect("a profile")
}

fn text(message: &pb::Profile, at: i64) -> &str {
    &message.string_table[usize::try_from(at).expect("a place")]
}

/// `key=value` of each label of a sample.
fn labels(message: &pb::Profile, sample: &pb::Sample) -> Vec<String> {
    let show = |label: &pb::Label| {
        let key = text(message, label.key);
        match label.num {
            0 => format!("{key}={}", text(message, label.str)),
            number => format!("{key}={number}"),
        }
    };
    sample.label.iter().map(show).collect()
}

/// Function and mapping of each frame of a sample, the innermost first.
fn frames(message: &pb::Profile, sample: &pb::Sample) -> Vec<String> {
    let place = |id: u64| usize::try_from(id - 1).expect("a place");
    let show = |&id: &u64| {
        let location = &message.location[place(id)];
        let function = &message.function[place(location.line[0].function_id)];
        let mapping = match location.mapping_id {
            0 => "",
            id => text(message, message.mapping[place(id)].filename),
        };
        format!("{} {mapping}", text(message, function.name))
    };
    sample.location_id.iter().map(show).collect()
}

#[test]
fn samples_have_two_values_and_say_whose_they_are() {
    let message = written(&made(Split::Name));
    assert_eq!(message.string_table[0], "");
    let types: Vec<_> = message
        .sample_type
        .iter()
        .map(|one| (text(&message, one.kind), text(&message, one.unit)))
        .collect();
    assert_eq!(types, [("samples", "count"), ("cpu", "nanoseconds")]);
    assert_eq!(text(&message, message.default_sample_type), "cpu");
    assert_eq!(message.period, 10_101_010);
    assert_eq!(message.time_nanos, 1_700_000_000_000_000_000);
    assert_eq!(message.duration_nanos, 2_000_000_000);
    let [web, db, _] = message.sample.as_slice() else {
        panic!("{} samples", message.sample.len());
    };
    assert_eq!(web.value, [3, 30]);
    assert_eq!(
        labels(&message, web),
        [
            "namespace=shop",
            "pod=a",
            "container=web",
            "type=cpu",
            "process=nginx"
        ]
    );
    assert_eq!(
        frames(&message, web),
        ["do_syscall_64 [kernel]", "main nginx"]
    );
    assert_eq!(
        labels(&message, db),
        ["container=db", "type=cpu", "process=java"]
    );
    assert_eq!(frames(&message, db), ["run [anon]", "[broken stack] "]);
}

#[test]
fn processes_and_threads_are_labels_where_they_are_told_apart() {
    let message = written(&made(Split::Process));
    assert_eq!(
        labels(&message, &message.sample[1]),
        ["container=db", "type=cpu", "process=java", "pid=9"]
    );
    let message = written(&made(Split::Thread));
    assert_eq!(
        labels(&message, &message.sample[1])[3..],
        ["pid=9", "thread=worker", "tid=10"]
    );
}

#[test]
fn what_is_missing_stands_in_the_comments() {
    let mut profile = made(Split::Name);
    profile.losses.samples = 7;
    let message = written(&profile);
    let comments: Vec<_> = message
        .comment
        .iter()
        .map(|&comment| text(&message, comment))
        .collect();
    assert_eq!(comments, ["lost: 7", "addresses named: 75.0 %"]);
}

#[test]
fn an_empty_profile_and_absurd_numbers_do_no_harm() {
    assert_eq!(written(&Profile::default()).sample, []);
    let mut profile = made(Split::Name);
    profile.seconds = f64::NAN;
    profile.began_unix_ms = u64::MAX;
    profile.stacks[0].count = u64::MAX;
    profile.stacks[0].owner = 99;
    let message = written(&profile);
    assert_eq!(message.sample[0].value[0], i64::MAX);
    assert_eq!(message.duration_nanos, 0);
}

#[test]
fn what_was_inlined_shares_a_location_with_what_it_is_in() {
    let message = written(&with_inlined());
    let sample = &message.sample[0];
    assert_eq!(sample.location_id.len(), 3);
    let at = |id: u64| {
        let mut locations = message.location.iter();
        locations.find(|location| location.id == id).expect("there")
    };
    let lines = |id: u64| {
        let lines = at(id).line.iter().map(|line| {
            let function = &message.function[usize::try_from(line.function_id - 1).expect("small")];
            format!("{}:{}", text(&message, function.name), line.line)
        });
        lines.collect::<Vec<_>>()
    };
    // The innermost first, locations and lines.
    assert_eq!(lines(sample.location_id[0]), ["do_syscall_64:0"]);
    assert_eq!(
        lines(sample.location_id[1]),
        ["leaf:3", "middle:4", "outer:8"]
    );
    assert_eq!(lines(sample.location_id[2]), ["main:0"]);
    let mapping = |id: u64| at(id).mapping_id;
    assert_eq!(
        mapping(sample.location_id[1]),
        mapping(sample.location_id[2])
    );
    let has_inlined = |mapping: &pb::Mapping| mapping.has_inline_frames;
    let inlined: Vec<bool> = message.mapping.iter().map(has_inlined).collect();
    assert_eq!(inlined, [true, false, false]);
    // Numbers are given once.
    let mut ids: Vec<u64> = message.location.iter().map(|at| at.id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), message.location.len());
    let comment = message.comment.last().expect("comments");
    let left_out = "inlined functions of 2 files left out";
    assert_eq!(text(&message, *comment), left_out);
}
