//! How soon the daemon ends, and how soon what it held in the kernel is gone.

use std::time::{Duration, Instant};

use ctrscope_tests::Agent;

use crate::daemon::Held;

/// From SIGTERM to the end: what stops a daemon gives it no less (Docker's grace time before SIGKILL).
const END_PATIENCE: Duration = Duration::from_secs(10);
/// The kernel frees programs and maps after a grace period of its own.
const FREED_PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn it_ends_within_ten_seconds_of_a_signal_and_leaves_nothing_in_the_kernel() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let mut agent = Agent::start(&[]).unwrap();
        let held = Held::of(&agent);
        let signalled = Instant::now();
        agent.signal(signal);
        let status = agent.wait().unwrap();
        let took = signalled.elapsed();
        println!("signal {signal}: {status} after {took:?}");
        assert!(
            status.success(),
            "signal {signal}: {status}\n{}",
            agent.log()
        );
        assert!(took <= END_PATIENCE, "signal {signal}: {took:?}");
        held.wait_freed(FREED_PATIENCE);
    }
}

#[test]
fn what_a_killed_one_held_is_freed_within_ten_seconds() {
    let mut agent = Agent::start(&[]).unwrap();
    let held = Held::of(&agent);
    agent.signal(libc::SIGKILL);
    agent.wait().unwrap();
    held.wait_freed(FREED_PATIENCE);
}
