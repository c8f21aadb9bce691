use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use super::*;
use crate::{
    cli::{Cli, Command},
    commands::EXIT_BOTTLENECK,
    diagnosis::{
        Thresholds, diagnose as diagnosis_of,
        facts::{WaitedFor, WindowFacts},
        fixture::{held, quota, running, waiting, window},
        verdict::Verdict,
    },
    snapshot::Snapshot,
    source::{ProfileRequest, RenderedProfile, SourceError},
};
use clap::Parser as _;

/// Gives diagnoses one after the other, the last one again and again; cancels when that one is asked for
/// a second time.
struct Played {
    diagnoses: Mutex<Vec<Result<Diagnosis, String>>>,
    cancel: Cancel,
    asked: Mutex<Vec<DiagnosisRequest>>,
}

impl Source for Played {
    fn snapshot(&self) -> Result<Arc<Snapshot>, SourceError> {
        Ok(Arc::default())
    }

    fn diagnosis(&self, request: &DiagnosisRequest) -> Result<Arc<Diagnosis>, SourceError> {
        self.asked
            .lock()
            .expect("not poisoned")
            .push(request.clone());
        let mut diagnoses = self.diagnoses.lock().expect("not poisoned");
        if diagnoses.len() == 1 {
            self.cancel.cancel();
        }
        let next = if diagnoses.len() > 1 {
            diagnoses.remove(0)
        } else {
            diagnoses[0].clone()
        };
        let mut diagnosis = next.map_err(SourceError::NotReady)?;
        if let Some(name) = &request.container {
            diagnosis.containers.retain(|one| one.name == *name);
        }
        Ok(Arc::new(diagnosis))
    }

    fn profile(&self, _: &ProfileRequest, _: &Cancel) -> Result<RenderedProfile, SourceError> {
        Err(SourceError::Cancelled)
    }
}

/// A victim that a bully holds back and its quota too, a neighbour that is not to blame, an idle one.
fn facts() -> WindowFacts {
    let waited = WaitedFor {
        containers: vec![held("bully", 80.0), held("quiet", 1.0)],
        throttled_seconds: 90.0,
        ..WaitedFor::default()
    };
    let mut victim = waiting("victim", 0.6, waited);
    victim.cpu.quotas = vec![quota("/victim", true, 0.6, 0.7)];
    window(
        2,
        0.01,
        vec![
            victim,
            running("bully", 1.2),
            running("quiet", 0.1),
            running("idle", 0.0),
        ],
    )
}

fn diagnosis() -> Diagnosis {
    diagnosis_of(&facts(), &Thresholds::default())
}

fn arguments(line: &[&str]) -> DiagnoseArgs {
    let words = ["ctrscope", "diagnose"].iter().chain(line);
    let cli = Cli::try_parse_from(words).expect("valid");
    match cli.command {
        Command::Diagnose(arguments) => arguments,
        other => panic!("{other:?}"),
    }
}

struct Ran {
    text: String,
    outcome: Outcome,
    asked: Vec<DiagnosisRequest>,
}

fn run(
    line: &[&str],
    diagnoses: Vec<Result<Diagnosis, String>>,
    is_local: bool,
    terminal: Terminal,
) -> Ran {
    let source = Played {
        diagnoses: Mutex::new(diagnoses),
        cancel: Cancel::default(),
        asked: Mutex::default(),
    };
    let mut out = Vec::new();
    let outcome = diagnose(
        &arguments(line),
        &source,
        is_local,
        terminal,
        &source.cancel,
        &mut out,
    )
    .expect("it runs");
    Ran {
        text: String::from_utf8(out).expect("text"),
        outcome,
        asked: source.asked.into_inner().expect("not poisoned"),
    }
}

fn printed(line: &[&str]) -> String {
    run(line, vec![Ok(diagnosis())], false, Terminal::default()).text
}

#[test]
fn all_are_a_table_with_a_sentence_and_a_remedy_for_each_that_is_held_back() {
    let ran = run(&[], vec![Ok(diagnosis())], false, Terminal::default());
    assert_eq!(ran.outcome, Outcome::Bottleneck);
    assert_eq!(EXIT_BOTTLENECK, 3);
    let lines: Vec<&str> = ran.text.lines().collect();
    assert_eq!(
        lines[0],
        "1 of 4 containers is held back, 1 idle; over 60 s until 08:00:00 UTC"
    );
    assert!(
        lines[2].starts_with("CONTAINER  RESOURCE  VERDICT "),
        "{lines:#?}"
    );
    let row: Vec<&str> = lines[3].split_whitespace().collect();
    assert_eq!(row[..3], ["victim", "cpu", "cap_throttled"]);
    assert_eq!(lines[5], "victim: throttled by a CPU quota");
    assert!(lines[6].starts_with("  its own quota of 0.60 cores throttled it"));
    assert!(lines[7].starts_with("  -> raise the quota of /victim"));
    assert_eq!(lines[8], "  also: others have the CPU");
    assert!(!ran.text.contains("quiet"));

    let text = printed(&["--all"]);
    assert!(
        text.lines().any(|line| line.starts_with("quiet ")),
        "{text}"
    );
    assert!(
        text.lines()
            .any(|line| line.starts_with("idle ") && line.contains(" idle "))
    );
}

#[test]
fn nothing_held_back_ends_well() {
    let facts = window(4, 0.9, vec![running("web", 0.3)]);
    let diagnosis = diagnosis_of(&facts, &Thresholds::default());
    let ran = run(&[], vec![Ok(diagnosis.clone())], false, Terminal::default());
    assert_eq!(ran.outcome, Outcome::Done);
    assert_eq!(
        ran.text,
        "0 of 1 containers are held back, 0 idle; over 60 s until 08:00:00 UTC\n"
    );
    let ran = run(&["web"], vec![Ok(diagnosis)], false, Terminal::default());
    assert!(
        ran.text.starts_with("web: nothing holds it back\n"),
        "{}",
        ran.text
    );
}

#[test]
fn one_has_its_evidence_its_culprit_and_the_innocent() {
    let text = printed(&["victim"]);
    for part in [
        "victim: throttled by a CPU quota\n",
        "CPU: throttled by a CPU quota (cap_throttled), costs ",
        "CPU: others have the CPU (share_limited), costs ",
        "  culprit: bully: waited for it 80.0s, share of wait 98.8% (> 50.0%), used 1.20 cores\n",
        "  not to blame: quiet: waited for it 1.00s, share of wait 1.2% (<= 5.0%), used 0.10 cores\n",
        "    yes Does its own quota throttle it?\n",
        "          of /victim: throttled periods 70.0% (>= 1.0%), quota 0.60 cores, throttled time 42.0s\n",
        "Memory:  not held back; it does not wait for memory",
        "RESOURCE  UTILISATION",
    ] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
    assert!(!text.contains("Was a task of it killed"));
    let text = printed(&["victim", "--verbose"]);
    assert!(
        text.contains("    no  Was a task of it killed for want of memory?\n"),
        "{text}"
    );
}

#[test]
fn a_narrow_terminal_breaks_every_line_and_a_wide_one_has_colours() {
    let terminal = |width, color| Terminal {
        stdout: true,
        stderr: true,
        color,
        width: Some(width),
    };
    for line in [&["victim"][..], &["--host"], &[]] {
        let narrow = run(line, vec![Ok(diagnosis())], false, terminal(80, false)).text;
        let widest = narrow.lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(80), "{narrow}");
        assert!(!narrow.contains('\x1b'));
    }
    let wide = run(
        &["victim"],
        vec![Ok(diagnosis())],
        false,
        terminal(200, true),
    )
    .text;
    assert!(wide.contains("\x1b[31mCPU: throttled"), "{wide}");
    run(&["victim"], vec![Ok(diagnosis())], false, terminal(1, true));
}

#[test]
fn json_is_the_whole_diagnosis_in_one_line() {
    let text = printed(&["victim", "--json"]);
    assert_eq!(text.lines().count(), 1);
    let diagnosis: Diagnosis = serde_json::from_str(&text).expect("JSON");
    let worst = diagnosis.containers[0].bottleneck.expect("it is held back");
    assert_eq!(worst.verdict, Verdict::CapThrottled);
}

#[test]
fn without_a_daemon_it_waits_until_the_window_is_whole() {
    let short = |seconds| {
        let mut diagnosis = diagnosis();
        diagnosis.seconds = seconds;
        Ok(diagnosis)
    };
    let not_ready = || Err("no reading yet".to_owned());
    let windows = vec![not_ready(), short(4.0), short(9.5), short(60.0)];
    let ran = run(&["victim"], windows, true, Terminal::default());
    assert!(ran.text.contains("over 10 s until"), "{}", ran.text);
    assert_eq!(ran.asked.len(), 3);
    assert_eq!(ran.asked[0].window, Some(Duration::from_secs(10)));
    // A daemon's window is what it is.
    let ran = run(
        &["victim"],
        vec![short(4.0), short(60.0)],
        false,
        Terminal::default(),
    );
    assert_eq!(ran.asked.len(), 1);
    assert_eq!(ran.asked[0].window, None);
}

#[test]
fn an_interrupt_while_it_measures_says_so() {
    let ran = run(&[], vec![Err("none".to_owned())], true, Terminal::default());
    assert_eq!(ran.outcome, Outcome::Interrupted);
    assert_eq!(ran.text, "");
}

#[test]
fn history_has_a_line_for_each_change() {
    let mut changed = diagnosis();
    let victim = changed
        .containers
        .iter_mut()
        .find(|one| one.name == "victim");
    victim.expect("it is there").history = vec![crate::diagnosis::Change {
        at_unix_ms: 3_723_000,
        resource: crate::diagnosis::Resource::Cpu,
        from: Some(Verdict::NotCpuBound),
        to: Verdict::CapThrottled,
        summary: "its own quota".to_owned(),
    }];
    let ran = run(
        &["victim", "--history"],
        vec![Ok(changed.clone())],
        false,
        Terminal::default(),
    );
    let last = ran.text.lines().last();
    assert_eq!(
        last,
        Some("01:02:03 UTC  cpu     not_cpu_bound -> cap_throttled: its own quota")
    );
    // It also says since when the verdict stands.
    let ran = run(&["victim"], vec![Ok(changed)], false, Terminal::default());
    assert!(ran.text.contains("since 01:02:03 UTC"), "{}", ran.text);
}

#[test]
fn the_host_has_a_row_for_each_resource() {
    let text = printed(&["--host"]);
    assert!(
        text.starts_with("the host: 2 CPUs, 4 containers, 1 of them held back\n"),
        "{text}"
    );
    for resource in ["cpu ", "memory ", "disk vda ", "network eth0 "] {
        assert!(
            text.lines().any(|line| line.starts_with(resource)),
            "{text}"
        );
    }
}

#[test]
fn escape_sequences_in_names_do_not_reach_the_terminal() {
    let mut facts = facts();
    Arc::make_mut(&mut facts.containers[0].identity).container = "a\x1b[2Jb".to_owned();
    let diagnosis = diagnosis_of(&facts, &Thresholds::default());
    for line in [&[][..], &["a\x1b[2Jb"]] {
        let text = run(
            line,
            vec![Ok(diagnosis.clone())],
            false,
            Terminal::default(),
        )
        .text;
        assert!(text.contains("a?[2Jb") && !text.contains('\x1b'), "{text}");
    }
}
