//! The verdicts that stand for containers.

use std::collections::HashMap;

use super::{
    definitions::Metric,
    series::{self, Series},
    text::{Text, Value},
};
use crate::diagnosis::{ContainerStanding, Resource, Standing, Verdict};

/// Writes one series for each resource that a container uses: 1 where it is held back, 0 where it is not.
///
/// Containers that share a name have the verdict of whoever is held back most.
pub(super) fn write(
    text: &mut Text<'_>,
    metric: &Metric,
    series: &[Series<'_>],
    standing: &[ContainerStanding],
) {
    let mut by_labels: HashMap<String, Vec<Standing>> = HashMap::with_capacity(standing.len());
    for container in standing {
        by_labels
            .entry(series::labels(&container.identity))
            .or_default()
            .extend(&container.standing);
    }
    let mut opened = false;
    for one in series {
        let Some(standing) = by_labels.get(&one.labels) else {
            continue;
        };
        for resource in Resource::ALL {
            let worst = standing
                .iter()
                .filter(|one| one.resource == resource && says_something(one.verdict))
                .reduce(|a, b| if rank(b) > rank(a) { b } else { a });
            let Some(worst) = worst else {
                continue;
            };
            if !opened {
                text.family(metric.name, metric.kind.name(), metric.help);
                opened = true;
            }
            let extra = format!(
                "resource=\"{}\",verdict=\"{}\"",
                resource.label(),
                worst.verdict.label()
            );
            let is = u64::from(worst.verdict.is_bottleneck());
            text.sample(metric.name, "", &one.labels, &extra, Value::Count(is));
        }
    }
}

/// What does not use a resource is neither held back by it nor not.
fn says_something(verdict: Verdict) -> bool {
    !matches!(verdict, Verdict::Unknown | Verdict::Idle)
}

fn rank(standing: &Standing) -> (bool, f64) {
    (standing.verdict.is_bottleneck(), standing.severity)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        export::metrics::{METRICS, ServerMetrics, render},
        snapshot::{Container, Identity, Snapshot},
    };

    fn identity(name: &str) -> Arc<Identity> {
        Arc::new(Identity {
            container: name.to_owned(),
            ..Identity::default()
        })
    }

    fn standing(name: &str, verdicts: &[(Resource, Verdict, f64)]) -> ContainerStanding {
        ContainerStanding {
            identity: identity(name),
            standing: verdicts
                .iter()
                .map(|&(resource, verdict, severity)| Standing {
                    resource,
                    verdict,
                    since_unix_ms: 0,
                    severity,
                })
                .collect(),
        }
    }

    fn lines(names: &[&str], standing: &[ContainerStanding]) -> Vec<String> {
        let snapshot = Snapshot {
            containers: names
                .iter()
                .map(|name| Container {
                    identity: identity(name),
                    ..Container::default()
                })
                .collect(),
            ..Snapshot::default()
        };
        let server = ServerMetrics::new().expect("the names are valid");
        let mut text = Vec::new();
        render(&snapshot, standing, None, &server, &mut text).expect("memory takes all");
        String::from_utf8(text)
            .expect("it is text")
            .lines()
            .filter_map(|line| line.strip_prefix("ctrscope_container_bottleneck"))
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn each_resource_has_the_series_of_its_verdict_and_what_is_not_known_has_none() {
        let web = standing(
            "web",
            &[
                (Resource::Cpu, Verdict::CapThrottled, 0.9),
                (Resource::Memory, Verdict::Unbound, 0.0),
                (Resource::Network, Verdict::Unknown, 0.0),
            ],
        );
        let gone = standing("gone", &[(Resource::Cpu, Verdict::Steal, 0.1)]);
        let labels = "namespace=\"\",pod=\"\",container=\"web\"";
        assert_eq!(
            lines(&["web", "new"], &[web, gone]),
            [
                format!("{{{labels},resource=\"cpu\",verdict=\"cap_throttled\"}} 1"),
                format!("{{{labels},resource=\"memory\",verdict=\"unbound\"}} 0"),
            ]
        );
        assert!(lines(&["web"], &[]).is_empty());
    }

    #[test]
    fn of_two_with_one_name_the_verdict_is_of_whoever_is_held_back_most() {
        let one = |verdict, severity| standing("web", &[(Resource::Cpu, verdict, severity)]);
        let of = |all: &[ContainerStanding]| lines(&["web", "web"], all).join(" ");
        let idle = one(Verdict::Idle, 0.0);
        let free = one(Verdict::NotCpuBound, 0.0);
        let throttled = one(Verdict::CapThrottled, 0.2);
        let shared = one(Verdict::ShareLimited, 0.6);
        assert!(of(&[idle.clone(), free.clone()]).contains("not_cpu_bound\"} 0"));
        assert!(of(&[free.clone(), idle]).contains("not_cpu_bound\"} 0"));
        assert!(of(&[throttled.clone(), free]).contains("cap_throttled\"} 1"));
        let both = of(&[throttled, shared]);
        assert!(both.contains("share_limited\"} 1") && !both.contains("cap_throttled"));
    }

    #[test]
    fn a_container_has_at_most_four() {
        let metric = METRICS
            .iter()
            .find(|metric| metric.name == "ctrscope_container_bottleneck");
        assert_eq!(metric.map(Metric::most_series), Some(4));
    }
}
