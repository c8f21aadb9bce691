//! `ctrscope diagnose`.

use std::time::Duration;

use clap::Args;
use clap_complete::ArgValueCompleter;

use crate::{complete::containers, config};

/// `ctrscope diagnose`.
#[derive(Args, Debug, Default)]
#[command(after_help = "\
Examples:
  sudo ctrscope diagnose                 all containers, those that are held back most first
  sudo ctrscope diagnose web             one, with the evidence, what to do, and who is to blame
  sudo ctrscope diagnose web --history   when its verdicts changed within the last hour
  sudo ctrscope diagnose --host          utilisation, saturation and errors of the machine

Without a daemon it measures for the window, 10 s if none is given, and knows neither history nor
what is normal for a disk.

Exit codes: 0 nothing is held back, 3 something is, 1 failure, 2 wrong usage, 130 interrupted.")]
pub struct DiagnoseArgs {
    /// Container to diagnose [default: all]
    #[arg(add = ArgValueCompleter::new(containers))]
    pub container: Option<String>,
    /// Time that the diagnosis is of, whole seconds, 1s to 1m [default: the daemon's, 1m]
    #[arg(long, value_name = "DURATION", value_parser = config::parse_window)]
    pub window: Option<Duration>,
    /// Diagnose again and again, every 5 s, until Ctrl-C
    #[arg(short, long)]
    pub watch: bool,
    /// Show the changes of its verdicts within the last hour, which only a daemon knows
    #[arg(long, requires = "container")]
    pub history: bool,
    /// Show the machine instead: utilisation, saturation and errors of its resources
    #[arg(long, conflicts_with = "container")]
    pub host: bool,
    /// Show every container, also those that nothing holds back
    #[arg(short, long, conflicts_with_all = ["container", "host"])]
    pub all: bool,
    /// Show every question that was asked, not those of what holds back alone
    #[arg(short, long)]
    pub verbose: bool,
    /// Print JSON, one object a line
    #[arg(long)]
    pub json: bool,
}
