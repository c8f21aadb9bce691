//! `mutate`: defects on purpose, each of which the tests must find.

mod list;

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, bail};

use self::list::{MUTATIONS, Mutation};
use crate::{
    document::{self, Section},
    interrupt, step,
};

/// Set while the tests run on a defect, of which the test of the list itself knows nothing.
const IS_MADE: &str = "CTRSCOPE_DEFECT_IS_MADE";
const SECTION: Section = Section {
    document: "docs/testing.md",
    name: "mutate",
};

/// Make defects on purpose, one after the other, and write into docs/testing.md which test found each.
///
/// Works on a copy of the last commit below target/; the working tree is not touched. Each defect runs
/// the tests of the gate until the first one fails; one that the gate does not see runs the tests of the
/// long run that are there for it. Takes about an hour; needs root.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only defects whose name contains FILTER; printed, not written
    #[arg(long, value_name = "FILTER")]
    only: Option<String>,
    /// List them and do nothing
    #[arg(long)]
    list: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    interrupt::catch();
    if arguments.list {
        for mutation in MUTATIONS {
            println!("{}: {}", mutation.name, mutation.file);
        }
        return Ok(ExitCode::SUCCESS);
    }
    interrupt::exit_code(mutate(arguments))
}

/// Who found a defect.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// A test of the gate.
    Gate(String),
    /// A test of the long run; the gate was green.
    LongRun(String),
    Nobody,
}

fn mutate(arguments: &Arguments) -> Result<()> {
    let commit = document::commit();
    let copy = Copy::new()?;
    let mut rows = Vec::new();
    for mutation in MUTATIONS {
        let is_wanted = arguments
            .only
            .as_ref()
            .is_none_or(|filter| mutation.name.contains(filter));
        if !is_wanted {
            continue;
        }
        interrupt::check()?;
        let start = Instant::now();
        let found = copy.find(mutation)?;
        println!(
            "{}: {} ({:.0} s)",
            mutation.name,
            describe(&found),
            start.elapsed().as_secs_f64()
        );
        rows.push((mutation, found));
    }
    if rows.is_empty() {
        bail!("no defect has that in its name; `--list` lists them");
    }
    let text = render(&rows, commit.as_deref());
    if arguments.only.is_none() {
        SECTION.write(&text)?;
        println!("wrote {}", SECTION.document);
    }
    let missed: Vec<&str> = rows
        .iter()
        .filter(|(mutation, found)| !is_as_expected(mutation, found))
        .map(|(mutation, _)| mutation.name)
        .collect();
    if !missed.is_empty() {
        bail!("not found where they must be: {}", missed.join(", "));
    }
    Ok(())
}

/// What only the long run can see is said in the list; all else is the gate's to find.
fn is_as_expected(mutation: &Mutation, found: &Found) -> bool {
    match found {
        Found::Gate(_) => true,
        Found::LongRun(_) => mutation.long_run.is_some(),
        Found::Nobody => false,
    }
}

fn describe(found: &Found) -> String {
    match found {
        Found::Gate(test) => format!("`{test}`"),
        Found::LongRun(test) => format!("long run: `{test}`"),
        Found::Nobody => "**nobody**".to_owned(),
    }
}

fn render(rows: &[(&Mutation, Found)], commit: Option<&str>) -> String {
    let mut text = format!(
        "Written by `cargo xtask mutate` at {}.\n\n\
         | defect | where | found by |\n| --- | --- | --- |\n",
        commit.unwrap_or("an unknown commit")
    );
    for (mutation, found) in rows {
        let _ = writeln!(
            text,
            "| {} | `{}` | {} |",
            mutation.name,
            mutation.file,
            describe(found)
        );
    }
    text
}

/// The last commit in a directory of its own, with build outputs that are kept from defect to defect.
struct Copy {
    root: PathBuf,
    target: PathBuf,
}

impl Copy {
    fn new() -> Result<Self> {
        let directory = std::path::absolute(step::target_directory().join("mutate"))?;
        let root = directory.join("tree");
        fs::create_dir_all(&directory)?;
        let _ = fs::remove_dir_all(&root);
        let status = Command::new("git")
            .args(["clone", "--quiet", "--no-hardlinks"])
            .arg(step::repository())
            .arg(&root)
            .status()
            .context("cannot run git")?;
        if !status.success() {
            bail!("git clone: {status}");
        }
        Ok(Self {
            root,
            target: directory.join("target"),
        })
    }

    /// Makes a defect, runs the tests and takes the defect back.
    fn find(&self, mutation: &Mutation) -> Result<Found> {
        let path = self.root.join(mutation.file);
        let sound =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let defect = mutation
            .apply(&sound)
            .with_context(|| format!("{} does not fit {}", mutation.name, mutation.file))?;
        fs::write(&path, defect).with_context(|| format!("cannot write {}", path.display()))?;
        let found = self.judge(mutation);
        fs::write(&path, sound).with_context(|| format!("cannot write {}", path.display()))?;
        found
    }

    fn judge(&self, mutation: &Mutation) -> Result<Found> {
        let gate = self.test(mutation, &["--tests-only", "--fail-fast"])?;
        if let Some(test) = gate {
            return Ok(Found::Gate(test));
        }
        for filter in mutation.long_run.into_iter().flatten() {
            if let Some(test) = self.test(mutation, &["--fail-fast", "--only", filter])? {
                return Ok(Found::LongRun(test));
            }
        }
        Ok(Found::Nobody)
    }

    /// The first test that failed; `None` if all passed.
    fn test(&self, mutation: &Mutation, arguments: &[&str]) -> Result<Option<String>> {
        let log = self.target.with_file_name(format!(
            "{}.log",
            mutation
                .name
                .replace(|c: char| !c.is_ascii_alphanumeric(), "-")
        ));
        let file =
            fs::File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        // What an earlier defect's unit tests said is nothing that this one's did.
        let units = self.target.join("xtask/unit-tests.log");
        let _ = fs::remove_file(&units);
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let status = Command::new(cargo)
            .current_dir(&self.root)
            .args(["run", "--quiet", "--package", "xtask", "--", "test"])
            .args(arguments)
            .env("CARGO_TARGET_DIR", &self.target)
            .env(IS_MADE, "1")
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .status()
            .context("cannot run cargo")?;
        interrupt::check()?;
        if status.success() {
            return Ok(None);
        }
        let said = read(&log);
        first_failure(&said, &read(&units))
            .map(Some)
            .with_context(|| format!("no test failed: see {}", log.display()))
    }
}

fn read(path: &Path) -> String {
    let text = fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&text).into_owned()
}

/// The first test that failed: on containers by what the test command said, else a unit test.
fn first_failure(said: &str, units: &str) -> Option<String> {
    let on_containers = said
        .lines()
        .find_map(|line| line.strip_prefix("failed: ")?.split(' ').next());
    // Where the end-to-end tests ran, the unit tests had passed.
    let unit = || {
        units.lines().find_map(|line| {
            let name = line.strip_prefix("test ")?.split_once(" ... FAILED")?.0;
            Some(name)
        })
    };
    on_containers.or_else(unit).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_defect_fits_the_source_once_and_changes_it() {
        // Else each would be found here, by its text and not by what it does.
        let most_unfit = usize::from(std::env::var_os(IS_MADE).is_some());
        let mut unfit = Vec::new();
        for mutation in MUTATIONS {
            let path = step::repository().join(mutation.file);
            let sound = fs::read_to_string(&path).unwrap();
            let defect = mutation.apply(&sound);
            if defect.is_none_or(|defect| defect == sound) {
                unfit.push(mutation.name);
            }
        }
        assert!(
            unfit.len() <= most_unfit,
            "their text is not in the file once: {unfit:?}"
        );
    }

    #[test]
    fn the_first_failure_is_named() {
        let said = "test a::b ... FAILED (1.0 s)\nfailed: a::b (x.log)\n1 passed, 1 failed\n";
        assert_eq!(first_failure(said, "").as_deref(), Some("a::b"));
        let units = "test c::d ... ok\ntest c::e ... FAILED\n";
        assert_eq!(first_failure("", units).as_deref(), Some("c::e"));
        assert_eq!(first_failure("error: no compiler\n", ""), None);
    }

    #[test]
    fn what_the_gate_lets_through_must_be_listed_for_the_long_run() {
        let gate = Mutation {
            long_run: None,
            ..MUTATIONS[0]
        };
        let test = || "a".to_owned();
        assert!(is_as_expected(&gate, &Found::Gate(test())));
        assert!(!is_as_expected(&gate, &Found::LongRun(test())));
        let long_run = Mutation {
            long_run: Some(&["a"]),
            ..MUTATIONS[0]
        };
        assert!(is_as_expected(&long_run, &Found::LongRun(test())));
        assert!(!is_as_expected(&long_run, &Found::Nobody));
    }
}
