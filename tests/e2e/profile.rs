//! The flame graph of a program whose hot functions are known.

use std::time::Duration;

use ctrscope_tests::{Agent, Container, ContainerSpec, workload::hot::HOT_FUNCTIONS};

use crate::observe::{group, leniency, wait_seen};

/// Difference of a share, in parts of one: what the issue allows. At 99 Hz and 10 s on two threads
/// the statistical error of a share of one half is below 1.2 points.
const TOLERANCE: f64 = 0.05;
const PATIENCE: Duration = Duration::from_secs(40);

#[test]
fn hot_functions_of_a_container_appear_with_their_shares() {
    let agent = Agent::start(&[]).unwrap();
    let group = group();
    // The binary is at a path that does not exist on the host.
    assert!(!std::path::Path::new(ctrscope_tests::container::WORKLOAD_PATH).exists());
    let spec = ContainerSpec::new("hot", &["burn", "--threads", "2"]);
    let container = Container::start(&group, &spec).unwrap();
    let name = wait_seen(&agent, &container).identity.container;
    let query = name.replace('/', "%2F");
    let path = |format: &str, seconds: u32| {
        format!("/api/v1/profile?container={query}&type=cpu&seconds={seconds}&format={format}")
    };
    let answer = agent.get_slow(&path("folded", 10), PATIENCE).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let folded = answer.text();
    let mut total = 0;
    let mut counts = [0u64; HOT_FUNCTIONS.len()];
    for line in folded.lines() {
        let (stack, count) = line.rsplit_once(' ').unwrap();
        let count: u64 = count.parse().unwrap();
        total += count;
        let mut frames = stack.split(';');
        assert_eq!(frames.next(), Some(name.as_str()), "root frame of {line}");
        for (hot, (function, _)) in counts.iter_mut().zip(HOT_FUNCTIONS) {
            if stack.split(';').any(|frame| frame == function) {
                *hot += count;
            }
        }
    }
    // Two threads, ten seconds, 99 Hz: 1,980, less what other tenants of the CPUs took.
    assert!(total > 300, "only {total} samples:\n{folded}");
    for (count, (function, share)) in counts.iter().zip(HOT_FUNCTIONS) {
        let measured = *count as f64 / total as f64;
        println!("{function}: {measured:.3} of {share}");
        assert!(
            (measured - share).abs() <= TOLERANCE * leniency() as f64,
            "{function}: {measured}\n{folded}"
        );
    }

    let svg = agent.get_slow(&path("svg", 1), PATIENCE).unwrap();
    assert_eq!(svg.status, 200);
    let svg = svg.text();
    assert!(svg.contains("<svg") && svg.contains("hot_fifty"));
}
