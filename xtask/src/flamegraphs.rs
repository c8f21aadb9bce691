//! `docs/flamegraphs.md`: what the long run says of programs as they are shipped, and their pictures.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::{document, step};

/// Names the directory where the tests leave pictures and facts; see `tests/e2e/accuracy/flamegraphs.rs`.
pub(crate) const VARIABLE: &str = "CTRSCOPE_FLAMEGRAPHS";
/// The tests that leave them.
pub(crate) const TESTS: &str = "accuracy::flamegraphs::";
/// Where the document is, from the root of the repository; the pictures are in a directory beside it.
const DOCUMENT: &str = "docs/flamegraphs.md";
const PICTURES: &str = "docs/flamegraphs";
/// Most that a picture may have.
const MOST_BYTES: usize = 150_000;

/// A directory without what an earlier run left.
///
/// # Errors
///
/// It cannot be made.
pub(crate) fn directory() -> Result<PathBuf> {
    let directory = std::path::absolute(step::target_directory().join("xtask/flamegraphs"))?;
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    Ok(directory)
}

/// Writes the document and its pictures from what the tests left, if all of them passed; says what was written.
///
/// # Errors
///
/// A file cannot be read or written, or says something else.
pub(crate) fn write(
    directory: &Path,
    passed: usize,
    tests: usize,
    commit: Option<&str>,
) -> Result<()> {
    if passed < tests {
        println!("{DOCUMENT} stays: {passed} of its {tests} tests passed");
        return Ok(());
    }
    let programs = read(directory)?;
    let pictures = step::repository().join(PICTURES);
    let _ = fs::remove_dir_all(&pictures);
    fs::create_dir_all(&pictures)
        .with_context(|| format!("cannot create {}", pictures.display()))?;
    for program in &programs {
        let name = format!("{}.svg", program.name);
        let svg = fs::read_to_string(directory.join(&name))
            .with_context(|| format!("cannot read {name}"))?;
        document::write(&pictures.join(&name), &slim(&svg))?;
    }
    document::write(
        &step::repository().join(DOCUMENT),
        &render(&programs, commit),
    )?;
    println!("wrote {DOCUMENT}");
    Ok(())
}

/// A picture without its narrowest frames, as many as make it small enough for a repository.
fn slim(svg: &str) -> String {
    let mut slim = svg.to_owned();
    for percent in [0.2, 0.3, 0.5, 1.0, 2.0, 4.0] {
        if slim.len() <= MOST_BYTES {
            break;
        }
        slim = without_narrow(svg, percent);
    }
    slim
}

/// Without frames of less than a part of the samples. A frame is a group whose title ends with `, 1.25%)`.
fn without_narrow(svg: &str, percent: f64) -> String {
    let mut groups = svg.split("<g>");
    let mut kept = groups.next().unwrap_or_default().to_owned();
    for group in groups {
        let (frame, after) = group.split_once("</g>").unwrap_or((group, ""));
        let part = frame
            .split_once("%)</title>")
            .and_then(|(title, _)| title.rsplit_once(", ")?.1.parse::<f64>().ok());
        if part.is_some_and(|part| part < percent) {
            kept.push_str(after);
        } else {
            kept.push_str("<g>");
            kept.push_str(group);
        }
    }
    kept
}

/// What a test says of a program.
struct Program {
    name: String,
    version: String,
    seconds: u64,
    samples: u64,
    lost: u64,
    named_percent: u64,
    complete: f64,
    lacking: BTreeMap<String, u64>,
    depth: f64,
    deepest: u64,
    begins: Vec<(String, f64)>,
}

/// All that is there, by name.
fn read(directory: &Path) -> Result<Vec<Program>> {
    let mut programs = Vec::new();
    for entry in
        fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?
    {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            let text = fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            programs.push(parse(&text).with_context(|| path.display().to_string())?);
        }
    }
    programs.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(programs)
}

fn parse(text: &str) -> Result<Program> {
    let value: Value = serde_json::from_str(text)?;
    let text = |key: &str| {
        let found = value[key].as_str().map(str::to_owned);
        found.with_context(|| format!("no {key}"))
    };
    let number = |key: &str| value[key].as_f64().with_context(|| format!("no {key}"));
    let count = |key: &str| value[key].as_u64().with_context(|| format!("no {key}"));
    Ok(Program {
        name: text("program")?,
        version: text("version")?,
        seconds: count("seconds")?,
        samples: count("samples")?,
        lost: count("lost")?,
        named_percent: count("named_percent")?,
        complete: number("complete")?,
        lacking: serde_json::from_value(value["lacking"].clone()).context("no lacking")?,
        depth: number("depth")?,
        deepest: count("deepest")?,
        begins: serde_json::from_value(value["begins"].clone()).context("no begins")?,
    })
}

fn render(programs: &[Program], commit: Option<&str>) -> String {
    let mut text = format!(
        "# Flame graphs of programs as they are shipped\n\n\
         Written by `cargo xtask accuracy` at {}, on {}.\n\n\
         Debian's own builds, without anything rebuilt: each ran under load in a `runc` container on an overlay \
         file system, and was recorded with 99 Hz after a first recording of a second, which has its tables read (`tests/e2e/accuracy/flamegraphs.rs`).\n\
         A stack is complete if it was walked to the first frame of its thread; every other one is counted as \
         lacking something, with the reason, and at most 1 % may.\n\
         The depth is in frames of the program, those of the kernel not counted.\n\
         `named` is the part of the distinct addresses that have a function's name; the rest are offsets in files \
         without symbols.\n\
         The narrowest frames are left out of large pictures.\n\n\
         | program | version | samples | complete | lacking | named | mean depth | deepest | lost |\n\
         | --- | --- | ---: | ---: | --- | ---: | ---: | ---: | ---: |\n",
        commit.unwrap_or("an unknown commit"),
        document::machine(),
    );
    for program in programs {
        let lacking: Vec<String> = program
            .lacking
            .iter()
            .map(|(what, count)| format!("{what} {count}"))
            .collect();
        let _ = writeln!(
            text,
            "| [{name}](#{name}) | {} | {} | {:.2} % | {} | {} % | {:.1} | {} | {} |",
            program.version,
            program.samples,
            program.complete * 100.0,
            lacking.join(", "),
            program.named_percent,
            program.depth,
            program.deepest,
            program.lost,
            name = program.name,
        );
    }
    for program in programs {
        let begins: Vec<String> = program
            .begins
            .iter()
            .map(|(frame, part)| format!("`{frame}` {:.1} %", part * 100.0))
            .collect();
        let _ = write!(
            text,
            "\n## {name}\n\n{} s; the first frames of its stacks: {}.\n\n![{name}](flamegraphs/{name}.svg)\n",
            program.seconds,
            begins.join(", "),
            name = program.name,
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrow_frames_are_left_out() {
        let wide = "<g><title>main (9 samples, 90.00%)</title><rect/></g>\n";
        let svg = format!("<svg>{wide}<g><title>f (1 samples, 0.10%)</title></g>\n{wide}</svg>");
        assert_eq!(
            without_narrow(&svg, 0.2),
            format!("<svg>{wide}\n{wide}</svg>")
        );
        assert_eq!(slim(&svg), svg);
    }

    #[test]
    fn what_a_test_left_is_a_row_and_a_picture() {
        let program = parse(
            r#"{"program":"redis","version":"v=7","seconds":8,"samples":700,"lost":0,"named_percent":90,
            "complete":0.995,"lacking":{"broken: fault":3},"depth":7.25,"deepest":12,
            "begins":[["_start",0.995],["[broken stack]",0.005]]}"#,
        )
        .unwrap();
        let text = render(&[program], None);
        assert!(text.contains(
            "| [redis](#redis) | v=7 | 700 | 99.50 % | broken: fault 3 | 90 % | 7.2 | 12 | 0 |"
        ));
        assert!(text.contains("`_start` 99.5 %, `[broken stack]` 0.5 %"));
        assert!(text.ends_with("![redis](flamegraphs/redis.svg)\n"));
        let error = parse("{}").err().unwrap();
        assert!(error.to_string().contains("no program"), "{error}");
    }
}
