//! Documents, dashboards and rules name what the code exports, and nothing else.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use super::{
    METRICS, MetricKind, Scope, reference_table,
    tests::{count_series, most_series},
};
use crate::export::synthetic::{idle_snapshot, synthetic_snapshot};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// With `CTRSCOPE_UPDATE_DOCS` set it writes the tables instead.
#[test]
fn the_reference_lists_what_the_code_exports() {
    let path = repository().join("docs/metrics.md");
    let mut document = fs::read_to_string(&path).expect("the reference is there");
    for (scope, name) in [
        (Scope::Container, "container"),
        (Scope::Workload, "workload"),
        (Scope::Pair, "pair"),
        (Scope::Agent, "agent"),
    ] {
        let opening = format!("<!-- {name} metrics, written by the drift test -->\n");
        let start = document.find(&opening).expect("the table opens") + opening.len();
        let end = start
            + document[start..]
                .find("\n<!-- end -->")
                .expect("the table ends");
        document.replace_range(start..end, reference_table(scope).trim_end());
    }
    let usual = |scope| count_series(&synthetic_snapshot(1), scope);
    let idle = count_series(&idle_snapshot(1), Scope::Container);
    let opening = "<!-- series, written by the drift test -->\n";
    let start = document.find(opening).expect("the count opens") + opening.len();
    let end = start
        + document[start..]
            .find("\n<!-- end -->")
            .expect("the count ends");
    let count = format!(
        "A container that does nothing has {idle} series, one that reads and writes {}; one that also flushes, discards and has exited has {}, which is the most.\nA workload that reads and writes has {} series, one that also flushes and discards {}.",
        usual(Scope::Container),
        most_series(Scope::Container),
        usual(Scope::Workload),
        most_series(Scope::Workload),
    );
    document.replace_range(start..end, &count);
    if std::env::var_os("CTRSCOPE_UPDATE_DOCS").is_some() {
        fs::write(&path, &document).expect("the reference is written");
    }
    let found = fs::read_to_string(&path).expect("the reference is there");
    assert!(
        found == document,
        "docs/metrics.md is not what the code exports; run \
         `CTRSCOPE_UPDATE_DOCS=1 cargo test -p ctrscope --lib the_reference`"
    );
}

/// Names of metrics in a text: words that begin with the prefix of this project.
fn mentioned(text: &str) -> BTreeSet<String> {
    let word = |character: char| character.is_ascii_alphanumeric() || "_:".contains(character);
    text.split(|character| !word(character))
        .filter(|word| word.starts_with("ctrscope_"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn dashboards_and_rules_name_only_metrics_that_exist() {
    let mut exported = BTreeSet::new();
    for metric in METRICS {
        exported.insert(metric.name.to_owned());
        if metric.kind == MetricKind::Histogram {
            exported
                .extend(["_bucket", "_sum", "_count"].map(|part| format!("{}{part}", metric.name)));
        }
    }
    let mut used = 0;
    for entry in fs::read_dir(repository().join("dashboards")).expect("the folder is there") {
        let path = entry.expect("it can be listed").path();
        let text = fs::read_to_string(&path).expect("it can be read");
        if path
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            serde_json::from_str::<serde_json::Value>(&text).expect("a dashboard is JSON");
        }
        let recorded: BTreeSet<&str> = text
            .lines()
            .filter_map(|line| line.trim().strip_prefix("- record: "))
            .collect();
        for name in mentioned(&text) {
            used += 1;
            let known = exported.contains(&name) || recorded.contains(name.as_str());
            assert!(
                known,
                "{} names {name}, which is not exported",
                path.display()
            );
        }
    }
    assert!(used > 30, "only {used} metrics are used");
}
