//! Who made whom wait for CPUs: a series for each pair, and one for all others.

use super::{
    definitions::Metric,
    series,
    text::{Text, Value, escape_label},
};
use crate::snapshot::{Identity, NeighbourWaits, OTHER_NAME};

/// Writes nothing where it is not measured.
pub(super) fn write(text: &mut Text<'_>, metric: &Metric, waits: Option<&NeighbourWaits>) {
    let Some(waits) = waits else {
        return;
    };
    text.family(metric.name, metric.kind.name(), metric.help);
    for one in &waits.pairs {
        let labels = labels(&one.victim, &one.culprit);
        text.sample(metric.name, "", &labels, "", Value::Nanoseconds(one.ns));
    }
    let other = Identity {
        container: OTHER_NAME.to_owned(),
        ..Identity::default()
    };
    let labels = labels(&other, &other);
    text.sample(
        metric.name,
        "",
        &labels,
        "",
        Value::Nanoseconds(waits.other_ns),
    );
}

/// The victim's label pairs and those of the culprit.
fn labels(victim: &Identity, culprit: &Identity) -> String {
    let mut out = series::labels(victim);
    for (opening, value) in [
        (",culprit_namespace=\"", culprit.namespace.as_str()),
        ("\",culprit_pod=\"", &culprit.pod),
        ("\",culprit_container=\"", &culprit.container),
    ] {
        out.push_str(opening);
        escape_label(value, &mut out);
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::{
        export::metrics::{ServerMetrics, render},
        snapshot::{Identity, NeighbourWait, NeighbourWaits, Snapshot},
    };

    fn lines(neighbours: Option<NeighbourWaits>) -> Vec<String> {
        let snapshot = Snapshot {
            neighbours,
            ..Snapshot::default()
        };
        let server = ServerMetrics::new().expect("the names are valid");
        let mut text = Vec::new();
        render(&snapshot, &[], None, &server, &mut text).expect("memory takes all");
        let text = String::from_utf8(text).expect("it is text");
        let lines = text.lines();
        lines
            .filter_map(|line| line.strip_prefix("ctrscope_neighbour_wait_seconds_total"))
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn each_pair_and_all_others_have_a_series() {
        let pod = Identity {
            namespace: "shop".to_owned(),
            pod: "web-1".to_owned(),
            container: "app".to_owned(),
            ..Identity::default()
        };
        let batch = Identity {
            container: "ba\"tch".to_owned(),
            ..Identity::default()
        };
        let pairs = vec![NeighbourWait {
            victim: Arc::new(pod),
            culprit: Arc::new(batch),
            ns: 1_500_000_000,
        }];
        let other_ns = 0;
        assert_eq!(
            lines(Some(NeighbourWaits { pairs, other_ns })),
            [
                "{namespace=\"shop\",pod=\"web-1\",container=\"app\",culprit_namespace=\"\",\
                 culprit_pod=\"\",culprit_container=\"ba\\\"tch\"} 1.5",
                "{namespace=\"\",pod=\"\",container=\"_other\",culprit_namespace=\"\",\
                 culprit_pod=\"\",culprit_container=\"_other\"} 0",
            ]
        );
        assert!(lines(None).is_empty());
    }
}
