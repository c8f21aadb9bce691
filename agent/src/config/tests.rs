use super::*;
use crate::diagnosis::Thresholds;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(Path::new("c.toml"), text)
}

fn message(text: &str) -> String {
    parse(text).expect_err(text).to_string()
}

#[test]
fn an_empty_file_gives_the_defaults() {
    assert_eq!(parse("").expect("empty"), Config::default());
    assert_eq!(parse("# nothing\n\n").expect("comment"), Config::default());
}

#[test]
fn one_key_changes_one_value() {
    let config = parse("retention = \"30s\"").expect("minimal");
    assert_eq!(config.retention, Duration::from_secs(30));
    assert_eq!(
        config,
        Config {
            retention: Duration::from_secs(30),
            ..Config::default()
        }
    );
}

#[test]
fn every_key_is_read() {
    let text = r#"
        server = "http://[::1]:9000/"
        listen = "localhost:0"
        address_file = "/run/a"
        retention = "1h"
        max_containers = 32_000
        interval = "1500ms"
        log_level = "debug"
        log_format = "json"
        btf = "/boot/btf"
        cgroup_root = "/host/sys/fs/cgroup"
        proc_root = "/host/proc"
        host_root = "/host"
        runtime_sockets = ["/run/a.sock", "/run/b.sock"]
        include = ["namespace=prod", "label.tier=*"]
        exclude = ["container=istio-*"]
        [diagnosis]
        window = "30s"
        wait_ratio = 0.1
        disk_queue_count = 4
    "#;
    let full = Config {
        server: "[::1]:9000".to_owned(),
        local: false,
        listen: ListenAddress::Name("localhost".to_owned(), 0),
        address_file: Some(PathBuf::from("/run/a")),
        retention: Duration::from_secs(3600),
        max_containers: 32_000,
        interval: Duration::from_millis(1500),
        log_level: Some(LevelFilter::DEBUG),
        log_format: LogFormat::Json,
        btf: Some(PathBuf::from("/boot/btf")),
        cgroup_root: PathBuf::from("/host/sys/fs/cgroup"),
        proc_root: PathBuf::from("/host/proc"),
        host_root: PathBuf::from("/host"),
        runtime_sockets: RuntimeSockets::Only(vec!["/run/a.sock".into(), "/run/b.sock".into()]),
        selection: Selection {
            include: vec![
                "namespace=prod".parse().expect("a pattern"),
                "label.tier=*".parse().expect("a pattern"),
            ],
            exclude: vec!["container=istio-*".parse().expect("a pattern")],
        },
        diagnosis: DiagnosisConfig {
            window: Duration::from_secs(30),
            thresholds: Thresholds {
                wait_ratio: 0.1,
                disk_queue_count: 4.0,
                ..Thresholds::default()
            },
        },
    };
    assert_eq!(parse(text).expect("full"), full);
    assert!(KEYS.iter().all(|key| text.contains(key)));
}

#[test]
fn a_bad_value_names_line_key_and_range() {
    for (text, expected) in [
        (
            "\nmax_containers = 0",
            "c.toml:2: max_containers must be a number from 1 to 32000, not 0",
        ),
        (
            "max_containers = 32001",
            "c.toml:1: max_containers must be a number from 1 to 32000, not 32001",
        ),
        (
            "max_containers = \"9\"",
            "c.toml:1: max_containers must be an integer, not a string",
        ),
        (
            "retention = \"25h\"",
            "c.toml:1: retention must be from 0s to 24h, not 25h",
        ),
        (
            "retention = \"5\"",
            "c.toml:1: retention must be a duration such as 250ms, 30s, 5m or 2h, not \"5\"",
        ),
        (
            "interval = \"250ms\"",
            "c.toml:1: interval must be from 1s to 5m, not 250ms",
        ),
        (
            "interval = 5",
            "c.toml:1: interval must be a string, not an integer",
        ),
        (
            "log_level = \"loud\"",
            "c.toml:1: log_level must be off, error, warn, info, debug or trace, not \"loud\"",
        ),
        (
            "log_format = \"xml\"",
            "c.toml:1: log_format must be text or json, not \"xml\"",
        ),
        ("btf = \"\"", "c.toml:1: btf must be a path, not empty"),
        (
            "cgroup_root = []",
            "c.toml:1: cgroup_root must be a string, not an array",
        ),
        (
            "include = \"namespace=prod\"",
            "c.toml:1: include must be an array, not a string",
        ),
        (
            "exclude = [5]",
            "c.toml:1: exclude must be a string, not an integer",
        ),
        (
            "exclude = [\"prod\"]",
            "c.toml:1: exclude must be namespace=GLOB, pod=GLOB, container=GLOB, image=GLOB, \
             label.KEY=GLOB or annotation.KEY=GLOB of at most 256 bytes, not \"prod\"",
        ),
        (
            "runtime_sockets = [\"none\", \"/a\"]",
            "c.toml:1: runtime_sockets must be auto or none alone, or paths",
        ),
        (
            "runtime_sockets = [\"\"]",
            "c.toml:1: runtime_sockets must be a path, auto or none, not empty",
        ),
        (
            "diagnosis = 5",
            "c.toml:1: diagnosis must be a table, not an integer",
        ),
        (
            "[diagnosis]\nwindow = \"61s\"",
            "c.toml:2: diagnosis.window must be from 1s to 1m, not 61s",
        ),
        (
            "[diagnosis]\n\nwait_ratio = 2",
            "c.toml:3: diagnosis.wait_ratio must be a number from 0.001 to 1, not 2",
        ),
        (
            "[diagnosis]\nwait_ratio = \"2\"",
            "c.toml:2: diagnosis.wait_ratio must be a number, not a string",
        ),
    ] {
        assert_eq!(message(text), expected);
    }
    assert!(
        message("listen = \"9464\"").contains("listen must be an IP address or a name and a port")
    );
    for server in ["x", "https://x:1", "x:0", ":0", "::1:9464", "a b:1"] {
        let text = format!("server = {server:?}");
        assert!(
            message(&text).contains("server must be host:port"),
            "{server}"
        );
    }
}

#[test]
fn runtimes_are_looked_for_unless_sockets_are_named_or_none_is_wanted() {
    let options = |text| parse(text).expect(text).runtime_options();
    assert!(options("").is_some_and(|options| options.search && options.sockets.is_empty()));
    assert_eq!(
        parse("runtime_sockets = \"auto\"").expect("auto"),
        Config::default()
    );
    assert!(options("runtime_sockets = \"none\"").is_none());
    assert!(options("runtime_sockets = []").is_none());
    let named = options("runtime_sockets = [\"/run/x.sock\"]").expect("one");
    assert!(!named.search);
    assert_eq!(named.sockets, [PathBuf::from("/run/x.sock")]);
}

#[test]
fn an_unknown_key_names_its_line_and_the_nearest_key() {
    assert_eq!(
        message("listen = \"0.0.0.0:1\"\nretenton = \"5m\"\n"),
        "c.toml:2: unknown key \"retenton\"; did you mean \"retention\"?"
    );
    assert!(
        message("[collectors]\nx = 1")
            .starts_with("c.toml:1: unknown key \"collectors\"; the keys are address_file, btf")
    );
}

#[test]
fn an_unknown_threshold_names_its_line_and_the_nearest_one() {
    assert_eq!(
        message("[diagnosis]\nwait_ratios = 0.1"),
        "c.toml:2: unknown key \"wait_ratios\"; did you mean \"wait_ratio\"?"
    );
    assert_eq!(
        parse_threshold("wait_ratio=0.2"),
        Ok(("wait_ratio".to_owned(), 0.2))
    );
    for (text, start) in [
        ("wait_ratio", "must be KEY=VALUE"),
        ("wait_ratio=x", "wait_ratio must be a number, not \"x\""),
        (
            "wait_ratio=7",
            "wait_ratio must be a number from 0.001 to 1, not 7",
        ),
        ("none=7", "none is no threshold; they are idle_cores, "),
    ] {
        let message = parse_threshold(text).expect_err(text);
        assert!(message.starts_with(start), "{message}");
    }
}

#[test]
fn broken_toml_names_its_line() {
    assert!(message("listen = \"0.0.0.0:1\"\nretention =\n").starts_with("c.toml:2: not valid"));
    assert!(message("btf = \"a\"\nbtf = \"b\"\n").starts_with("c.toml:2: not valid"));
}

#[test]
fn a_named_file_must_exist() {
    let error = Config::read(Some(Path::new("/nonexistent/c.toml"))).expect_err("missing");
    assert_eq!(
        error.to_string(),
        "cannot read the configuration file /nonexistent/c.toml"
    );
}
