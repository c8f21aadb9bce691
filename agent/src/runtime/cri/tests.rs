//! What the runtimes say, written as they write it. The services themselves are asked end to end.

mod spec;

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{describe::*, *};
use crate::{
    hostile::{cases, damaged},
    runtime::{Update, bounded},
    snapshot::Resources,
};

const ID: &str = "4ae5a5c0eeeb1e7b6c5f9a7d0c3b8e2f1d6a9b8c7d6e5f4a3b2c1d0e9f8a7b6c";

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let pairs = pairs.iter();
    pairs
        .map(|&(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

fn metadata_of_pod() -> spec::PodSandboxMetadata {
    spec::PodSandboxMetadata {
        name: "web-0".to_owned(),
        uid: "u-1".to_owned(),
        namespace: "shop".to_owned(),
        attempt: 1,
    }
}

fn image() -> spec::ImageSpec {
    spec::ImageSpec {
        image: "sha256:abc".to_owned(),
        annotations: map(&[("a", "b")]),
        user_specified_image: "nginx:1".to_owned(),
    }
}

fn status(id: &str) -> spec::ContainerStatus {
    spec::ContainerStatus {
        id: id.to_owned(),
        metadata: Some(spec::ContainerMetadata {
            name: "nginx".to_owned(),
            attempt: 2,
        }),
        state: 1,
        image: Some(image()),
        labels: map(&[("tier", "own")]),
        annotations: map(&[("note", "own")]),
        resources: Some(spec::ContainerResources {
            linux: Some(spec::LinuxResources {
                cpu_period: 100_000,
                cpu_quota: 150_000,
                cpu_shares: 512,
                memory_limit: 64 << 20,
                oom_score_adj: 900,
                unified: map(&[("memory.min", "4096"), ("memory.high", "9")]),
            }),
        }),
        ..spec::ContainerStatus::default()
    }
}

fn pod_status() -> spec::PodSandboxStatus {
    spec::PodSandboxStatus {
        id: "0b0b".to_owned(),
        metadata: Some(metadata_of_pod()),
        labels: map(&[("tier", "pod"), ("app", "web")]),
        annotations: map(&[("note", "pod"), ("team", "x")]),
    }
}

/// What is expected of [`status`] and [`pod_status`] together.
fn assert_whole(found: &Metadata) {
    assert_eq!(found.name, "nginx");
    assert_eq!(
        (found.namespace.as_str(), found.pod.as_str()),
        ("shop", "web-0")
    );
    assert_eq!(
        (found.pod_uid.as_str(), found.image.as_str()),
        ("u-1", "nginx:1")
    );
    assert_eq!(*found.labels, map(&[("app", "web"), ("tier", "own")]));
    assert_eq!(found.annotations, map(&[("note", "own"), ("team", "x")]));
    assert!(!found.is_sandbox);
}

fn limits() -> Resources {
    Resources {
        cpu_request_cores: Some(0.5),
        cpu_limit_cores: Some(1.5),
        memory_request_bytes: Some(4_096),
        memory_limit_bytes: Some(64 << 20),
    }
}

#[test]
fn a_list_gives_pods_and_containers_with_their_pods_labels() {
    let pods = spec::List {
        all: vec![spec::PodSandbox {
            id: "0b0b".to_owned(),
            metadata: Some(metadata_of_pod()),
            state: 1,
            labels: map(&[("tier", "pod"), ("app", "web")]),
            annotations: map(&[("note", "pod"), ("team", "x")]),
        }],
    };
    let containers = spec::List {
        all: vec![spec::Container {
            id: ID.to_owned(),
            pod_sandbox_id: "0b0b".to_owned(),
            metadata: status(ID).metadata,
            image: Some(image()),
            image_ref: "ref".to_owned(),
            state: 1,
            created_at: 7,
            labels: map(&[("tier", "own")]),
            annotations: map(&[("note", "own")]),
        }],
    };
    let pods = pods.encode_to_vec();
    let pods: Vec<_> = pb::listed(&pods, |pod| pb::pod(pod, false)).collect();
    let pod = pods[0].clone().unwrap();
    let sandbox = sandbox("crio", &pod);
    assert!(sandbox.is_sandbox);
    assert_eq!(
        (sandbox.id.as_str(), sandbox.pod.as_str()),
        ("0b0b", "web-0")
    );
    let containers = containers.encode_to_vec();
    let mut containers = pb::listed(&containers, pb::container);
    let found = containers.next().unwrap().unwrap();
    assert_eq!(found.pod, "0b0b");
    let found = container("crio", found, Some(&pod));
    assert_whole(&found);
    assert_eq!(found.resources, None, "a list does not have them");
}

#[test]
fn a_status_has_requests_and_limits() {
    let answer = spec::ContainerStatusResponse {
        status: Some(status(ID)),
        info: BTreeMap::new(),
    };
    let answer = answer.encode_to_vec();
    let found = pb::container_status(pb::first(&answer).unwrap().unwrap()).unwrap();
    assert_eq!(found.resources, Some(limits()));
    assert_eq!(found.exit, None);
    // What no pod asked for.
    let none = spec::ContainerStatus {
        resources: Some(spec::ContainerResources {
            linux: Some(spec::LinuxResources {
                cpu_shares: 2,
                cpu_quota: -1,
                ..spec::LinuxResources::default()
            }),
        }),
        ..status(ID)
    };
    let found = pb::container_status(&none.encode_to_vec()).unwrap();
    assert_eq!(found.resources, Some(Resources::default()));
}

#[test]
fn a_runtime_that_has_no_limits_in_its_status_has_them_where_it_is_verbose() {
    // containerd 1.6, shortened.
    let info = r#"{"sandboxID":"0b0b","pid":7,"removing":false,"config":{"metadata":{"name":"nginx"}},"runtimeSpec":{"ociVersion":"1.0.2","linux":{"resources":{"memory":{"limit":67108864},"cpu":{"shares":512,"quota":150000,"period":100000},"unified":{"memory.min":"4096"}}}}}"#;
    let answer = spec::ContainerStatusResponse {
        status: Some(spec::ContainerStatus {
            resources: None,
            ..status(ID)
        }),
        info: map(&[("info", info), ("other", "no JSON")]),
    };
    let answer = answer.encode_to_vec();
    assert_eq!(pb::verbose_resources(&answer), Ok(Some(limits())));
    let silent = spec::ContainerStatusResponse {
        status: Some(status(ID)),
        info: map(&[("info", "{}")]),
    };
    assert_eq!(pb::verbose_resources(&silent.encode_to_vec()), Ok(None));
}

#[test]
fn a_container_of_nerdctl_has_its_name_and_its_limits() {
    let spec = r#"{"linux":{"resources":{"memory":{"limit":4096},"cpu":{"shares":512}}}}"#;
    let message = spec::OwnContainer {
        id: ID.to_owned(),
        labels: map(&[("nerdctl/name", "db"), ("a", "b")]),
        image: "postgres:16".to_owned(),
        spec: Some(spec::Any {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/Spec".to_owned(),
            value: spec.into(),
        }),
    };
    let found = own(pb::own_container(&message.encode_to_vec()).unwrap());
    assert_eq!(
        (found.name.as_str(), found.image.as_str()),
        ("db", "postgres:16")
    );
    let expected = Resources {
        memory_limit_bytes: Some(4_096),
        ..Resources::default()
    };
    assert_eq!(
        found.resources,
        Some(expected),
        "shares are no request here"
    );
}

#[test]
fn an_event_of_cri_tells_all_of_a_container_that_may_be_gone_when_it_is_asked_for() {
    let event = |state, exit_code| spec::ContainerEvent {
        container_id: ID.to_owned(),
        event_type: 1,
        created_at: 7,
        pod: Some(pod_status()),
        containers: vec![
            status("0c0c"),
            spec::ContainerStatus {
                state,
                exit_code,
                finished_at: i64::from(exit_code) * 1_000_000,
                ..status(ID)
            },
        ],
    };
    let read = |event: spec::ContainerEvent| {
        of_event("crio", pb::container_event(&event.encode_to_vec()).unwrap())
    };
    let started = read(event(1, 0));
    let [Happening::Known(Update::Described(found))] = started.as_slice() else {
        panic!("{started:?}");
    };
    assert_eq!(found.id, ID);
    assert_whole(found);
    assert_eq!(found.resources, Some(limits()));
    let ended = read(event(2, 137));
    let exited = Update::Exited {
        id: ID.to_owned(),
        user: None,
        exit_code: Some(137),
        unix_ms: Some(137),
    };
    assert_eq!(ended.len(), 2);
    assert_eq!(ended[1], Happening::Known(exited));
    // A sandbox's own, and one that says nothing else.
    let sandbox = read(spec::ContainerEvent {
        container_id: "0b0b".to_owned(),
        ..event(1, 0)
    });
    let [Happening::Known(Update::Described(found))] = sandbox.as_slice() else {
        panic!("{sandbox:?}");
    };
    assert!(found.is_sandbox);
    let bare = read(spec::ContainerEvent {
        container_id: ID.to_owned(),
        ..spec::ContainerEvent::default()
    });
    assert_eq!(bare, [Happening::Seen(ID.to_owned())]);
    let bad = read(spec::ContainerEvent {
        container_id: "../x".to_owned(),
        ..event(1, 0)
    });
    assert_eq!(bad, []);
}

fn envelope(topic: &str, body: &impl Message) -> Vec<u8> {
    spec::Envelope {
        namespace: KUBERNETES.to_owned(),
        topic: topic.to_owned(),
        event: Some(spec::Any {
            type_url: String::new(),
            value: body.encode_to_vec(),
        }),
    }
    .encode_to_vec()
}

fn exit(id: &str) -> spec::TaskExit {
    spec::TaskExit {
        container_id: "0a0a".to_owned(),
        id: id.to_owned(),
        pid: 9,
        exit_status: 3,
        exited_at: Some(spec::Timestamp {
            seconds: 7,
            nanos: 5,
        }),
    }
}

#[test]
fn a_start_is_seen_and_the_end_of_the_first_process_only() {
    let id = pb::IdRequest {
        id: "0a0a".to_owned(),
    };
    assert_eq!(
        of_own_event(&envelope("/tasks/start", &id)),
        Ok(Some(Happening::Seen("0a0a".to_owned())))
    );
    let exited = Update::Exited {
        id: "0a0a".to_owned(),
        user: None,
        exit_code: Some(3),
        unix_ms: Some(7_000),
    };
    assert_eq!(
        of_own_event(&envelope("/tasks/exit", &exit("0a0a"))),
        Ok(Some(Happening::Known(exited)))
    );
    let of_exec = envelope("/tasks/exit", &exit("exec-1"));
    assert_eq!(of_own_event(&of_exec), Ok(None));
    assert_eq!(of_own_event(&envelope("/tasks/oom", &id)), Ok(None));
    let bad = pb::IdRequest {
        id: "../x".to_owned(),
    };
    assert_eq!(of_own_event(&envelope("/tasks/start", &bad)), Ok(None));
}

#[test]
fn one_broken_container_does_not_take_the_others_away() {
    let good = spec::Container {
        id: ID.to_owned(),
        ..spec::Container::default()
    };
    let mut list = vec![0x0a, 2, 0x0a, 0x7f];
    list.extend(spec::List { all: vec![good] }.encode_to_vec());
    let found: Vec<_> = pb::listed(&list, pb::container).collect();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].as_ref().unwrap().id, ID);
    list.push(0x0a);
    let found: Vec<_> = pb::listed(&list, pb::container).collect();
    assert!(
        found.len() == 2 && found[1].is_err(),
        "a list that is cut is told"
    );
}

#[test]
fn texts_that_are_none_or_too_long_are_mended() {
    let mut list = Vec::new();
    spec::Container {
        id: ID.to_owned(),
        metadata: Some(spec::ContainerMetadata {
            name: "n\0ame\n".repeat(200),
            attempt: 0,
        }),
        labels: map(&[("long", &"x".repeat(1 << 20))]),
        ..spec::Container::default()
    }
    .encode(&mut list)
    .unwrap();
    // A label whose value is no UTF-8.
    list.extend([0x42, 7, 0x0a, 1, b'k', 0x12, 2, 0xff, b'v']);
    let found = pb::container(&list).unwrap();
    assert!(found.name.starts_with("name\nname") && found.name.len() <= 256);
    assert_eq!(found.labels.get("k"), Some("\u{fffd}v"));
    assert_eq!(found.labels.get("long").map(str::len), Some(4_096));
}

fn any_container() -> impl Strategy<Value = spec::Container> {
    let labels = || prop::collection::btree_map(".{0,12}", ".{0,40}", 0..5);
    (
        "[0-9a-f]{0,70}",
        "[0-9a-f]{0,70}",
        prop::option::of(".{0,40}"),
        prop::option::of((".{0,20}", ".{0,20}")),
        labels(),
        labels(),
    )
        .prop_map(
            |(id, pod, name, images, labels, annotations)| spec::Container {
                id,
                pod_sandbox_id: pod,
                metadata: name.map(|name| spec::ContainerMetadata { name, attempt: 3 }),
                image: images.map(|(image, user)| spec::ImageSpec {
                    image,
                    annotations: BTreeMap::new(),
                    user_specified_image: user,
                }),
                image_ref: "r".to_owned(),
                state: 2,
                created_at: -1,
                labels,
                annotations,
            },
        )
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn a_list_of_any_containers_is_read_as_it_is_written(
        all in prop::collection::vec(any_container(), 0..6),
    ) {
        let written = spec::List { all: all.clone() }.encode_to_vec();
        let read: Vec<_> = pb::listed(&written, pb::container).collect();
        prop_assert_eq!(read.len(), all.len());
        let clean = |text: &str| text.replace('\0', "");
        for (read, written) in read.into_iter().zip(all) {
            let read = read.unwrap();
            prop_assert_eq!(&read.id, &written.id);
            prop_assert_eq!(&read.pod, &written.pod_sandbox_id);
            let name = written.metadata.unwrap_or_default().name;
            prop_assert_eq!(&read.name, &clean(&name));
            let image = written.image.unwrap_or_default();
            let image = match image.user_specified_image.as_str() {
                "" => image.image,
                user => user.to_owned(),
            };
            prop_assert_eq!(&read.image, &clean(&image));
            let labels: bounded::Labels = written
                .labels
                .iter()
                .map(|(key, value)| (key.as_str(), value.as_str()))
                .collect();
            prop_assert_eq!(read.labels, labels);
        }
    }

    #[test]
    fn no_message_does_harm(
        bytes in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..300),
            damaged(any_container().prop_map(|one| spec::List { all: vec![one] }.encode_to_vec())),
            damaged(Just(spec::ContainerStatusResponse {
                status: Some(status(ID)),
                info: map(&[("info", "{}")]),
            }.encode_to_vec())),
            damaged(Just(spec::ContainerEvent {
                container_id: ID.to_owned(),
                event_type: 2,
                created_at: 7,
                pod: Some(pod_status()),
                containers: vec![status(ID)],
            }.encode_to_vec())),
            damaged(Just(envelope("/tasks/exit", &exit("0a0a")))),
        ],
    ) {
        for found in pb::listed(&bytes, pb::container).flatten() {
            prop_assert!(found.id.chars().count() <= 129 && found.name.len() <= 256);
        }
        for pod in pb::listed(&bytes, |pod| pb::pod(pod, true)).flatten() {
            prop_assert!(pod.id.chars().count() <= 129 && pod.name.len() <= 256);
            let _ = sandbox("crio", &pod);
        }
        for found in pb::listed(&bytes, pb::own_container).flatten() {
            let _ = own(found);
        }
        let _ = (pb::runtime_name(&bytes), pb::namespaces(&bytes), pb::verbose_resources(&bytes));
        if let Ok(Some(status)) = pb::first(&bytes) {
            let _ = pb::container_status(status);
        }
        if let Ok(event) = pb::container_event(&bytes) {
            for happening in of_event("crio", event) {
                let id = match &happening {
                    Happening::Known(update) => update.id(),
                    Happening::Seen(id) => id,
                };
                prop_assert!(bounded::is_id(id) || matches!(happening, Happening::Known(_)));
            }
        }
        if let Ok(Some(Happening::Seen(id))) = of_own_event(&bytes) {
            prop_assert!(bounded::is_id(&id));
        }
    }
}
