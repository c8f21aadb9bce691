//! `vm`: the end-to-end tests on other kernels and cgroup layouts, in emulated machines.

mod emulator;
mod guest;
mod image;
mod packages;
mod report;

use std::{fs, process::ExitCode};

use anyhow::{Result, bail};

use self::{emulator::Emulator, guest::Plan, packages::Cache};
use crate::{architecture::Architecture, build, document, interrupt, setup, step};

/// Kernels of the matrix, by the beginning of their versions.
const KERNELS: [&str; 5] = ["5.10", "6.1", "6.12", "7.2", packages::NEWEST];
/// How cgroups are mounted: v2 with all controllers, v1, v1 with an empty v2 beside it.
const LAYOUTS: [&str; 3] = ["v2", "v1", "hybrid"];
/// Tests that a machine runs: those whose subject is the kernel, less those that fork tens of thousands
/// of times, which takes minutes under emulation.
const TESTS: [&str; 10] = [
    "block::",
    "degrade::",
    "disk::",
    "hierarchy::",
    "ledger::a_busy_neighbour",
    "ledger::every_nanosecond",
    "lifecycle::",
    "profile::",
    "sched::",
    "symbols::",
];
/// The two ends of the matrix, and each layout once.
const ENDS: [(&str, &str); 3] = [("5.10", "v1"), ("6.1", "hybrid"), (packages::NEWEST, "v2")];
/// Of [`TESTS`], those that compare with the kernel's own accounts.
const ACCURACY: [&str; 5] = [
    "block::",
    "hierarchy::",
    "ledger::every_nanosecond",
    "profile::",
    "sched::",
];
/// The kernel that the other architecture is booted with, and what runs there: emulating it is slower
/// still, and what differs is the layout of the kernel's structures and of registers.
const FOREIGN: (&str, &str, &[&str]) = ("6.12", "v2", &["block::", "sched::"]);
/// A kernel that lets no program read its memory by helper, with the test of that.
const LOCKED: (&str, &str, &str) = ("v2", "lockdown=confidentiality", "under_lockdown");

/// Run the end-to-end tests on other kernels, in emulated machines.
///
/// Fetches Debian's kernels as packages into target/vm/ (nothing is installed), boots each under
/// qemu without hardware virtualization, and runs the tests of the kernel side inside, on real
/// containers, with doubled tolerances. One boot takes some minutes. With --all the whole matrix
/// runs, in each cell the tests that compare with the kernel's own accounts and in one of each layout
/// the others too, and its results are written to docs/kernels.md. The consoles are left in target/vm/.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Kernels, by the beginning of their version, such as 6.1, or `newest` [default: 5.10 6.1 6.12
    /// 7.2 newest]
    #[arg(value_name = "KERNEL")]
    kernels: Vec<String>,
    /// Every kernel with every layout, a locked-down one, and one of another architecture; write
    /// docs/kernels.md
    #[arg(long, conflicts_with_all = ["kernels", "layout", "architecture", "append", "only"])]
    all: bool,
    /// With --all: only what did not end well in the last run; the rest is taken from its consoles
    #[arg(long, requires = "all")]
    again: bool,
    /// Cgroup layouts [default: v2]
    #[arg(long, value_name = "LAYOUT", value_parser = LAYOUTS)]
    layout: Vec<String>,
    /// Architecture of the machines [default: this machine's]
    #[arg(long, value_name = "ARCHITECTURE")]
    architecture: Option<Architecture>,
    /// Further kernel parameters, such as "psi=0"
    #[arg(long, value_name = "PARAMETERS", default_value = "")]
    append: String,
    /// Run only the tests whose name contains FILTER
    #[arg(long, value_name = "FILTER", value_parser = filter)]
    only: Vec<String>,
}

/// Refuses what the machine's shell would take apart.
fn filter(text: &str) -> Result<String, String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    if text.is_empty() || !text.chars().all(is_plain) {
        return Err("part of a test's name: letters, digits, `_` and `:`".to_owned());
    }
    Ok(text.to_owned())
}

/// One boot.
#[derive(Clone)]
pub(crate) struct Cell {
    kernel: String,
    layout: String,
    architecture: Architecture,
    /// Further kernel parameters.
    append: String,
    /// Filters of test names, any of which runs.
    tests: Vec<String>,
}

impl Cell {
    fn new(kernel: &str, layout: &str, architecture: Architecture, tests: &[&str]) -> Self {
        Self {
            kernel: kernel.to_owned(),
            layout: layout.to_owned(),
            architecture,
            append: String::new(),
            tests: tests.iter().map(|&test| test.to_owned()).collect(),
        }
    }

    /// What its files are called.
    fn name(&self) -> String {
        let mut name = format!("{}-{}", self.kernel, self.layout);
        if Some(self.architecture) != Architecture::host() {
            name = format!("{name}-{}", self.architecture.name());
        }
        if !self.append.is_empty() {
            let plain = self
                .append
                .replace(|c: char| !c.is_ascii_alphanumeric(), "-");
            name = format!("{name}-{plain}");
        }
        name
    }

    /// What a test may need and not find here: part of the reason that it gives. Any other skip
    /// fails.
    fn expected_skips(&self) -> Vec<&'static str> {
        let mut skips = Vec::new();
        if !self.append.contains("lockdown=confidentiality") {
            skips.push("the kernel is not locked down to confidentiality");
        }
        if self.layout == "v2" {
            skips.push("the block controller is not in a v1 hierarchy");
            skips.push("the cpu controller is not in a v1 hierarchy");
        }
        skips
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    interrupt::catch();
    let host = host()?;
    let cells = if arguments.all {
        all(host)
    } else {
        let kernels: Vec<&str> = match arguments.kernels.as_slice() {
            [] => KERNELS.to_vec(),
            some => some.iter().map(String::as_str).collect(),
        };
        let layouts: Vec<&str> = match arguments.layout.as_slice() {
            [] => vec![LAYOUTS[0]],
            some => some.iter().map(String::as_str).collect(),
        };
        let architecture = arguments.architecture.unwrap_or(host);
        let mut cells = Vec::new();
        for kernel in &kernels {
            for layout in &layouts {
                let tests: Vec<&str> = match arguments.only.as_slice() {
                    [] => TESTS.to_vec(),
                    some => some.iter().map(String::as_str).collect(),
                };
                let mut cell = Cell::new(kernel, layout, architecture, &tests);
                cell.append.clone_from(&arguments.append);
                cells.push(cell);
            }
        }
        cells
    };
    let commit = document::commit();
    let done = |rows: &[Row]| {
        if arguments.all {
            report::write(rows, cells.len(), commit.as_deref())?;
        }
        Ok(())
    };
    let result =
        boots(&cells, commit.as_deref(), arguments.again, done).and_then(|rows| judge(&rows));
    interrupt::exit_code(result)
}

/// The whole matrix.
fn all(host: Architecture) -> Vec<Cell> {
    let mut cells = Vec::new();
    for kernel in KERNELS {
        for layout in LAYOUTS {
            let tests: &[&str] = if ENDS.contains(&(kernel, layout)) {
                &TESTS
            } else {
                &ACCURACY
            };
            cells.push(Cell::new(kernel, layout, host, tests));
        }
    }
    for kernel in [KERNELS[0], packages::NEWEST] {
        let (layout, append, test) = LOCKED;
        let mut cell = Cell::new(kernel, layout, host, &[test]);
        append.clone_into(&mut cell.append);
        cells.push(cell);
    }
    let foreign = match host {
        Architecture::X86_64 => Some(Architecture::Aarch64),
        // Nothing is built for x86_64 elsewhere.
        Architecture::Aarch64 => None,
    };
    if let Some(foreign) = foreign {
        let (kernel, layout, tests) = FOREIGN;
        cells.push(Cell::new(kernel, layout, foreign, tests));
    }
    cells
}

fn host() -> Result<Architecture> {
    Architecture::host()
        .ok_or_else(|| anyhow::anyhow!("ctrscope is not built for {}", std::env::consts::ARCH))
}

/// A cell of the matrix and what came of it.
pub(crate) struct Row {
    pub(crate) cell: Cell,
    pub(crate) release: String,
    /// What was run, as [`document::commit`] has it.
    pub(crate) commit: Option<String>,
    pub(crate) outcome: guest::Outcome,
}

impl Row {
    /// The layout, with the kernel parameters that were added.
    fn cgroups(&self) -> String {
        let Cell { layout, append, .. } = &self.cell;
        if append.is_empty() {
            return layout.clone();
        }
        format!("{layout}, {append}")
    }
}

/// What all machines of one architecture need.
struct Architectural {
    architecture: Architecture,
    built: build::Tests,
    cache: Cache,
    emulator: Emulator,
    programs: image::Programs,
}

impl Architectural {
    fn new(architecture: Architecture) -> Result<Self> {
        setup::run(&setup::Arguments {
            test: true,
            accuracy: true,
            vm: true,
            target: Some(architecture),
            ..Default::default()
        })?;
        let built = build::build_tests(&build::Target::of(architecture)?, build::Profile::Release)?;
        let mut cache = Cache::new(architecture)?;
        let programs = if Some(architecture) == Architecture::host() {
            image::Programs::OfThisMachine
        } else {
            image::Programs::Unpacked(cache.programs()?)
        };
        Ok(Self {
            architecture,
            built,
            cache,
            emulator: Emulator::fetch(architecture, host()?)?,
            programs,
        })
    }
}

/// Boots one cell after the other; `done` gets the rows so far after each. With `again` those that
/// ended well in the last run are taken from their consoles.
///
/// # Errors
///
/// A kernel cannot be fetched, an image not be built; an interruption.
fn boots(
    cells: &[Cell],
    commit: Option<&str>,
    again: bool,
    done: impl Fn(&[Row]) -> Result<()>,
) -> Result<Vec<Row>> {
    let directory = step::target_directory().join("vm");
    fs::create_dir_all(&directory)?;
    let mut ready: Vec<Architectural> = Vec::new();
    let mut rows = Vec::new();
    for cell in cells {
        if again && let Some(row) = guest::last_run(&directory, cell) {
            println!("Linux {}, cgroup {}: as it was", row.release, row.cgroups());
            rows.push(row);
            done(&rows)?;
            continue;
        }
        let known = ready
            .iter()
            .position(|ready| ready.architecture == cell.architecture);
        let index = match known {
            Some(index) => index,
            None => {
                ready.push(Architectural::new(cell.architecture)?);
                ready.len() - 1
            }
        };
        let Architectural {
            built,
            cache,
            emulator,
            programs,
            ..
        } = &mut ready[index];
        let kernel = cache.kernel(&cell.kernel)?;
        let initramfs = image::build(&directory, &kernel, cell.architecture, built, programs)?;
        let plan = Plan {
            kernel: &kernel,
            initramfs: &initramfs,
            emulator,
            cell,
            commit,
        };
        let mut what = format!("Linux {}, cgroup {}", kernel.release, cell.layout);
        if !cell.append.is_empty() {
            what = format!("{what}, {}", cell.append);
        }
        let outcome = step::timed(&what, || guest::run(&directory, &plan))?;
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
            cell: cell.clone(),
            release: kernel.release,
            commit: commit.map(str::to_owned),
            outcome,
        });
        done(&rows)?;
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
                row.cgroups(),
                row.outcome.log.display()
            )
        })
        .collect();
    if !failed.is_empty() {
        bail!("not green: {}", failed.join(", "));
    }
    Ok(())
}
