//! `ctrscope check`: what this host offers, and how to fix what it lacks.

use std::io::Write;

use super::{CommandError, Outcome};
pub use crate::bpf::features::{Finding, Status};
use crate::{
    cli::CheckArgs,
    terminal::{Align, Table, Terminal, printable},
};

fn label(status: Status) -> &'static str {
    match status {
        Status::Ok => "ok",
        Status::Warn => "warn",
        Status::Missing => "missing",
    }
}

fn color_code(status: Status) -> &'static str {
    match status {
        Status::Ok => "\x1b[32m",
        Status::Warn => "\x1b[33m",
        Status::Missing => "\x1b[31m",
    }
}

pub(super) fn check(
    arguments: &CheckArgs,
    findings: &[Finding],
    terminal: Terminal,
    out: &mut dyn Write,
) -> Result<Outcome, CommandError> {
    let text = if arguments.json {
        let json = serde_json::to_string_pretty(findings)
            .map_err(|error| CommandError::output(error.into()))?;
        format!("{json}\n")
    } else {
        render(findings, terminal.stdout && terminal.color)
    };
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(CommandError::output)?;
    let cannot_run = findings
        .iter()
        .any(|finding| finding.status == Status::Missing);
    Ok(if cannot_run {
        Outcome::BadNews
    } else {
        Outcome::Done
    })
}

fn render(findings: &[Finding], color: bool) -> String {
    let mut table = Table::new(&[
        ("STATUS", Align::Left),
        ("SUBJECT", Align::Left),
        ("DETAIL", Align::Left),
    ]);
    for finding in findings {
        table.row([
            label(finding.status).to_owned(),
            finding.subject.clone(),
            finding.detail.clone(),
        ]);
    }
    let text = table.to_string();
    let mut lines = text.lines();
    let mut rendered = lines
        .next()
        .map_or_else(String::new, |line| line.to_owned() + "\n");
    for (line, finding) in lines.zip(findings) {
        let word = label(finding.status);
        match line.strip_prefix(word) {
            Some(rest) if color => {
                rendered.push_str(&format!(
                    "{}{word}\x1b[0m{rest}\n",
                    color_code(finding.status)
                ));
            }
            _ => rendered.push_str(&format!("{line}\n")),
        }
        if let Some(fix) = &finding.fix {
            rendered.push_str(&format!("         fix: {}\n", printable(fix)));
        }
    }
    rendered
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings() -> Vec<Finding> {
        let finding = |subject: &str, status, detail: &str, fix: &str| Finding {
            subject: subject.to_owned(),
            status,
            detail: detail.to_owned(),
            fix: (!fix.is_empty()).then(|| fix.to_owned()),
        };
        vec![
            finding("kernel", Status::Ok, "6.1.0", ""),
            finding("pressure", Status::Warn, "off", "boot with psi=1"),
            finding("BTF", Status::Missing, "no file", "give one with --btf"),
        ]
    }

    fn run(json: bool, color: bool, findings: &[Finding]) -> (String, Outcome) {
        let mut out = Vec::new();
        let terminal = Terminal {
            width: None,
            stdout: color,
            stderr: color,
            color,
        };
        let outcome = check(&CheckArgs { json }, findings, terminal, &mut out).expect("writable");
        (String::from_utf8(out).expect("text"), outcome)
    }

    #[test]
    fn the_table_says_how_to_fix_each_lack() {
        let (text, outcome) = run(false, false, &findings());
        assert_eq!(
            text,
            "STATUS   SUBJECT   DETAIL
ok       kernel    6.1.0
warn     pressure  off
         fix: boot with psi=1
missing  BTF       no file
         fix: give one with --btf
"
        );
        assert_eq!(outcome, Outcome::BadNews);
    }

    #[test]
    fn a_warning_alone_is_no_failure() {
        let (text, outcome) = run(false, true, &findings()[..2]);
        assert_eq!(outcome, Outcome::Done);
        assert!(text.contains("\x1b[33mwarn\x1b[0m    pressure"), "{text:?}");
    }

    #[test]
    fn json_has_the_same_findings() {
        let (text, _) = run(true, false, &findings());
        let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(json[2]["status"], "missing");
        assert_eq!(json[2]["fix"], "give one with --btf");
    }
}
