//! Labels and names as controllers and engines set them.

use super::*;

const NODE: &str = "Node-1";

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|&(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

fn of_pod(pod: &str, pairs: &[(&str, &str)]) -> (String, WorkloadKind) {
    let identity = Identity {
        namespace: "shop".to_owned(),
        pod: pod.to_owned(),
        container: "app".to_owned(),
        ..Identity::default()
    };
    let mut labels = labels(pairs);
    // The kubelet's own, which every container has.
    labels.insert("io.kubernetes.pod.name".to_owned(), pod.to_owned());
    let metadata = Metadata {
        runtime: "containerd",
        labels: labels.into(),
        ..Metadata::default()
    };
    owner(&identity, None, Some(&metadata), NODE)
}

fn of_engine(container: &str, pairs: &[(&str, &str)]) -> (String, WorkloadKind) {
    let identity = Identity {
        container: container.to_owned(),
        ..Identity::default()
    };
    let metadata = Metadata {
        runtime: "docker",
        labels: labels(pairs).into(),
        ..Metadata::default()
    };
    owner(&identity, None, Some(&metadata), NODE)
}

fn of_path(path: &str) -> (String, WorkloadKind) {
    let found = crate::cgroup::identify(path);
    let identity = Identity {
        container: found.name,
        container_id: found.container_id.unwrap_or_default(),
        runtime: found.runtime.to_owned(),
        kind: found.kind,
        ..Identity::default()
    };
    owner(&identity, found.prefix.as_deref(), None, NODE)
}

#[test]
fn the_labels_of_a_controller_say_what_the_owner_is_and_the_pods_name_which() {
    let revision = "controller-revision-hash";
    let pod_name = "statefulset.kubernetes.io/pod-name";
    for (pod, labels, name, kind) in [
        (
            "coredns-76f75df574-7xkqp",
            &[("k8s-app", "kube-dns"), ("pod-template-hash", "76f75df574")][..],
            "coredns",
            WorkloadKind::Deployment,
        ),
        (
            "web-blue-5d4c9b8f6-x2z4f",
            &[
                ("app.kubernetes.io/name", "web"),
                ("pod-template-hash", "5d4c9b8f6"),
            ],
            "web-blue",
            WorkloadKind::Deployment,
        ),
        (
            "kube-proxy-x2z4f",
            &[
                (revision, "5f8c9d7b4"),
                ("k8s-app", "kube-proxy"),
                ("pod-template-generation", "1"),
            ],
            "kube-proxy",
            WorkloadKind::DaemonSet,
        ),
        (
            "postgres-main-12",
            &[
                ("apps.kubernetes.io/pod-index", "12"),
                (revision, "postgres-main-6c5f4d9b7"),
                (pod_name, "postgres-main-12"),
            ],
            "postgres-main",
            WorkloadKind::StatefulSet,
        ),
        (
            "pi-9bpsw",
            &[
                ("batch.kubernetes.io/job-name", "pi"),
                ("controller-uid", "0c5f"),
                ("job-name", "pi"),
            ],
            "pi",
            WorkloadKind::Job,
        ),
        // Before 1.27.
        ("pi-9bpsw", &[("job-name", "pi")], "pi", WorkloadKind::Job),
        // Of a Job with indexes.
        (
            "fill-3-9bpsw",
            &[
                ("batch.kubernetes.io/job-completion-index", "3"),
                ("batch.kubernetes.io/job-name", "fill"),
            ],
            "fill",
            WorkloadKind::Job,
        ),
        (
            "backup-29012345-k8z2x",
            &[("batch.kubernetes.io/job-name", "backup-29012345")],
            "backup",
            WorkloadKind::CronJob,
        ),
        // Before 1.21.
        (
            "backup-1610000040-k8z2x",
            &[("job-name", "backup-1610000040")],
            "backup",
            WorkloadKind::CronJob,
        ),
        // A date is no minute, and another one each time.
        (
            "load-20240501-k8z2x",
            &[("job-name", "load-20240501")],
            "load-*",
            WorkloadKind::Job,
        ),
        (
            "load-2024050112-k8z2x",
            &[("job-name", "load-2024050112")],
            "load-*",
            WorkloadKind::Job,
        ),
        // Of a Job with a generated name.
        (
            "migrate-w4xk9-k8z2x",
            &[("job-name", "migrate-w4xk9")],
            "migrate",
            WorkloadKind::Job,
        ),
        // A hash that somebody copied to a pod with another name says nothing.
        (
            "debug",
            &[("pod-template-hash", "76f75df574"), (revision, "x")],
            "debug",
            WorkloadKind::Pod,
        ),
    ] {
        assert_eq!(of_pod(pod, labels), (name.to_owned(), kind), "{pod}");
    }
}

/// `GenerateName` of Kubernetes cuts what is before the random letters at 58.
#[test]
fn names_that_were_too_long_are_known_by_what_is_left_of_them() {
    let hash = "76f75df574";
    for length in 40..70 {
        let deployment = "d".repeat(length);
        let base = format!("{deployment}-{hash}-");
        let pod = format!("{}7xkqp", base.get(..58).unwrap_or(&base));
        let expected = deployment.get(..58).unwrap_or(&deployment);
        assert_eq!(
            of_pod(&pod, &[("pod-template-hash", hash)]),
            (expected.to_owned(), WorkloadKind::Deployment),
            "{length}"
        );
        let base = format!("{deployment}-");
        let pod = format!("{}7xkqp", base.get(..58).unwrap_or(&base));
        assert_eq!(
            of_pod(&pod, &[("controller-revision-hash", "5f8c9d7b4")]),
            (expected.to_owned(), WorkloadKind::DaemonSet),
            "{length}"
        );
    }
}

#[test]
fn without_a_controllers_label_the_name_of_a_pod_says_what_it_can() {
    let app = ("app.kubernetes.io/name", "kafka");
    for (pod, labels, name, kind) in [
        // Argo Rollouts names as a Deployment does.
        (
            "web-6d4b75cb6d-x2z4f",
            &[("rollouts-pod-template-hash", "6d4b75cb6d")][..],
            "web",
            WorkloadKind::Deployment,
        ),
        (
            "web-x2z4f",
            &[("app", "web")],
            "web",
            WorkloadKind::ReplicaSet,
        ),
        ("nginx", &[("run", "nginx")], "nginx", WorkloadKind::Pod),
        ("cluster-pool-7", &[app], "kafka", WorkloadKind::Pod),
        (
            "task-1b4e28ba-2fa1-11d2-883f-0016d3cca427",
            &[("a", "b")],
            "task-*",
            WorkloadKind::Pod,
        ),
        // The pod's labels are not known: cri-dockerd, which says the kubelet's own alone.
        ("web-6d4b75cb6d-x2z4f", &[], "web", WorkloadKind::Deployment),
        ("kube-proxy-x2z4f", &[], "kube-proxy", WorkloadKind::Pod),
        ("postgres-0", &[], "postgres", WorkloadKind::Pod),
    ] {
        assert_eq!(of_pod(pod, labels), (name.to_owned(), kind), "{pod}");
    }
}

#[test]
fn a_pod_from_a_file_is_called_without_its_node() {
    let identity = |pod: &str| Identity {
        namespace: "kube-system".to_owned(),
        pod: pod.to_owned(),
        ..Identity::default()
    };
    let metadata = Metadata {
        annotations: labels(&[("kubernetes.io/config.source", "file")]),
        labels: labels(&[("component", "kube-apiserver"), ("tier", "control-plane")]).into(),
        ..Metadata::default()
    };
    for (pod, name) in [
        ("kube-apiserver-node-1", "kube-apiserver"),
        ("kube-apiserver-elsewhere", "kube-apiserver-elsewhere"),
    ] {
        assert_eq!(
            owner(&identity(pod), None, Some(&metadata), NODE),
            (name.to_owned(), WorkloadKind::Pod)
        );
    }
}

#[test]
fn what_an_engine_runs_is_a_service_of_compose_or_swarm_or_by_itself() {
    let compose = [
        ("com.docker.compose.container-number", "2"),
        ("com.docker.compose.oneoff", "False"),
        ("com.docker.compose.project", "shop"),
        ("com.docker.compose.service", "web"),
    ];
    let swarm = [
        ("com.docker.stack.namespace", "shop"),
        ("com.docker.swarm.service.name", "shop_web"),
        ("com.docker.swarm.task.name", "shop_web.2.q1w2e3r4t5y6"),
    ];
    for (container, labels, name, kind) in [
        (
            "shop-web-2",
            &compose[..],
            "shop/web",
            WorkloadKind::Compose,
        ),
        (
            "shop_web.2.q1w2e3r4t5y6",
            &swarm,
            "shop_web",
            WorkloadKind::Swarm,
        ),
        ("db-1", &[], "db-1", WorkloadKind::Container),
        (
            "registry",
            &[("maintainer", "x")],
            "registry",
            WorkloadKind::Container,
        ),
        (
            "ecs-web-5-nginx-c8e6b7f4a5d2a1b8b501",
            &[],
            "ecs-web-5-nginx-*",
            WorkloadKind::Container,
        ),
        (
            "server-0f9b2f43-73a9-4d2f-a1c5-c1b4b4a8d1ce",
            &[],
            "server-*",
            WorkloadKind::Container,
        ),
        (
            "runner-xk2f-project-4711234-concurrent-0-1a2b3c4d5e6f7a8b-build",
            &[],
            "runner-xk2f-project-*-concurrent-0-*-build",
            WorkloadKind::Container,
        ),
        // Nobody named it.
        ("0123456789ab", &[], "_unnamed", WorkloadKind::Container),
        ("", &[], "_unnamed", WorkloadKind::Container),
    ] {
        let expected = (name.to_owned(), kind);
        assert_eq!(of_engine(container, labels), expected, "{container}");
    }
}

#[test]
fn without_a_runtime_the_path_says_it() {
    let id = "0123456789abcdef".repeat(4);
    for (path, name, kind) in [
        (format!("/docker/{id}"), "_unnamed", WorkloadKind::Container),
        (
            "/lxc.payload.mail".to_owned(),
            "mail",
            WorkloadKind::Container,
        ),
        (
            "/system.slice/ssh.service".to_owned(),
            "ssh.service",
            WorkloadKind::Service,
        ),
        (
            "/system.slice/php8.2-fpm.service".to_owned(),
            "php8.2-fpm.service",
            WorkloadKind::Service,
        ),
        (
            "/system.slice/postgres-9.6.service".to_owned(),
            "postgres-9.6.service",
            WorkloadKind::Service,
        ),
        (
            "/system.slice/system-getty.slice/getty@tty1.service".to_owned(),
            "getty@.service",
            WorkloadKind::Service,
        ),
        (
            "/user.slice/user-1000.slice/session-12.scope".to_owned(),
            "session-*.scope",
            WorkloadKind::Service,
        ),
        (
            "/system.slice/run-r0123456789abcdef0123456789abcdef.scope".to_owned(),
            "run-*.scope",
            WorkloadKind::Service,
        ),
        (
            "/system.slice/run-p4711-i5122.scope".to_owned(),
            "run-*.scope",
            WorkloadKind::Service,
        ),
        (
            "/system.slice/run-u17.service".to_owned(),
            "run-*.service",
            WorkloadKind::Service,
        ),
        (
            "/user.slice/user-1000.slice/user@1000.service/app.slice/app-gnome-firefox-4711.scope"
                .to_owned(),
            "user@1000.service/app-gnome-firefox-*.scope",
            WorkloadKind::Service,
        ),
        (
            format!("/machine.slice/libpod-conmon-{id}.scope"),
            "libpod-conmon-*.scope",
            WorkloadKind::Service,
        ),
        (
            "/slurm/uid_1000/job_123/step_0".to_owned(),
            "slurm/uid_*/job_*/step_*",
            WorkloadKind::Cgroup,
        ),
        (
            "/mesos/1b4e28ba-2fa1-11d2-883f-0016d3cca427".to_owned(),
            "mesos/*",
            WorkloadKind::Cgroup,
        ),
        (
            "/build/facade".to_owned(),
            "build/facade",
            WorkloadKind::Cgroup,
        ),
        ("/".to_owned(), "_other", WorkloadKind::Other),
    ] {
        assert_eq!(of_path(&path), (name.to_owned(), kind), "{path}");
    }
    let build = "/buildkit/abcdefghijklmnopqrstuvwx1";
    assert_eq!(of_path(build).0, "buildkit");
}

mod any {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Labels, names and paths are chosen by whoever starts containers.
        #[test]
        fn text_has_a_workload_of_bounded_length(
            pod in ".{0,300}",
            container in ".{0,300}",
            hash in ".{0,20}",
            key in "(pod-template-hash|job-name|controller-revision-hash|\
                    statefulset.kubernetes.io/pod-name|app.kubernetes.io/name)",
        ) {
            for (name, kind) in [
                of_pod(&pod, &[(&key, &hash)]),
                of_pod(&format!("{pod}-{hash}-x2z4f"), &[("pod-template-hash", &hash)]),
                of_engine(&container, &[]),
                of_path(&container),
            ] {
                prop_assert!(name.len() <= MOST_NAME);
                prop_assert!(kind == WorkloadKind::Cgroup || !name.is_empty());
            }
        }

        /// A workload is as many containers as the number of its names without ids.
        #[test]
        fn name_with_another_id_each_time_is_one_workload(
            words in prop::collection::vec("[g-t]{1,8}", 1..4),
            ids in prop::collection::vec("[0-9a-f]{11}[0-9]|[0-9]{5,9}", 2),
        ) {
            let name = |id: &str| of_engine(&format!("{}-{id}", words.join("-")), &[]).0;
            prop_assert_eq!(name(&ids[0]), name(&ids[1]));
        }

        #[test]
        fn pod_of_a_deployment_belongs_to_it(
            deployment in "[a-z][a-z0-9-]{0,40}[a-z0-9]",
            hash in "[456789bcdf]{6,10}",
            random in "[bcdfghjklmnpqrstvwxz2456789]{5}",
        ) {
            let pod = format!("{deployment}-{hash}-{random}");
            let expected = (deployment, WorkloadKind::Deployment);
            prop_assert_eq!(&of_pod(&pod, &[("pod-template-hash", &hash)]), &expected);
            prop_assert_eq!(&of_pod(&pod, &[]), &expected);
        }
    }
}
