//! The table of scenes in `docs/diagnosis.md`: what the long run says of each verdict on real containers.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::{
    document::{self, Section},
    step,
};

/// Names the file to which the tests append a line for each scene; see `tests/e2e/accuracy/diagnosis.rs`.
pub(crate) const VARIABLE: &str = "CTRSCOPE_SCENES";
/// The tests that do.
pub(crate) const TESTS: &str = "accuracy::diagnosis::";
const SECTION: Section = Section {
    document: "docs/diagnosis.md",
    name: "scenes",
};

/// The file, without what an earlier run left.
///
/// # Errors
///
/// Its path has no absolute form.
pub(crate) fn file() -> Result<PathBuf> {
    let path = std::path::absolute(step::target_directory().join("xtask/scenes.jsonl"))?;
    let _ = fs::remove_file(&path);
    Ok(path)
}

/// Writes the table from what the tests left, if all of them passed; says what was written.
///
/// # Errors
///
/// A file cannot be read or written, or says something else.
pub(crate) fn write(path: &Path, passed: usize, tests: usize, commit: Option<&str>) -> Result<()> {
    if passed < tests {
        println!(
            "{} keeps its scenes: {passed} of {tests} passed",
            SECTION.document
        );
        return Ok(());
    }
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let scenes = read(&text).with_context(|| path.display().to_string())?;
    SECTION.write(&render(&scenes, commit))?;
    println!("wrote the scenes into {}", SECTION.document);
    Ok(())
}

/// Who is to blame in a scene and who is not, and how often all of it was said.
#[derive(Debug, Default, PartialEq)]
struct Scene {
    culprits: String,
    innocent: String,
    windows: u64,
    right: u64,
    wrong_culprit: u64,
}

/// Name of a scene, the resource that was judged, and what is expected of it.
type Key = [String; 3];

/// All that was judged. A line is one try, whose windows add up.
fn read(text: &str) -> Result<BTreeMap<Key, Scene>> {
    let mut scenes: BTreeMap<Key, Scene> = BTreeMap::new();
    for line in text.lines() {
        let value: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        let text = |key: &str| {
            let found = value[key].as_str().map(str::to_owned);
            found.with_context(|| format!("no {key}: {line}"))
        };
        let count = |key: &str| {
            let found = value[key].as_u64();
            found.with_context(|| format!("no {key}: {line}"))
        };
        let names = |key: &str| {
            let all = value[key].as_array().into_iter().flatten();
            let all: Vec<&str> = all.filter_map(Value::as_str).collect();
            all.join(", ")
        };
        let scene = scenes
            .entry([text("scene")?, text("resource")?, text("verdicts")?])
            .or_default();
        scene.culprits = names("culprits");
        scene.innocent = names("innocent");
        scene.windows += count("windows")?;
        scene.right += count("right")?;
        scene.wrong_culprit += count("wrong_culprit")?;
    }
    Ok(scenes)
}

fn render(scenes: &BTreeMap<Key, Scene>, commit: Option<&str>) -> String {
    let mut text = format!(
        "Written by `cargo xtask accuracy` at {}, on {}.\n\n\
         | scene | resource | verdict | to blame | exonerated | windows | right | wrong culprit |\n\
         | --- | --- | --- | --- | --- | ---: | ---: | ---: |\n",
        commit.unwrap_or("an unknown commit"),
        document::machine(),
    );
    for ([name, resource, verdicts], scene) in scenes {
        let or_nobody = |names: &str| {
            if names.is_empty() {
                "-".to_owned()
            } else {
                names.to_owned()
            }
        };
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "| {} | {resource} | `{}` | {} | {} | {} | {} | {} |",
            name.replace('_', " "),
            verdicts.replace(", ", "`, `"),
            or_nobody(&scene.culprits),
            or_nobody(&scene.innocent),
            scene.windows,
            scene.right,
            scene.wrong_culprit,
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_windows_of_all_tries_of_a_scene_are_one_row() {
        let line = |right: u64| {
            format!(
                r#"{{"scene":"beside_one_bully","resource":"cpu","verdicts":"cap_throttled, share_limited","culprits":["bully"],"innocent":[],"windows":10,"right":{right},"wrong_culprit":0}}"#
            )
        };
        let scenes = read(&format!("{}\n{}\n", line(10), line(9))).unwrap();
        let text = render(&scenes, Some("abc"));
        assert!(text.contains("at abc"), "{text}");
        let row = "| beside one bully | cpu | `cap_throttled`, `share_limited` | bully | - | 20 | 19 | 0 |";
        assert!(text.contains(row), "{text}");
        assert!(read("{}").is_err() && read("no").is_err());
    }
}
