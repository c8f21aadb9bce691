//! `fuzz`: libFuzzer over the parsers of outside text.
//!
//! The targets are in the agent (`agent/src/fuzz.rs`), each with a folder of seeds in `agent/fixtures/fuzz/`.
//! What libFuzzer finds beyond them stays below `target/fuzz/` and is where the next run begins.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, bail};

use crate::{interrupt, setup::fuzzer, step};

/// Memory and time of one input, beyond which it counts as a defect.
const MOST_MEBIBYTES: u32 = 1_024;
const MOST_SECONDS: u32 = 5;

/// Run the fuzz targets with libFuzzer and the address sanitizer: every parser of outside text.
///
/// Installs a nightly compiler and cargo-fuzz where they are missing. Seeds are agent/fixtures/fuzz/TARGET/; what
/// is found beyond them is kept in target/fuzz/corpus/, inputs that break something in target/fuzz/broken/.
/// Needs neither root nor the toolchain for eBPF.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only this target; all of them otherwise
    target: Option<String>,
    /// Seconds for each target
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    seconds: u32,
    /// Print the names of the targets
    #[arg(long)]
    list: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    interrupt::catch();
    interrupt::exit_code(fuzz(arguments))
}

fn fuzz(arguments: &Arguments) -> Result<()> {
    let mut targets = targets()?;
    if arguments.list {
        println!("{}", targets.join("\n"));
        return Ok(());
    }
    if let Some(wanted) = &arguments.target {
        targets.retain(|target| target == wanted);
        if targets.is_empty() {
            bail!("no fuzz target is called {wanted:?}; `cargo xtask fuzz --list` has them");
        }
    }
    fuzzer::install()?;
    let program = build()?;
    let width = targets.iter().map(String::len).max().unwrap_or(0);
    let mut broken = Vec::new();
    for target in &targets {
        interrupt::check()?;
        let outcome = run_target(&program, target, arguments.seconds)?;
        println!("{target:width$}  {outcome}");
        if let Some(found) = outcome.broken {
            broken.push((target, found));
        }
    }
    if broken.is_empty() {
        return Ok(());
    }
    for (target, found) in &broken {
        println!("\n{target}: {}", found.what);
        println!("    input:  {}", found.input.display());
        println!(
            "    output: {}",
            step::log(&format!("fuzz-{target}")).display()
        );
    }
    println!(
        "\nOnce it is mended, the input belongs into agent/fixtures/fuzz/TARGET/, under a name that says what \
         it is: the unit tests run it from then on."
    );
    bail!("{} of {} targets are broken", broken.len(), targets.len());
}

/// The folders of seeds, which a unit test of the agent holds to its targets.
fn targets() -> Result<Vec<String>> {
    let folder = seeds("");
    let entries =
        fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.path().is_dir() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn seeds(target: &str) -> PathBuf {
    step::repository().join("agent/fixtures/fuzz").join(target)
}

fn below_target(name: &str) -> Result<PathBuf> {
    let folder = std::path::absolute(step::target_directory())?
        .join("fuzz")
        .join(name);
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    Ok(folder)
}

/// Builds the program that has all targets.
fn build() -> Result<PathBuf> {
    let folder = below_target("build")?;
    let object = folder.join("no-programs");
    fs::write(&object, no_programs())?;
    let triple = host_triple()?;
    step::run(
        "build the fuzz targets (nightly, address sanitizer)",
        "fuzz-build",
        Command::new(fuzzer::cargo_fuzz())
            .current_dir(step::repository())
            .args([
                "build",
                "--fuzz-dir",
                "fuzz",
                "--target",
                &triple,
                "--target-dir",
            ])
            .arg(&folder)
            .arg("all")
            .env("RUSTUP_TOOLCHAIN", "nightly")
            .env("CTRSCOPE_EBPF_OBJECT", object)
            // The compiler that runs us is another one.
            .env_remove("CARGO")
            .env_remove("CARGO_TARGET_DIR")
            .env_remove("RUSTC"),
    )?;
    Ok(folder.join(triple).join("release/all"))
}

/// Stands for the eBPF object, of which no target runs anything: the header of an empty ELF file for eBPF.
fn no_programs() -> [u8; 64] {
    let mut header = [0; 64];
    for (at, bytes) in [
        (0, b"\x7fELF\x02\x01\x01".as_slice()),
        // A relocatable file for machine 247, version 1; a header of 64 bytes.
        (16, &[1, 0, 247, 0, 1]),
        (52, &[64]),
    ] {
        header[at..at + bytes.len()].copy_from_slice(bytes);
    }
    header
}

fn host_triple() -> Result<String> {
    let output = Command::new("rustc")
        .args(["-vV"])
        .env("RUSTUP_TOOLCHAIN", "nightly")
        .output()
        .context("cannot run rustc")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc does not say its host")?.to_owned())
}

/// How a target ran.
struct Outcome {
    runs: u64,
    /// Edges of the program that were reached.
    edges: u64,
    seconds: f64,
    broken: Option<Broken>,
}

/// A defect that was found.
struct Broken {
    what: String,
    input: PathBuf,
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = if self.broken.is_some() {
            "broken"
        } else {
            "ok"
        };
        let Self {
            runs,
            edges,
            seconds,
            ..
        } = self;
        write!(
            f,
            "{state:6}  {runs:>10} runs  {edges:>6} edges  {seconds:6.1} s"
        )
    }
}

fn run_target(program: &Path, target: &str, seconds: u32) -> Result<Outcome> {
    let corpus = below_target("corpus")?.join(target);
    fs::create_dir_all(&corpus)?;
    let inputs = below_target("broken")?.join(format!("{target}-"));
    let log = step::log(&format!("fuzz-{target}"));
    let file = fs::File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let start = Instant::now();
    let status = Command::new(program)
        .env("CTRSCOPE_FUZZ_TARGET", target)
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-timeout={MOST_SECONDS}"))
        .arg(format!("-rss_limit_mb={MOST_MEBIBYTES}"))
        .arg(format!("-artifact_prefix={}", inputs.display()))
        .args([
            "-print_final_stats=1",
            "-detect_leaks=0",
            "-use_value_profile=1",
        ])
        .args([&corpus, &seeds(target)])
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .status()
        .with_context(|| format!("cannot run {}", program.display()))?;
    let seconds = start.elapsed().as_secs_f64();
    interrupt::check()?;
    let output = fs::read(&log)?;
    let output = String::from_utf8_lossy(&output);
    let broken = if status.success() {
        None
    } else {
        Some(broken(&output).with_context(|| {
            step::print_file(&log);
            format!("{target} did not run: {status}")
        })?)
    };
    Ok(Outcome {
        runs: number_after(&output, "stat::number_of_executed_units:").unwrap_or(0),
        edges: number_after(&output, " cov:").unwrap_or(0),
        seconds,
        broken,
    })
}

/// What libFuzzer says of an input that ended it.
fn broken(output: &str) -> Option<Broken> {
    let input = output
        .lines()
        .find_map(|line| line.split_once("Test unit written to "))?
        .1
        .trim();
    let mut lines = output.lines();
    let panic = lines
        .find(|line| line.contains(" panicked at "))
        .map(|place| {
            let message = lines.next().unwrap_or_default();
            format!("{} {}", place.trim(), message.trim())
        });
    let what = panic.or_else(|| {
        let error = output.lines().find(|line| line.contains("ERROR: "))?;
        Some(error.trim().to_owned())
    });
    Some(Broken {
        what: what.unwrap_or_else(|| "ended by itself".to_owned()),
        input: PathBuf::from(input),
    })
}

/// The number behind the last of a word.
fn number_after(output: &str, word: &str) -> Option<u64> {
    let (_, after) = output.rsplit_once(word)?;
    after.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_output_of_a_run_is_understood() {
        let output = "#2\tINITED cov: 12 ft: 13\n#9\tDONE   cov: 15 ft: 20 corp: 3/9b\n\
            stat::number_of_executed_units: 131072\nstat::average_exec_per_sec:     11915\n";
        assert_eq!(number_after(output, " cov:"), Some(15));
        assert_eq!(
            number_after(output, "stat::number_of_executed_units:"),
            Some(131_072)
        );
        assert!(broken(output).is_none());
    }

    #[test]
    fn a_panic_and_its_input_are_told() {
        let output = "thread '<unnamed>' (7) panicked at agent/src/a.rs:1:2:\nboom\n\
            ==7== ERROR: libFuzzer: deadly signal\n\
            artifact_prefix='/t/x-'; Test unit written to /t/x-crash-00\n";
        let found = broken(output).unwrap();
        assert_eq!(found.input, Path::new("/t/x-crash-00"));
        assert!(found.what.ends_with("agent/src/a.rs:1:2: boom"));
        let slow = "==7== ERROR: libFuzzer: timeout after 5 seconds\nTest unit written to ./slow\n";
        assert!(broken(slow).unwrap().what.contains("timeout"));
    }

    #[test]
    fn each_target_has_a_folder() {
        assert!(targets().unwrap().contains(&"cgroup_path".to_owned()));
    }
}
