use clap::CommandFactory as _;

use super::*;

fn parse(arguments: &[&str]) -> Result<Cli, clap::Error> {
    Cli::try_parse_from([&["ctrscope"], arguments].concat())
}

fn error(arguments: &[&str]) -> String {
    parse(arguments).expect_err("bad arguments").to_string()
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_has_a_help_text_with_its_defaults() {
    let mut command = Cli::command();
    let run = command.find_subcommand_mut("run").expect("run");
    let help = run.render_long_help().to_string();
    let config = Config::default();
    for default in [
        format!("[default: {}]", config.listen),
        format!("[default: {}]", format_duration(config.retention)),
        format!("[default: {}]", config.max_containers),
        format!("[default: {}]", format_duration(config.interval)),
    ] {
        let words: Vec<&str> = help.split_whitespace().collect();
        assert!(words.join(" ").contains(&default), "{default} in {help}");
    }
}

#[test]
fn options_win_over_the_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("c.toml");
    std::fs::write(&file, "retention = \"1h\"\nmax_containers = 7\n").expect("writable");
    let file = file.to_string_lossy().into_owned();
    let cli = parse(&["run", "--config", &file, "--retention", "10m"]).expect("valid");
    let config = cli.config().expect("valid");
    assert_eq!(config.retention, Duration::from_secs(600));
    assert_eq!(config.max_containers, 7);
    assert_eq!(config.interval, Config::default().interval);
}

#[test]
fn lists_can_be_repeated_and_replace_those_of_the_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("c.toml");
    let text = "include = [\"pod=a\"]\nexclude = [\"pod=b\"]\nruntime_sockets = \"none\"\n";
    std::fs::write(&file, text).expect("writable");
    let file = file.to_string_lossy().into_owned();
    let cli = parse(&[
        "run",
        "--config",
        &file,
        "--include",
        "namespace=x,label.a=b",
        "--include",
        "image=*",
        "--runtime-socket",
        "/run/a.sock",
    ]);
    let config = cli.expect("valid").config().expect("valid");
    let texts = |patterns: &[Pattern]| -> Vec<String> {
        patterns.iter().map(ToString::to_string).collect()
    };
    assert_eq!(
        texts(&config.selection.include),
        ["namespace=x", "label.a=b", "image=*"]
    );
    assert_eq!(texts(&config.selection.exclude), ["pod=b"]);
    let only = RuntimeSockets::Only(vec![PathBuf::from("/run/a.sock")]);
    assert_eq!(config.runtime_sockets, only);
    let cli = parse(&["top", "--runtime-socket", "none,/a"]).expect("two values");
    assert_eq!(
        cli.config().expect_err("a word beside a path").to_string(),
        "--runtime-socket must be auto or none alone, or paths"
    );
    assert!(error(&["run", "--exclude", "prod"]).contains("must be namespace=GLOB"));
}

#[test]
fn bad_values_name_option_and_range() {
    for (arguments, expected) in [
        (
            &["run", "--max-containers", "0"][..],
            "'--max-containers <N>': must be a number from 1 to 32000, not 0",
        ),
        (
            &["run", "--retention", "2d"],
            "'--retention <DURATION>': must be a duration such as 250ms",
        ),
        (
            &["run", "--interval", "10m"],
            "'--interval <DURATION>': must be from 1s to 5m, not 10m",
        ),
        (
            &["flame", "--seconds", "0"],
            "'--seconds <N>': 0 is not in 1..=300",
        ),
        (&["runqlat", "0"], "must be from 1s to 5m, not 0s"),
        (&["who", "0"], "0 is not in 1.."),
    ] {
        let message = error(arguments);
        assert!(message.contains(expected), "{message}");
    }
    assert!(parse(&["runqlat", "5", "2", "-c", "web"]).is_ok());
    assert!(parse(&["runqlat", "1m"]).is_ok());
    assert!(parse(&["top", "--server", "h:1", "--local"]).is_ok());
}
