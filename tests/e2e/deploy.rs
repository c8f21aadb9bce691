//! The files to deploy: manifest, alerting rules.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use ctrscope_tests::{
    agent::describe,
    binaries::{repository, target},
    skip,
};
use tempfile::TempDir;

/// `kubernetes-validate` of the Python environment that `cargo xtask setup --test` makes.
fn validator() -> Option<PathBuf> {
    let path = target().join("venv/bin/kubernetes-validate");
    path.exists().then_some(path)
}

fn validate(validator: &Path, manifest: &Path) -> Output {
    Command::new(validator)
        .arg("--strict")
        .arg(manifest)
        .output()
        .unwrap()
}

#[test]
fn the_daemonset_follows_the_schema_of_kubernetes() {
    let Some(validator) = validator() else {
        skip("kubernetes-validate is not installed: cargo xtask setup --test");
        return;
    };
    let manifest = repository().join("deploy/daemonset.yaml");
    let output = validate(&validator, &manifest);
    assert!(output.status.success(), "{}", describe(&output));

    // The check itself: a field that the schema does not know, and one of another type.
    let text = fs::read_to_string(&manifest).unwrap();
    let directory = TempDir::new().unwrap();
    for (field, broken) in [
        ("hostPID: true", "hostPIDs: true"),
        ("hostPID: true", "hostPID: 7"),
    ] {
        assert!(text.contains(field));
        let path = directory.path().join("broken.yaml");
        fs::write(&path, text.replace(field, broken)).unwrap();
        let output = validate(&validator, &path);
        assert!(!output.status.success(), "{broken} was accepted");
    }
}

#[test]
fn prometheus_takes_the_rules() {
    let rules = repository().join("dashboards/rules.yml");
    let Ok(output) = Command::new(ctrscope_tests::binaries::prometheus("promtool"))
        .args(["check", "rules"])
        .arg(&rules)
        .output()
    else {
        skip("promtool is not installed");
        return;
    };
    assert!(output.status.success(), "{}", describe(&output));
    assert!(describe(&output).contains("rules found"));
}
