use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use clap::Parser as _;

use super::*;
use crate::{
    cli::{Cli, Command},
    diagnosis::{
        facts::{WaitedFor, WindowFacts},
        fixture::{held, running, waiting, window},
        wait_matrix,
    },
    snapshot::Snapshot,
    source::{ProfileRequest, RenderedProfile, SourceError},
};

/// Answers from one window; cancels once it was asked as often as is wanted.
struct Played {
    facts: WindowFacts,
    times: usize,
    cancel: Cancel,
    asked: Mutex<Vec<DiagnosisRequest>>,
}

impl Source for Played {
    fn snapshot(&self) -> Result<Arc<Snapshot>, SourceError> {
        Ok(Arc::default())
    }

    fn neighbours(&self, request: &DiagnosisRequest) -> Result<Arc<WaitMatrix>, SourceError> {
        let mut asked = self.asked.lock().expect("not poisoned");
        asked.push(request.clone());
        if asked.len() == self.times {
            self.cancel.cancel();
        }
        let mut containers = self.facts.containers.iter();
        let only =
            containers.find(|one| Some(&one.identity.container) == request.container.as_ref());
        let only = only.map(|one| &*one.identity);
        Ok(Arc::new(wait_matrix(&self.facts, only)))
    }

    fn profile(&self, _: &ProfileRequest, _: &Cancel) -> Result<RenderedProfile, SourceError> {
        Err(SourceError::Cancelled)
    }
}

fn facts() -> WindowFacts {
    let web = WaitedFor {
        own_seconds: 5.994,
        system_seconds: 9.0,
        services: vec![held("backup.service", 6.0)],
        containers: vec![held("batch", 30.0), held("quiet", 0.006)],
        other_containers_seconds: 9.0,
        throttled_seconds: 6.0,
        ..WaitedFor::default()
    };
    let db = WaitedFor {
        containers: vec![held("batch", 12.0)],
        ..WaitedFor::default()
    };
    let containers = vec![
        waiting("web", 0.5, web),
        running("batch", 1.2),
        waiting("db", 0.5, db),
    ];
    window(2, 0.0, containers)
}

fn run(line: &[&str], facts: WindowFacts, terminal: Terminal) -> (String, Vec<DiagnosisRequest>) {
    let words = ["ctrscope", "neighbours"].iter().chain(line);
    let cli = Cli::try_parse_from(words).expect("valid");
    let Command::Neighbours(arguments) = cli.command else {
        panic!("another command");
    };
    let source = Played {
        facts,
        times: if arguments.watch { 1 } else { usize::MAX },
        cancel: Cancel::default(),
        asked: Mutex::default(),
    };
    let mut out = Vec::new();
    let outcome = neighbours(
        &arguments,
        &source,
        false,
        terminal,
        &source.cancel,
        &mut out,
    );
    assert_eq!(outcome.expect("it runs"), Outcome::Done);
    let text = String::from_utf8(out).expect("text");
    (text, source.asked.into_inner().expect("not poisoned"))
}

fn printed(line: &[&str]) -> String {
    run(line, facts(), Terminal::default()).0
}

#[test]
fn all_are_a_table_of_pairs_and_the_worst_offenders() {
    assert_eq!(
        printed(&[]),
        "\
3 containers and services waited 1.20s a second for CPUs; over 60 s until 08:00:00 UTC
for other containers 70.8%, system services and sessions 12.5%, CPU quota 8.3%, own tasks 8.3%

VICTIM  CULPRIT            WAIT  OF ITS WAIT
web     batch           500ms/s        50.0%
db      batch           200ms/s         100%
web     backup.service  100ms/s        10.0%

WORST OFFENDER                    OTHERS' WAIT  VICTIMS  MOST OF ALL
batch                                  700ms/s        2  web
backup.service                         100ms/s        1  web
(other containers)                     150ms/s        -  -
(other services, sessions, root)      50.0ms/s        -  -
"
    );
    let all = printed(&["--all"]);
    assert!(
        all.contains("\nweb     quiet           100us/s        <0.1%\n"),
        "{all}"
    );
}

#[test]
fn one_has_its_causes_its_neighbours_and_who_waited_for_it() {
    assert_eq!(
        printed(&["web"]),
        "\
web waited 1.00s a second for CPUs
over 60 s until 08:00:00 UTC

CAUSE                             WAIT  SHARE
other containers               650ms/s  65.0%
system services and sessions   150ms/s  15.0%
CPU quota                      100ms/s  10.0%
own tasks                     99.9ms/s  10.0%

IT WAITED FOR                     KIND           WAIT  OF ALL ITS WAIT
batch                             container   500ms/s            50.0%
backup.service                    service     100ms/s            10.0%
(other containers)                -           150ms/s            15.0%
(other services, sessions, root)  -          50.0ms/s             5.0%

nobody waited for web, or less than 1 ms a second
"
    );
    assert_eq!(
        printed(&["batch"]),
        "\
batch did not wait for CPUs: less than 1 ms a second
over 60 s until 08:00:00 UTC

WAITED FOR IT  KIND          WAIT  OF ALL ITS WAIT
web            container  500ms/s            50.0%
db             container  200ms/s             100%
"
    );
}

#[test]
fn a_quiet_host_says_so_in_words() {
    let facts = window(2, 0.9, vec![running("web", 0.1), running("db", 0.1)]);
    let (text, _) = run(&[], facts.clone(), Terminal::default());
    assert_eq!(
        text,
        "nobody made anybody else wait for 1 ms a second; 2 containers and services waited 0s a second for CPUs; \
         over 60 s until 08:00:00 UTC\n"
    );
    let (text, _) = run(&["web"], facts, Terminal::default());
    assert_eq!(
        text,
        "web did not wait for CPUs: less than 1 ms a second\nover 60 s until 08:00:00 UTC\n\n\
         nobody waited for web, or less than 1 ms a second\n"
    );
    // Neither are its own tasks neighbours, nor is what has no name nobody.
    let own = WaitedFor {
        own_seconds: 60.0,
        ..WaitedFor::default()
    };
    let root = WaitedFor {
        system_seconds: 60.0,
        ..WaitedFor::default()
    };
    let of = |waited| {
        let facts = window(2, 0.0, vec![waiting("web", 0.5, waited)]);
        run(&[], facts, Terminal::default()).0
    };
    let waited =
        "1 container or service waited 1.00s a second for CPUs; over 60 s until 08:00:00 UTC\n";
    assert_eq!(
        of(own),
        format!("nobody made anybody else wait for 1 ms a second; {waited}for own tasks 100%\n")
    );
    let text = of(root);
    assert!(text.starts_with(waited), "{text}");
    assert!(
        text.contains("\n(other services, sessions, root)       1.00s/s"),
        "{text}"
    );
    let mut dark = running("web", 0.1);
    dark.cpu.waited_for = None;
    let (text, _) = run(&[], window(2, 0.9, vec![dark]), Terminal::default());
    assert!(
        text.starts_with("it is not measured who waited for whom"),
        "{text}"
    );
}

#[test]
fn json_is_the_whole_matrix_in_one_line() {
    for line in [&["--json"][..], &["--json", "--watch", "--window", "7s"]] {
        let (text, asked) = run(line, facts(), Terminal::default());
        assert_eq!(text.lines().count(), 1);
        let matrix: WaitMatrix = serde_json::from_str(&text).expect("JSON");
        assert_eq!((matrix.measured, matrix.containers.len()), (3, 2));
        assert_eq!(matrix.culprits[0].victims[0].name, "web");
        let window = (line.len() > 1).then_some(Duration::from_secs(7));
        assert_eq!(asked[0].window, window);
    }
}

#[test]
fn names_do_not_reach_the_terminal_as_they_are_and_a_narrow_one_shortens_them() {
    let mut facts = facts();
    for one in &mut facts.containers {
        let name = format!("a\x1b[2J{}/{}", "long-".repeat(20), one.identity.container);
        Arc::make_mut(&mut one.identity).container = name.clone();
        if let Some(waited) = &mut one.cpu.waited_for {
            waited.containers.push(held(&name, 1.0));
        }
    }
    let name = facts.containers[0].identity.container.clone();
    let terminal = Terminal {
        stdout: true,
        stderr: true,
        color: false,
        width: Some(80),
    };
    for line in [&[][..], &[name.as_str()]] {
        let (text, _) = run(line, facts.clone(), terminal);
        let widest = text.lines().skip(1).map(|line| line.chars().count()).max();
        assert!(widest <= Some(120), "{text}");
        assert!(text.contains("/web") && !text.contains('\x1b'), "{text}");
    }
}
