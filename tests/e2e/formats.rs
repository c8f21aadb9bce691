//! Profiles as others read them: Go's pprof, and the schema of speedscope.

use std::{process::Command, time::Duration};

use ctrscope_tests::{
    Agent, Container, ContainerSpec, agent::describe, binaries::target, skip,
    workload::hot::HOT_FUNCTIONS,
};
use serde_json::Value;

use crate::observe::{group, leniency, wait_seen};

/// Difference of a share, in parts of one. In 3 s and 99 Hz on a thread the standard error of a share
/// of one half is 3 points.
const TOLERANCE: f64 = 0.1;
const PATIENCE: Duration = Duration::from_secs(30);

/// An agent, a container whose functions are known, and the container's name in a query.
fn hot() -> (Agent, Container, String) {
    let agent = Agent::start(&[]).unwrap();
    let container = Container::start(&group(), &ContainerSpec::new("hot", &["burn"])).unwrap();
    let name = wait_seen(&agent, &container).identity.container;
    (agent, container, name.replace('/', "%2F"))
}

/// `go tool pprof` with its own HTTP client, as whoever gives it the address.
fn pprof(arguments: &[&str], url: &str) -> Option<String> {
    let output = Command::new("go")
        .args(["tool", "pprof", "-symbolize=none"])
        .args(arguments)
        .arg(url)
        .env("PPROF_TMPDIR", std::env::temp_dir())
        .env("GOCACHE", "off")
        .output();
    let Ok(output) = output else {
        skip("go is not installed");
        return None;
    };
    assert!(output.status.success(), "{}", describe(&output));
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn go_reads_a_profile_by_its_address() {
    let (agent, _container, query) = hot();
    let url = |seconds: u32| {
        format!(
            "http://{}/debug/pprof/profile?seconds={seconds}&container={query}",
            agent.address()
        )
    };
    let Some(top) = pprof(&["-top", "-nodecount=50"], &url(3)) else {
        return;
    };
    assert!(top.contains("Type: cpu"), "{top}");
    // `     1.50s 50.00% 50.00%      1.50s 50.00%  hot_fifty`
    let share = |function: &str| {
        top.lines()
            .find(|line| line.split_whitespace().last() == Some(function))
            .and_then(|line| line.split_whitespace().nth(4)?.strip_suffix('%'))
            .and_then(|percent| percent.parse::<f64>().ok())
            .unwrap_or_else(|| panic!("no {function} in:\n{top}"))
            / 100.0
    };
    for (function, expected) in HOT_FUNCTIONS {
        let measured = share(function);
        println!("{function}: {measured:.3} of {expected}");
        assert!(
            (measured - expected).abs() <= TOLERANCE * leniency() as f64,
            "{top}"
        );
    }
    let Some(tags) = pprof(&["-tags"], &url(1)) else {
        return;
    };
    for tag in ["container: Total", "type: Total", "process: Total", "cpu"] {
        assert!(tags.contains(tag), "{tag} is not in:\n{tags}");
    }
    let raw = pprof(
        &["-raw", "-sample_index=samples"],
        &format!("{}&split=thread", url(1)),
    );
    let raw = raw.unwrap();
    for part in [
        "samples/count cpu/nanoseconds",
        "thread:",
        "tid:",
        "[kernel]",
    ] {
        assert!(raw.contains(part), "{part} is not in:\n{raw}");
    }
}

#[test]
fn a_profile_for_speedscope_follows_its_schema() {
    let schema = target().join("speedscope/package/dist/release/file-format-schema.json");
    let python = target().join("venv/bin/python");
    if !schema.exists() || !python.exists() {
        skip("the schema of speedscope is not there: cargo xtask setup --test");
        return;
    }
    let (agent, _container, query) = hot();
    let path = format!("/api/v1/profile?seconds=1&format=speedscope&container={query}");
    let answer = agent.get_slow(&path, PATIENCE).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
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
    let text = answer.text();
    let output = check(&text);
    assert!(output.status.success(), "{}", describe(&output));
    // The check itself.
    assert!(!check(&text.replace("sampled", "simple")).status.success());

    let file: Value = serde_json::from_str(&text).unwrap();
    let frames = file["shared"]["frames"].as_array().unwrap();
    let samples = file["profiles"][0]["samples"].as_array().unwrap();
    let hot = samples
        .iter()
        .flat_map(|sample| sample.as_array().unwrap())
        .any(|place| frames[place.as_u64().unwrap() as usize]["name"] == HOT_FUNCTIONS[0].0);
    assert!(hot, "{text}");
}
