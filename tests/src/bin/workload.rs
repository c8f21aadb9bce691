//! `ctrscope-workload`: does a known amount of a known kind of work, and prints the kernel's account
//! of its own threads as one line of JSON when it is done.

use clap::Parser;
use ctrscope_tests::workload::{self, Work};

/// Does work of a known kind, for tests and the demo.
#[derive(Parser)]
struct Arguments {
    /// Wait until there is something to read in this file, a FIFO
    #[arg(long, value_name = "PATH")]
    gate: Option<std::path::PathBuf>,
    /// After the work keep all threads, idle, until SIGTERM
    #[arg(long)]
    hold: bool,
    #[command(subcommand)]
    work: Work,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    workload::run(arguments.gate.as_deref(), arguments.hold, &arguments.work)
}
