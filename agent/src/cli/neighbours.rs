//! `ctrscope neighbours`.

use std::time::Duration;

use clap::Args;
use clap_complete::ArgValueCompleter;

use crate::{complete::containers, config};

/// `ctrscope neighbours`.
#[derive(Args, Debug, Default)]
#[command(after_help = "\
Examples:
  sudo ctrscope neighbours               who made whom wait for CPUs, and who made others wait most
  sudo ctrscope neighbours web           what `web` waited for, and who waited for it
  sudo ctrscope neighbours --watch       the same again and again

WAIT is the time that the tasks of a container were runnable and not running, for each second; of
several tasks it is the sum, so it can be more than a second. A pair has that part of it in which the
culprit had the CPU that the victim waited for.

Without a daemon it measures for the window, 10 s if none is given.")]
pub struct NeighboursArgs {
    /// Container to tell of, as the one that waits and as the one that is waited for [default: all]
    #[arg(add = ArgValueCompleter::new(containers))]
    pub container: Option<String>,
    /// Time that the answer is of, whole seconds, 1s to 1m [default: the daemon's, 1m]
    #[arg(long, value_name = "DURATION", value_parser = config::parse_window)]
    pub window: Option<Duration>,
    /// Tell again and again, every 5 s, until Ctrl-C
    #[arg(short, long)]
    pub watch: bool,
    /// Show every pair, also those of less than 1 ms a second
    #[arg(short, long)]
    pub all: bool,
    /// Print JSON, one object a line
    #[arg(long)]
    pub json: bool,
}
