//! Time of cgroups that a container makes inside its own.

use ctrscope_tests::{Agent, Container, ContainerSpec, measure::measured};

use crate::{
    hierarchy::{PATIENCE, assert_one_entry, move_inside},
    observe::{Reading, group, record_sched},
};

#[test]
fn time_in_a_cgroup_inside_a_container_is_the_containers() {
    measured(|trial| {
        let agent = Agent::start(&[]).unwrap();
        let group = group();
        let work = ["burn", "--threads", "2", "--seconds", "3"];
        let spec = ContainerSpec::new("nested", &work).gated().held();
        let container = Container::start(&group, &spec).unwrap();
        let before = Reading::take(&agent, &container);
        move_inside(&container);
        let watch = trial.watch(agent.pid(), &group);
        container.open_gate().unwrap();
        container.wait_report(PATIENCE).unwrap();
        watch.end();
        let after = Reading::take(&agent, &container);
        assert!(after.usage_since(&before) > 1_000_000_000);
        record_sched(trial, container.name(), &before, &after);
        assert_one_entry(&agent, &container);
    });
}
