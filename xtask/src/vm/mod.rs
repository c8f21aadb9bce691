//! `vm`: the end-to-end tests on other kernels and cgroup layouts, in emulated machines.

mod guest;
mod image;
mod packages;
mod report;

use std::{fs, process::ExitCode};

use anyhow::{Result, bail};

use self::{guest::Plan, image::Binaries, packages::Cache};
use crate::{build, interrupt, setup, step};

/// Kernels of the matrix, by the beginning of their versions.
const KERNELS: [&str; 5] = ["5.10", "6.1", "6.12", "7.2", packages::NEWEST];
/// How cgroups are mounted: v2 with all controllers, v1, v1 with an empty v2 beside it.
const LAYOUTS: [&str; 3] = ["v2", "v1", "hybrid"];
/// Tests that a machine of its own runs: those whose subject is the kernel.
const TESTS: [&str; 9] = [
    "block::",
    "churn::",
    "container::",
    "hierarchy::",
    "lifecycle::",
    "pids::",
    "profile::",
    "sched::",
    "symbols::",
];

/// Run the end-to-end tests on other kernels, in emulated machines.
///
/// Fetches Debian's kernels as packages into target/vm/ (nothing is installed), boots each under
/// qemu without hardware virtualization, and runs the tests of the kernel side inside, on real
/// containers, with doubled tolerances. One boot takes some minutes. With --all the whole matrix
/// runs, and its results are written to docs/kernels.md. The consoles are left in target/vm/.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Kernels, by the beginning of their version, such as 6.1, or `newest` [default: 5.10 6.1 6.12
    /// 7.2 newest]
    #[arg(value_name = "KERNEL")]
    kernels: Vec<String>,
    /// Every kernel with every layout, and write docs/kernels.md
    #[arg(long, conflicts_with_all = ["kernels", "layout", "only"])]
    all: bool,
    /// Cgroup layouts [default: v2]
    #[arg(long, value_name = "LAYOUT", value_parser = LAYOUTS)]
    layout: Vec<String>,
    /// Run only the tests whose name contains FILTER
    #[arg(long, value_name = "FILTER")]
    only: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let kernels: Vec<&str> = match arguments.kernels.as_slice() {
        [] => KERNELS.to_vec(),
        some => some.iter().map(String::as_str).collect(),
    };
    let layouts: Vec<&str> = match arguments.layout.as_slice() {
        _ if arguments.all => LAYOUTS.to_vec(),
        [] => vec![LAYOUTS[0]],
        some => some.iter().map(String::as_str).collect(),
    };
    let matrix: Vec<(&str, &str)> = kernels
        .iter()
        .flat_map(|kernel| layouts.iter().map(move |layout| (*kernel, *layout)))
        .collect();
    let tests = match arguments.only.as_slice() {
        [] => TESTS.map(str::to_owned).to_vec(),
        some => some.to_vec(),
    };
    setup::run(&setup::Arguments {
        test: true,
        vm: true,
        ..Default::default()
    })?;
    let built = build::build_tests(&build::Target::host()?)?;
    interrupt::catch();
    let result = boots(&built, &matrix, &tests).and_then(|rows| {
        if arguments.all {
            report::write(&rows)?;
        }
        judge(&rows)
    });
    interrupt::exit_code(result)
}

/// A cell of the matrix and what came of it.
pub(crate) struct Row {
    pub(crate) release: String,
    pub(crate) layout: String,
    pub(crate) outcome: guest::Outcome,
}

/// Boots each kernel with its layout, one after the other.
///
/// # Errors
///
/// A kernel cannot be fetched, an image not be built; an interruption.
pub(crate) fn boots(
    built: &build::Tests,
    matrix: &[(&str, &str)],
    tests: &[String],
) -> Result<Vec<Row>> {
    let binaries = Binaries {
        agent: built.built.agent.clone(),
        workload: built.built.workload.clone(),
        tests: built.e2e.clone(),
    };
    let directory = step::target_directory().join("vm");
    fs::create_dir_all(&directory)?;
    let mut cache = Cache::new()?;
    let mut rows = Vec::new();
    for (wanted, layout) in matrix {
        let kernel = cache.kernel(wanted)?;
        let initramfs = image::build(&directory, &kernel, &binaries)?;
        let name = format!("{wanted}-{layout}");
        let what = format!("Linux {}, cgroup {layout}", kernel.release);
        let plan = Plan {
            kernel: &kernel,
            initramfs: &initramfs,
            layout,
            tests,
            expected_skips: &expected_skips(&kernel.release, layout),
        };
        let outcome = step::timed(&what, || guest::run(&directory, &name, &plan))?;
        println!(
            "    {} passed, {} failed, {} skipped; the console is in {}",
            outcome.passed.len(),
            outcome.failed.len(),
            outcome.skipped.len(),
            outcome.log.display()
        );
        for failed in &outcome.failed {
            println!("    FAILED {failed}");
        }
        rows.push(Row {
            release: kernel.release,
            layout: (*layout).to_owned(),
            outcome,
        });
    }
    Ok(rows)
}

/// # Errors
///
/// Some boot failed; its log is named.
pub(crate) fn judge(rows: &[Row]) -> Result<()> {
    let failed: Vec<String> = rows
        .iter()
        .filter(|row| !row.outcome.is_ok())
        .map(|row| {
            format!(
                "Linux {} with cgroup {} (see {})",
                row.release,
                row.layout,
                row.outcome.log.display()
            )
        })
        .collect();
    if !failed.is_empty() {
        bail!("not green: {}", failed.join(", "));
    }
    Ok(())
}

/// What a test may need and not find, by kernel and layout. Any other skip fails.
fn expected_skips(_release: &str, _layout: &str) -> Vec<&'static str> {
    Vec::new()
}
