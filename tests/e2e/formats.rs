//! Profiles as others read them: Go's pprof, and the schema of speedscope.

use std::process::Command;

use ctrscope_tests::{
    Agent, Container, agent::describe, binaries::target, skip, wait_until,
    workload::hot::HOT_FUNCTIONS,
};
use serde_json::Value;

use crate::{
    observe::group,
    profile::{PATIENCE, hot, query, record_until},
};

/// Why [`pprof`] may give nothing.
pub(crate) const NO_GO: &str = "go is not installed";

/// `go tool pprof` with its own HTTP client, as whoever gives it the address.
pub(crate) fn pprof(arguments: &[&str], url: &str) -> Option<String> {
    let output = Command::new("go")
        .args(["tool", "pprof", "-symbolize=none"])
        .args(arguments)
        .arg(url)
        .env("PPROF_TMPDIR", std::env::temp_dir())
        .env("GOCACHE", "off")
        .output()
        .ok()?;
    assert!(output.status.success(), "{}", describe(&output));
    Some(String::from_utf8(output.stdout).unwrap())
}

/// The address of a recording for pprof.
pub(crate) fn url(agent: &Agent, container: &Container, seconds: u32) -> String {
    let query = query(agent, container, seconds);
    format!("http://{}/debug/pprof/profile?{query}", agent.address())
}

/// Part of the time that a function and those below it have, in what `-top` printed.
pub(crate) fn share(top: &str, function: &str) -> Option<f64> {
    // `     1.50s 50.00% 50.00%      1.50s 50.00%  hot_fifty`
    let mut lines = top.lines();
    let line = lines.find(|line| line.split_whitespace().last() == Some(function))?;
    let percent = line.split_whitespace().nth(4)?.strip_suffix('%')?;
    Some(percent.parse::<f64>().ok()? / 100.0)
}

#[test]
fn go_reads_a_profile_by_its_address() {
    let agent = Agent::start(&[]).unwrap();
    let container = hot(&group(), 1);
    let url = url(&agent, &container, 1);
    // Beside others who want the CPUs a second may be too short for a sample of each function.
    let read_until = |arguments: &[&str], url: &str, is_complete: &dyn Fn(&str) -> bool| {
        let mut last = None;
        wait_until(PATIENCE, "all that pprof is to print", || {
            last = pprof(arguments, url);
            Ok(last
                .as_deref()
                .is_none_or(is_complete)
                .then_some(last.is_some()))
        })
        .unwrap_or_else(|error| panic!("{error:#}:\n{}", last.unwrap_or_default()))
    };
    let is_there = read_until(&["-top", "-nodecount=50"], &url, &|top| {
        let mut functions = HOT_FUNCTIONS.iter();
        top.contains("Type: cpu") && functions.all(|(function, _)| share(top, function).is_some())
    });
    if !is_there {
        skip(NO_GO);
        return;
    }
    let has_all = |text: &str, parts: &[&str]| parts.iter().all(|part| text.contains(part));
    read_until(&["-tags"], &url, &|tags| {
        let parts = ["container: Total", "type: Total", "process: Total", "cpu"];
        has_all(tags, &parts)
    });
    let by_thread = format!("{url}&split=thread");
    read_until(&["-raw", "-sample_index=samples"], &by_thread, &|raw| {
        let columns = "samples/count cpu/nanoseconds";
        has_all(raw, &[columns, "thread:", "tid:", "[kernel]"])
    });
}

#[test]
fn a_profile_for_speedscope_follows_its_schema() {
    let schema = target().join("speedscope/package/dist/release/file-format-schema.json");
    let python = target().join("venv/bin/python");
    if !schema.exists() || !python.exists() {
        skip("the schema of speedscope is not there: cargo xtask setup --test");
        return;
    }
    let agent = Agent::start(&[]).unwrap();
    let container = hot(&group(), 1);
    let text = record_until(&agent, &container, "speedscope", has_hot_function);
    let directory = tempfile::tempdir().unwrap();
    let check = |text: &str| {
        let file = directory.path().join("profile.json");
        std::fs::write(&file, text).unwrap();
        let script = "import json, sys, jsonschema\n\
                      jsonschema.validate(*(json.load(open(name)) for name in sys.argv[1:]))";
        Command::new(&python)
            .args(["-c", script])
            .args([&file, &schema])
            .output()
            .unwrap()
    };
    let output = check(&text);
    assert!(output.status.success(), "{}", describe(&output));
    // The check itself.
    assert!(!check(&text.replace("sampled", "simple")).status.success());
}

/// Whether a sample of a profile for speedscope has the first of the known functions.
fn has_hot_function(text: &str) -> bool {
    let file: Value = serde_json::from_str(text).unwrap();
    let frames = file["shared"]["frames"].as_array().unwrap();
    let samples = file["profiles"][0]["samples"].as_array();
    samples
        .into_iter()
        .flatten()
        .flat_map(|sample| sample.as_array().unwrap())
        .any(|place| frames[place.as_u64().unwrap() as usize]["name"] == HOT_FUNCTIONS[0].0)
}
