//! What takes memory from a container that it needs.

use ctrscope::diagnosis::verdict::{Resource, Verdict};
use ctrscope_tests::{ContainerSpec, measure::measured};
use tempfile::TempDir;

use super::{Expected, Scene, light};

const LIMIT: u64 = 24 << 20;

#[test]
fn a_page_cache_that_does_not_fit_into_the_limit() {
    measured(|trial| {
        let data = TempDir::new_in("/var/tmp").unwrap();
        let read = [
            "read-buffered",
            "--file",
            "/data/cached",
            "--size",
            "67108864",
        ];
        let victim = ContainerSpec::new("victim", &read)
            .memory(LIMIT)
            .data(data.path());
        let scene = Scene::start([victim, light("light")]);
        if scene.container("victim").cgroup_path("memory").is_err() {
            trial.skip("no hierarchy has the memory controller");
            return;
        }
        let expected = Expected {
            resource: Resource::Memory,
            verdicts: &[Verdict::MemoryLimited],
            evidence: &["refaults_per_second", "limit_hits"],
            remedy: "limit",
            ..Expected::default()
        };
        scene.judge(trial, "victim", &expected);
    });
}

#[test]
fn killed_for_want_of_memory() {
    measured(|trial| {
        let bytes = (2 * LIMIT).to_string();
        let victim = ContainerSpec::new("victim", &["overcommit", "--bytes", &bytes]);
        let scene = Scene::start([victim.memory(LIMIT), light("light")]);
        if scene.container("victim").cgroup_path("memory").is_err() {
            trial.skip("no hierarchy has the memory controller");
            return;
        }
        let expected = Expected {
            resource: Resource::Memory,
            verdicts: &[Verdict::OomKilled],
            evidence: &["oom_kills"],
            remedy: "limit",
            ..Expected::default()
        };
        scene.judge(trial, "victim", &expected);
    });
}
