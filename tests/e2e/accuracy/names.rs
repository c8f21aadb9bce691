//! Names whose containers are forgotten soon: what becomes of their series and totals then.

mod workloads;

use std::time::{Duration, Instant};

use ctrscope_tests::{containerd::Containerd, docker::Docker, wait_until};

use crate::names::{PATIENCE, agent_at, agent_with, agent_with_no_runtime, cpu_of, cri, wait_exit};

/// What is counted of a second of burning, at least.
const COUNTED_SECONDS: f64 = 0.05;
/// For the end of an agent whose socket hangs.
const END_PATIENCE: Duration = Duration::from_secs(30);
const BRIEF: [&str; 3] = ["burn", "--seconds", "1"];

#[test]
fn a_container_made_again_goes_on_in_its_series() {
    let docker = Docker::start().unwrap();
    let agent = agent_with(&docker, &["--retention", "2s"]);
    let mut last = 0.0;
    let mut sum_of_ends = 0.0;
    for round in 0..3 {
        let before = last;
        docker.start_container("again", &["--rm"], &BRIEF).unwrap();
        // Longer than the retention of the one before, whose end must not show.
        let watched = Instant::now();
        wait_until(PATIENCE, "two retentions passed", || {
            if let Some(now) = cpu_of(&agent.metrics()?, "again") {
                assert!(now >= last, "round {round}: {last} fell to {now}");
                last = now;
            } else {
                assert!(round == 0 || watched.elapsed() > Duration::from_secs(2));
            }
            Ok((watched.elapsed() > Duration::from_millis(2_500)).then_some(()))
        })
        .unwrap();
        assert!(
            last > before + COUNTED_SECONDS,
            "round {round}: {before} and {last}"
        );
        sum_of_ends = last;
    }
    println!("three containers of one name: {sum_of_ends:.3} s");
}

#[test]
fn a_second_of_a_named_container_is_counted() {
    let docker = Docker::start().unwrap();
    let agent = agent_with(&docker, &[]);
    docker.start_container("brief", &["--rm"], &BRIEF).unwrap();
    let burned = cpu_of(&wait_exit(&agent, "brief"), "brief").unwrap();
    println!("burned {burned:.3} s in one that had 1 s");
    assert!(burned > COUNTED_SECONDS, "{burned}");
}

#[test]
fn a_container_of_a_pod_that_starts_anew_goes_on_in_its_series() {
    let containerd = Containerd::start().unwrap();
    let agent = agent_at(&containerd.socket(), &["--retention", "1s"]);
    let pod = containerd.run_pod("shop", "job-0", &[]).unwrap();
    let mut last = 0.0;
    for attempt in 0..3 {
        let id = containerd
            .start_container(&pod, "work", attempt, &BRIEF)
            .unwrap();
        let before = last;
        let began = Instant::now();
        wait_until(PATIENCE, "it burned", || {
            if let Some(now) = cri::cpu_of(&agent.metrics()?, "job-0", "work") {
                assert!(now >= last, "attempt {attempt}: {last} fell to {now}");
                last = now;
            }
            let is_over = began.elapsed().as_millis() > 1_500;
            Ok((is_over && last > before + COUNTED_SECONDS).then_some(()))
        })
        .unwrap();
        containerd.remove_container(&id).unwrap();
    }
    println!("three attempts: {last:.3} s");
}

#[test]
fn an_agent_whose_socket_hangs_ends_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let (agent, _) = agent_with_no_runtime(folder.path());
    let began = Instant::now();
    assert!(agent.stop().unwrap().success());
    assert!(began.elapsed() < END_PATIENCE, "{:?}", began.elapsed());
}
