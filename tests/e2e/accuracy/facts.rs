//! Facts of a window against the kernel's own files over the same work.

mod network;

use std::path::Path;

use ctrscope_tests::{
    Agent,
    measure::{Trial, measured},
};

use crate::{
    facts::{
        Amounts, MemoryAccount, Quotas, Subjects, check_devices, check_memory, facts_of, number,
    },
    observe::group,
};

/// Of the kernel's counters, which go on while one after the other is read.
const TOLERANCE: f64 = 0.02;
const AMOUNTS: Amounts = Amounts {
    burn_seconds: "3",
    read_bytes: "201326592",
    write_bytes: 16 << 20,
};

fn near(trial: &Trial, what: &str, fact: f64, kernel: f64, floor: f64) {
    trial.near(what, fact, kernel, (kernel * TOLERANCE).max(floor));
}

/// Periods, throttled periods and throttled seconds of a cgroup.
fn throttling(directory: &Path) -> [f64; 3] {
    let stat = |key| number(directory, "cpu.stat", key) as f64;
    [
        stat("nr_periods"),
        stat("nr_throttled"),
        (stat("throttled_usec") / 1e6).max(stat("throttled_time") / 1e9),
    ]
}

#[test]
fn facts_of_containers_agree_with_the_kernels_files() {
    measured(|trial| {
        let agent = Agent::start(&[]).unwrap();
        let group = group();
        let subjects = Subjects::start(&agent, &group, &AMOUNTS);
        let Subjects {
            capped,
            thrash,
            writer,
            ..
        } = &subjects;
        let quotas = Quotas::set(capped);
        let usage = capped.cpu_usage_ns().unwrap();
        let throttled = quotas.directories.each_ref().map(|path| throttling(path));
        let memory = MemoryAccount::read(thrash);
        let disks = writer.block_accounts().ok();
        let watch = trial.watch(agent.pid(), &group);
        subjects.work();
        watch.end();

        let (facts, window) = facts_of(&agent, capped);
        let usage = (capped.cpu_usage_ns().unwrap() - usage) as f64 / 1e9;
        near(trial, "used", facts.cpu.used_seconds.unwrap(), usage, 0.02);
        quotas.check(capped, &facts, &window);
        let own = &facts.cpu.quotas[0];
        assert!(own.throttled_periods > 10, "{own:?}");
        let all = facts.cpu.quotas.iter().zip(["own", "pod's"]);
        for ((quota, whose), (directory, before)) in
            all.zip(quotas.directories.iter().zip(throttled))
        {
            let after = throttling(directory);
            let judge = |what: &str, fact, index: usize, floor| {
                let kernel = after[index] - before[index];
                near(trial, &format!("{whose} {what}"), fact, kernel, floor);
            };
            // A timer may go on for a few periods after the last task slept.
            judge("periods", quota.periods as f64, 0, 3.0);
            judge("throttled periods", quota.throttled_periods as f64, 1, 2.0);
            judge("throttled seconds", quota.throttled_seconds, 2, 0.2);
        }

        let (facts, window) = facts_of(&agent, thrash);
        check_memory(memory.as_ref(), &facts, &window);
        if let Some(memory) = memory {
            let kernel = memory.added();
            let hits = facts.memory.limits[0].limit_hits.unwrap();
            near(trial, "hits", hits as f64, kernel.hits as f64, 5.0);
            if let Some(refaults) = facts.memory.refaults {
                let kernel = kernel.refaults as f64;
                near(trial, "refaults", refaults as f64, kernel, 100.0);
            }
        }

        let (facts, window) = facts_of(&agent, writer);
        check_devices(writer, disks, AMOUNTS.write_bytes, &facts, &window);
    });
}
