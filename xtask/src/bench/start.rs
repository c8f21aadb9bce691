//! How long the daemon and a profile take to start.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use ctrscope_tests::{Agent, wait_until};

use super::{
    Effort, bpf,
    report::{Section, Table, median, number},
};
use crate::step;

pub(super) fn measure(effort: &Effort) -> Result<Section> {
    let (mut ready, mut sampling, mut rest) = (Vec::new(), Vec::new(), Vec::new());
    let starts = effort.starts;
    step::timed(
        &format!("start the agent and a profile, {starts} times"),
        || {
            for _ in 0..starts {
                let start = Instant::now();
                let agent = Agent::start(&[])?;
                ready.push(ms(start.elapsed()));
                let (loaded, whole) = profile(&agent)?;
                sampling.push(ms(loaded));
                rest.push(ms(whole.saturating_sub(Duration::from_secs(1))));
                agent.stop()?;
            }
            Ok(())
        },
    )?;
    let mut table = Table::new(&["start", "median ms", "least", "most"]);
    for (what, values) in [
        ("daemon: from its start until /readyz says yes", &ready),
        (
            "profile: from the request until its program is loaded",
            &sampling,
        ),
        ("profile of 1 s: what the answer takes beyond 1 s", &rest),
    ] {
        table.row([
            what.to_owned(),
            number(median(values)),
            number(values.iter().copied().fold(f64::INFINITY, f64::min)),
            number(values.iter().copied().fold(0.0, f64::max)),
        ]);
    }
    Ok(Section {
        title: "Start",
        method: format!(
            "{starts} times, looked at each 10 ms. The profile is the first one of its daemon, which reads the \
             kernel's symbols."
        ),
        tables: vec![table],
        targets: Vec::new(),
    })
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Time until the program of a profile is there, and until the answer is.
fn profile(agent: &Agent) -> Result<(Duration, Duration)> {
    thread::scope(|scope| {
        let start = Instant::now();
        let request = scope.spawn(move || {
            let answer = agent.get_slow(
                "/api/v1/profile?type=cpu&seconds=1&format=svg",
                Duration::from_secs(30),
            );
            (answer, start.elapsed())
        });
        let loaded = wait_until(Duration::from_secs(10), "program of the profile", || {
            let programs = bpf::programs_of(agent.pid())?;
            let found = programs
                .iter()
                .any(|program| program.name == "profile_sample");
            Ok(found.then(|| start.elapsed()))
        });
        let Ok((answer, whole)) = request.join() else {
            bail!("the request for a profile panicked");
        };
        let answer = answer?;
        if answer.status != 200 {
            bail!("profile: {} {}", answer.status, answer.text());
        }
        Ok((loaded?, whole))
    })
}
