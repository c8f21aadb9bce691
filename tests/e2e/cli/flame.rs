//! Recordings that do not go as they were asked for: interrupted, nowhere to write, fewer samples allowed.

use std::{
    fs,
    path::Path,
    process::{Child, Output, Stdio},
    time::Duration,
};

use ctrscope_tests::{
    Agent, AgentCommand, Container, ContainerSpec,
    agent::{describe, signal},
    bpf,
    perf::SampleRate,
    skip, wait_until,
};
use tempfile::tempdir;

use super::{PATIENCE, Source};
use crate::{
    observe::{group, wait_seen},
    profile::stacks,
};

/// Longer than a test may take.
const LONG: &str = "300";
/// Below what is asked for by default.
const LOWERED_HZ: u32 = 60;

fn spawn(source: &Source, arguments: &[&str]) -> Child {
    let mut command = AgentCommand::command().unwrap();
    match source {
        Source::Daemon(agent) => command.args(["--server", &agent.address().to_string()]),
        Source::Local => command.arg("--local"),
    };
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits for the end of a command that was asked to end.
fn ended(mut child: Child) -> Output {
    let ended = wait_until(PATIENCE, "the end of the recording", || {
        Ok(child.try_wait()?.map(|_| ()))
    });
    if ended.is_err() {
        child.kill().unwrap();
    }
    let output = child.wait_with_output().unwrap();
    ended.unwrap_or_else(|error| panic!("{error:#}: {}", describe(&output)));
    output
}

fn samples(file: &Path) -> u64 {
    let folded = fs::read_to_string(file).unwrap();
    stacks(&folded).map(|(_, count)| count).sum()
}

#[test]
fn an_interrupted_recording_is_written_and_its_place_is_free() {
    let agent = Agent::start(&[]).unwrap();
    let group = group();
    let container = Container::start(&group, &ContainerSpec::new("part", &["burn"])).unwrap();
    wait_seen(&agent, &container);
    let name = container.cgroup().trim_start_matches('/');
    let directory = tempdir().unwrap();
    // What all recordings share is there from the first on.
    let path = format!(
        "/api/v1/profile?container={}&seconds=1",
        name.replace('/', "%2F")
    );
    assert_eq!(agent.get_slow(&path, PATIENCE).unwrap().status, 200);
    let before = bpf::held(agent.pid()).unwrap();
    for source in [Source::Daemon(&agent), Source::Local] {
        for number in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            let file = directory.path().join(format!("{number}.folded"));
            let path = file.to_str().unwrap();
            let rest = ["--seconds", LONG, "--format", "folded", "-o", path];
            let arguments = [&["flame", "-c", name], &rest[..]].concat();
            // How long it takes until it samples is not known, so what was too short is done again.
            let output = wait_until(PATIENCE, "a part with samples", || {
                let child = spawn(&source, &arguments);
                let begun = wait_until(PATIENCE, "the file that is to be written", || {
                    Ok(file.exists().then_some(()))
                });
                std::thread::sleep(Duration::from_secs(2));
                signal(&child, number);
                let output = ended(child);
                begun?;
                let said = describe(&output);
                assert_eq!(output.status.code(), Some(130), "{number}: {said}");
                assert_eq!(file.exists(), said.contains("a part"), "{said}");
                Ok(file.exists().then_some(output))
            })
            .unwrap();
            assert!(samples(&file) > 0);
            fs::remove_file(&file).unwrap();
            let said = describe(&output);
            assert!(said.contains(&format!("of {LONG} s at 99 Hz")), "{said}");
        }
    }
    wait_until(PATIENCE, "nothing is left of the recordings", || {
        Ok((bpf::held(agent.pid())? == before).then_some(()))
    })
    .unwrap();
}

#[test]
fn nowhere_to_write_is_said_before_the_recording() {
    let agent = Agent::start(&[]).unwrap();
    let server = agent.address().to_string();
    let directory = tempdir().unwrap();
    let folder = directory.path().to_str().unwrap();
    // Each ends by itself long before the recording would.
    for output in [
        folder,
        "/sys/kernel/x.svg",
        "/proc/x.svg",
        "/no/such/folder/x.svg",
    ] {
        let arguments = [
            "--server",
            &server,
            "flame",
            "--seconds",
            LONG,
            "-o",
            output,
        ];
        let output = AgentCommand::run(&arguments, PATIENCE).unwrap();
        let said = describe(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(arguments[6]), "{said}");
    }
    let mut child = AgentCommand::command()
        .unwrap()
        .args(["--server", &server, "flame", "--seconds", LONG])
        .current_dir("/sys/kernel")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let status = wait_until(PATIENCE, "the end", || Ok(child.try_wait()?));
    if status.is_err() {
        child.kill().unwrap();
    }
    let said = describe(&child.wait_with_output().unwrap());
    assert_eq!(status.unwrap().code(), Some(1), "{said}");
    assert!(
        said.contains("flame-host.svg") && said.contains("-o"),
        "{said}"
    );
}

#[test]
fn a_lowered_limit_of_samples_is_kept_and_told() {
    let agent = Agent::start(&[]).unwrap();
    let group = group();
    let container = Container::start(&group, &ContainerSpec::new("slow", &["burn"])).unwrap();
    wait_seen(&agent, &container);
    let name = container.cgroup().trim_start_matches('/');
    let directory = tempdir().unwrap();
    let file = directory.path().join("x.svg");
    let path = file.to_str().unwrap();
    let Ok(_lowered) = SampleRate::lower(LOWERED_HZ) else {
        skip("kernel.perf_event_max_sample_rate cannot be set");
        return;
    };
    for source in [Source::Daemon(&agent), Source::Local] {
        let output = source.run(&["flame", "-c", name, "--seconds", "2", "-o", path]);
        let said = describe(&output);
        assert!(output.status.success(), "{said}");
        assert!(said.contains("at 60 Hz"), "{said}");
        assert!(
            said.contains("kernel.perf_event_max_sample_rate allows 60 Hz and not the 99"),
            "{said}"
        );
        let svg = fs::read_to_string(&file).unwrap();
        assert!(svg.contains("60 of 99 Hz"), "{svg}");
    }
    let check = describe(&Source::Local.run(&["check"]));
    assert!(
        check.contains("kernel.perf_event_max_sample_rate is 60"),
        "{check}"
    );
}
