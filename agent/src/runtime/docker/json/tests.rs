use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::hostile::cases;

const ROOM: usize = 1 << 20;

// Docker Engine 20.10.24.
const CREATE: &str = r#"{"status":"create","id":"0a0a","from":"busybox","Type":"container","Action":"create","Actor":{"ID":"0a0a","Attributes":{"com.docker.compose.project":"shop","com.docker.compose.service":"web","image":"busybox:1","name":"shop-web-1"}},"scope":"local","time":1700000000,"timeNano":1700000000123456789}"#;
const DIE: &str = r#"{"Type":"container","Action":"die","Actor":{"ID":"0a0a","Attributes":{"exitCode":"137","image":"busybox:1","name":"shop-web-1"}},"timeNano":1700000000123456789}"#;
// podman 4.3.
const DIED: &str = r#"{"status":"died","id":"0a0a","Type":"container","Action":"died","Actor":{"ID":"0a0a","Attributes":{"containerExitCode":"3","name":"web"}},"scope":"local","time":1700000000,"timeNano":1700000000123456789}"#;

fn understand(text: &str) -> Option<Event> {
    event(text.as_bytes(), "docker").unwrap()
}

#[test]
fn an_event_names_a_container_that_nobody_can_be_asked_about_any_more() {
    let Some(Event::Described(found)) = understand(CREATE) else {
        panic!("not described");
    };
    assert_eq!(found.id, "0a0a");
    assert_eq!(found.name, "shop-web-1");
    assert_eq!(found.image, "busybox:1");
    assert_eq!(found.labels["com.docker.compose.service"], "web");
    assert!(!found.labels.contains_key("name"));
    assert_eq!(found.resources, None);
}

#[test]
fn an_end_has_its_code_and_time() {
    for (text, exit_code) in [(DIE, Some(137)), (DIED, Some(3))] {
        let expected = Event::Exited {
            id: "0a0a".to_owned(),
            exit_code,
            unix_ms: Some(1_700_000_000_123),
        };
        assert_eq!(understand(text), Some(expected));
    }
}

#[test]
fn what_says_nothing_is_passed_over() {
    for text in [
        "{}",
        r#"{"Action":"start","Actor":{"ID":"../x","Attributes":{"name":"a"}}}"#,
        r#"{"Action":"start","Actor":{"ID":"0a","Attributes":{}}}"#,
        r#"{"Action":"start","Actor":{"ID":"0a","Attributes":null}}"#,
        r#"{"Action":"exec_create: sh","Actor":{"ID":"0a","Attributes":{"name":"a"}}}"#,
    ] {
        assert_eq!(understand(text), None, "{text}");
    }
}

#[test]
fn limits_are_in_cores_and_bytes() {
    let limits = |text: &str, is_in_pod| {
        let found: HostConfig = serde_json::from_str(text).unwrap();
        found.resources(is_in_pod)
    };
    let cpu = |text: &str| limits(text, false).cpu_limit_cores;
    assert_eq!(cpu(r#"{"NanoCpus":1500000000}"#), Some(1.5));
    assert_eq!(cpu(r#"{"CpuQuota":50000}"#), Some(0.5));
    assert_eq!(cpu(r#"{"CpuQuota":50000,"CpuPeriod":25000}"#), Some(2.0));
    let memory = limits(r#"{"Memory":4096,"MemoryReservation":1024}"#, false);
    assert_eq!(memory.memory_limit_bytes, Some(4_096));
    assert_eq!(memory.memory_request_bytes, Some(1_024));
    // Shares are a weight where nobody requests.
    let shares = r#"{"CpuShares":512,"CpuQuota":-1,"Memory":-1}"#;
    assert_eq!(limits(shares, false), Resources::default());
    assert_eq!(limits(shares, true).cpu_request_cores, Some(0.5));
}

#[test]
fn a_list_leaves_out_what_has_no_id_and_what_there_is_no_room_for() {
    let labels: Value = (0..60)
        .map(|index| (format!("l{index}"), json!("x".repeat(300))))
        .collect::<serde_json::Map<_, _>>()
        .into();
    let one = |id: &str| json!({ "Id": id, "Names": ["/a/alias", "/web"], "Labels": labels });
    let mut all: Vec<Value> = (0..100).map(|id| one(&format!("{id:064x}"))).collect();
    all.push(one("../x"));
    all.push(json!({ "Id": "aa", "Names": null, "Labels": null, "Image": "i" }));
    let body = serde_json::to_vec(&all).unwrap();
    let listing = list(&body, "docker", ROOM).unwrap();
    assert_eq!(listing.containers[0].name, "web");
    assert!(listing.left_out > 0);
    assert_eq!(listing.containers.len() as u64 + listing.left_out, 101);
    let bytes: usize = listing.containers.iter().map(Metadata::bytes).sum();
    assert!(bytes <= ROOM);
}

#[test]
fn a_container_found_by_its_name_is_another() {
    let body = br#"{"Id":"0b","Name":"/0a"}"#;
    assert_eq!(inspected(body, "0a", "docker").unwrap(), None);
    let found = inspected(body, "0b", "docker").unwrap().unwrap();
    assert_eq!(found.name, "0a");
    assert_eq!(found.resources, Some(Resources::default()));
}

#[test]
fn podman_is_told_by_its_components() {
    let podman = r#"{"Components":[{"Name":"Podman Engine","Version":"4.3.1"},{"Name":"Conmon"}]}"#;
    assert!(is_podman(podman.as_bytes()).unwrap());
    let docker = r#"{"Components":[{"Name":"Engine"},{"Name":"containerd"}]}"#;
    assert!(!is_podman(docker.as_bytes()).unwrap());
    assert!(!is_podman(b"{}").unwrap());
    assert!(is_podman(b"[").is_err());
}

/// JSON of any shape, of which some has the keys that are read.
fn any_json() -> impl Strategy<Value = Value> {
    let key = prop_oneof![
        prop::sample::select(vec![
            "Id",
            "Names",
            "Image",
            "Labels",
            "Name",
            "Config",
            "HostConfig",
            "NanoCpus",
            "Components",
            "Action",
            "Actor",
            "ID",
            "Attributes",
            "timeNano",
            "name",
            "exitCode",
        ])
        .prop_map(str::to_owned),
        ".{0,8}",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(vec!["die", "start", "0a0a", "podman"]).prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((key.clone(), inner), 0..6)
                .prop_map(|pairs| pairs.into_iter().collect::<serde_json::Map<_, _>>().into()),
        ]
    })
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn no_json_does_harm(value in any_json(), cut in any::<prop::sample::Index>()) {
        let text = value.to_string();
        for bytes in [text.as_bytes(), &text.as_bytes()[..cut.index(text.len())]] {
            let _ = is_podman(bytes);
            let _ = inspected(bytes, "0a0a", "docker");
            if let Ok(Some(Event::Described(found))) = event(bytes, "docker") {
                prop_assert!(bounded::is_id(&found.id));
            }
            for one in list(bytes, "docker", ROOM).unwrap_or_default().containers {
                prop_assert!(bounded::is_id(&one.id));
            }
        }
    }

    #[test]
    fn no_bytes_do_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = (is_podman(&bytes), inspected(&bytes, "a", "docker"));
        let _ = (event(&bytes, "docker"), list(&bytes, "docker", ROOM));
    }

    #[test]
    fn what_an_engine_says_is_read(
        id in "[0-9a-f]{64}",
        name in "[a-zA-Z0-9][a-zA-Z0-9_.-]{0,60}",
        image in "\\PC{0,80}",
        labels in prop::collection::btree_map("\\PC{1,20}", "\\PC{0,40}", 0..10),
    ) {
        let listed = json!([{ "Id": id, "Names": [format!("/{name}")], "Image": image, "Labels": labels }]);
        let inspect = json!({ "Id": id, "Name": format!("/{name}"), "Config": { "Image": image, "Labels": labels } });
        let mut all = list(listed.to_string().as_bytes(), "docker", ROOM).unwrap().containers;
        let one = inspected(inspect.to_string().as_bytes(), &id, "docker").unwrap().unwrap();
        let listed = all.pop().unwrap();
        prop_assert_eq!(&listed.labels, &one.labels);
        prop_assert_eq!(&*listed.labels, &labels);
        prop_assert_eq!((&listed.id, &listed.name), (&id, &name));
        prop_assert_eq!((&one.id, &one.name), (&id, &name));
        prop_assert!(image.starts_with(&listed.image) && listed.image == one.image);
    }
}
