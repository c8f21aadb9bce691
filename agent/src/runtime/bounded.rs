//! What is kept of a runtime's text: it is chosen by whoever starts containers.

use std::collections::BTreeMap;

use super::Metadata;

/// Bytes of a name or an image.
pub(super) const MOST_NAME: usize = 256;
/// Labels or annotations of one container.
pub(super) const MOST_LABELS: usize = 64;
/// Bytes of a label's key and of its value.
pub(super) const MOST_KEY: usize = 256;
pub(super) const MOST_VALUE: usize = 4_096;
/// Bytes of all labels of a container, and of all its annotations.
pub(super) const MOST_LABEL_BYTES: usize = 16 << 10;
/// Longest id that is taken for one.
const MOST_ID: usize = 128;
/// Keys that say who a container is; they stay when there are too many.
const IMPORTANT: [&str; 11] = [
    "io.kubernetes.",
    "kubernetes.io/config.source",
    "app.kubernetes.io/",
    "apps.kubernetes.io/",
    "batch.kubernetes.io/",
    "com.docker.compose.",
    "com.docker.swarm.",
    "statefulset.kubernetes.io/",
    "controller-revision-hash",
    "job-name",
    "pod-template-hash",
];

/// The beginning of a text, without NUL; cut at a character.
pub(super) fn text(text: &str, most: usize) -> String {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default().replace('\0', "")
}

/// A name or an image.
pub(super) fn name(name: &str) -> String {
    text(name, MOST_NAME)
}

/// Labels or annotations as they are kept, whatever comes: those that say who a container is first, then
/// the first of the alphabet.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Labels {
    /// By whether it is of the rest, and key.
    kept: BTreeMap<(bool, String), String>,
    bytes: usize,
}

impl Labels {
    /// Adds one. It takes the place of one of the same key.
    pub(super) fn add(&mut self, key: &str, value: &str) {
        let is_important = IMPORTANT.iter().any(|prefix| key.starts_with(prefix));
        let key = text(key, MOST_KEY);
        let value = text(value, MOST_VALUE);
        self.put((!is_important, key), value);
    }

    /// Adds all of another one, but for the keys that are here.
    pub(super) fn add_missing(&mut self, other: &Self) {
        for (key, value) in &other.kept {
            if !self.kept.contains_key(key) {
                self.put(key.clone(), value.clone());
            }
        }
    }

    /// The value of a key.
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        let mut of_key = [false, true]
            .into_iter()
            .filter_map(|rest| self.kept.get(&(rest, key.to_owned())));
        of_key.next().map(String::as_str)
    }

    /// All that is kept.
    pub(super) fn into_map(self) -> BTreeMap<String, String> {
        let kept = self.kept.into_iter();
        kept.map(|((_, key), value)| (key, value)).collect()
    }

    fn put(&mut self, key: (bool, String), value: String) {
        let key_bytes = key.1.len();
        self.bytes += key_bytes + value.len();
        if let Some(former) = self.kept.insert(key, value) {
            self.bytes -= key_bytes + former.len();
        }
        while (self.kept.len() > MOST_LABELS || self.bytes > MOST_LABEL_BYTES)
            && let Some(((_, key), value)) = self.kept.pop_last()
        {
            self.bytes -= key.len() + value.len();
        }
    }
}

impl<'a> FromIterator<(&'a str, &'a str)> for Labels {
    fn from_iter<T: IntoIterator<Item = (&'a str, &'a str)>>(pairs: T) -> Self {
        let mut labels = Self::default();
        for (key, value) in pairs {
            labels.add(key, value);
        }
        labels
    }
}

/// Takes namespace, pod and container from the labels that the kubelet gives to each container.
/// The facts are in Kubernetes' `pkg/kubelet/types/labels.go`.
pub(super) fn take_kubernetes_labels(metadata: &mut Metadata) {
    let label = |key: &str| metadata.labels.get(key).map(|value| name(value));
    let namespace = label("io.kubernetes.pod.namespace");
    let pod = label("io.kubernetes.pod.name");
    let uid = label("io.kubernetes.pod.uid");
    let container = label("io.kubernetes.container.name");
    let is_sandbox = metadata
        .labels
        .get("io.cri-containerd.kind")
        .or_else(|| metadata.labels.get("io.kubernetes.docker.type"))
        .is_some_and(|kind| kind.ends_with("sandbox"));
    let set = |place: &mut String, value: Option<String>| {
        if let Some(value) = value
            && place.is_empty()
        {
            *place = value;
        }
    };
    set(&mut metadata.namespace, namespace);
    set(&mut metadata.pod, pod);
    set(&mut metadata.pod_uid, uid);
    metadata.is_sandbox |= is_sandbox;
    // In a pod the spec's name counts, not the one that the runtime made of it.
    if let Some(container) = container
        && !container.is_empty()
    {
        metadata.name = container;
    }
}

/// Whether a text can be an id of a runtime: no other is asked for or believed, since ids come from paths
/// that anybody can make.
pub(super) fn is_id(id: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    !id.is_empty() && id.len() <= MOST_ID && id.chars().all(is_plain) && !id.starts_with('.')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::hostile::cases;

    #[test]
    fn text_is_cut_at_a_character() {
        assert_eq!(text("aä\0b", 2), "a");
        assert_eq!(text("aä\0b", 9), "aäb");
    }

    #[test]
    fn what_names_a_container_stays_where_labels_are_too_many() {
        let mut labels = Labels::default();
        labels.add("pod-template-hash", "mine");
        for index in 0..200 {
            labels.add(&format!("a{index:03}"), "x");
        }
        assert_eq!(labels.get("pod-template-hash"), Some("mine"));
        let kept = labels.into_map();
        assert_eq!(kept.len(), MOST_LABELS);
        assert!(kept.contains_key("a000") && !kept.contains_key("a199"));
    }

    #[test]
    fn what_names_a_container_stays_where_labels_are_too_long() {
        let mut labels = Labels::default();
        for index in 0..200 {
            labels.add(&format!("a{index:03}"), &"x".repeat(9_000));
        }
        labels.add("pod-template-hash", "mine");
        let kept = labels.into_map();
        assert_eq!(kept["pod-template-hash"], "mine");
        assert!(kept.len() > 2 && kept["a000"].len() == MOST_VALUE);
    }

    #[test]
    fn a_containers_own_label_wins_over_its_pods() {
        let mut own: Labels = [("tier", "own"), ("app", "web")].into_iter().collect();
        own.add_missing(&[("tier", "pod"), ("team", "x")].into_iter().collect());
        let expected = [("app", "web"), ("team", "x"), ("tier", "own")];
        let expected = expected.map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(own.into_map(), expected.into());
    }

    #[test]
    fn the_kubelets_labels_name_a_container() {
        let labels: Labels = [
            ("io.kubernetes.pod.namespace", "shop"),
            ("io.kubernetes.pod.name", "web-0"),
            ("io.kubernetes.pod.uid", "u"),
            ("io.kubernetes.container.name", "nginx"),
        ]
        .into_iter()
        .collect();
        let mut metadata = Metadata {
            name: "k8s_web_shop".to_owned(),
            labels: labels.into_map().into(),
            ..Metadata::default()
        };
        take_kubernetes_labels(&mut metadata);
        assert_eq!(metadata.name, "nginx");
        assert_eq!(metadata.namespace, "shop");
        assert_eq!(metadata.pod, "web-0");
        assert_eq!(metadata.pod_uid, "u");
        assert!(!metadata.is_sandbox);
    }

    #[test]
    fn only_ids_are_asked_for() {
        assert!(is_id(&"0a".repeat(32)) && is_id("my_web-1.2"));
        for id in ["", "a/b", "a b", "..", "a?x=1", &"a".repeat(129)] {
            assert!(!is_id(id), "{id}");
        }
    }

    /// Words repeated to some length.
    fn any_text(most: usize) -> impl Strategy<Value = String> {
        ("[a-c]|ä|io.kubernetes.|\\PC", 0..most).prop_map(|(word, bytes)| {
            let times = bytes / word.len().max(1);
            word.repeat(times)
        })
    }

    proptest! {
        #![proptest_config(cases(256))]

        #[test]
        fn any_text_is_cut_to_its_beginning(any in "\\PC{0,200}", most in 0_usize..300) {
            let kept = text(&any, most);
            prop_assert!(kept.len() <= most && any.starts_with(&kept));
        }
    }

    proptest! {
        #![proptest_config(cases(32))]

        #[test]
        fn any_labels_keep_to_their_bounds(
            pairs in prop::collection::vec((any_text(400), any_text(6_000)), 0..100),
        ) {
            let mut labels = Labels::default();
            for (key, value) in &pairs {
                labels.add(key, value);
            }
            let sum = |map: &BTreeMap<String, String>| -> usize {
                map.iter().map(|(key, value)| key.len() + value.len()).sum()
            };
            let bytes = labels.bytes;
            let kept = labels.into_map();
            prop_assert_eq!(sum(&kept), bytes);
            prop_assert!(kept.len() <= MOST_LABELS && bytes <= MOST_LABEL_BYTES);
            prop_assert!(kept.keys().all(|key| key.len() <= MOST_KEY));
            prop_assert!(kept.values().all(|value| value.len() <= MOST_VALUE));
        }
    }
}
