//! The command line.

mod diagnose;
mod neighbours;

use std::{fmt::Display, path::PathBuf, time::Duration};

use clap::{
    Args, Parser, Subcommand, ValueEnum,
    builder::{PossibleValue, PossibleValuesParser, TypedValueParser},
};
use clap_complete::ArgValueCompleter;
use tracing_subscriber::filter::LevelFilter;

use crate::{
    choice::Choice,
    complete::{CONFIG_VARIABLE, SERVER_VARIABLE, containers},
    config::{
        self, Config, ConfigError, ListenAddress, LogFormat, RuntimeSockets, check_patterns,
        format_duration,
    },
    selection::Pattern,
    source::{DEFAULT_PROFILE_FREQUENCY, MAX_PROFILE_FREQUENCY, MAX_PROFILE_SECONDS},
    source::{ProfileFormat, ProfileType, Split},
};

pub use diagnose::DiagnoseArgs;
pub use neighbours::NeighboursArgs;

const EXAMPLES: &str = "\
Examples:
  sudo ctrscope top                      what each container gets and what it waits for
  sudo ctrscope diagnose web             what holds `web` back, with the evidence
  sudo ctrscope neighbours               who made whom wait for CPUs
  sudo ctrscope runqlat -c web 5         run queue latency of `web`, every 5 s
  sudo ctrscope flame -c web             flame graph of 10 s, in flame-web.svg
  sudo ctrscope run                      the daemon, metrics at http://127.0.0.1:9464/metrics
  ctrscope check                         what this host offers

CONTAINER is a name, an id or a unique prefix of one, namespace/pod/container, or a cgroup
path. A command asks the running daemon; where none answers it loads the programs itself,
which needs root.

Exit codes: 0 ok, 1 failure, 2 wrong usage or configuration, 3 `diagnose` found a bottleneck,
130 interrupted before it was done.";

/// What the container does on the CPU and on disks, by eBPF: metrics, histograms, flame graphs.
#[derive(Debug, Parser)]
#[command(name = "ctrscope", version, about, after_help = EXAMPLES, max_term_width = 100)]
#[command(about = "Container performance analysis: who waits for CPU and disk, and why")]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Args, Debug, Default)]
#[command(next_help_heading = "Global options")]
pub struct GlobalArgs {
    #[arg(
        long,
        global = true,
        value_name = "ADDR",
        env = SERVER_VARIABLE,
        hide_env_values = true
    )]
    #[arg(value_parser = config::parse_server)]
    #[arg(help = with_default("Daemon to ask, host:port; :PORT is on this host", Config::default().server))]
    #[expect(missing_docs, reason = "the help text is the documentation")]
    pub server: Option<String>,
    /// Never ask a daemon: load the programs for as long as the command runs
    #[arg(long, global = true)]
    pub local: bool,
    /// Least severe message to log: off, error, warn, info, debug, trace [default: info for `run`,
    /// warn otherwise]
    #[arg(
        long,
        global = true,
        value_name = "LEVEL",
        env = "CTRSCOPE_LOG_LEVEL",
        hide_env_values = true
    )]
    #[arg(value_parser = config::parse_log_level)]
    pub log_level: Option<LevelFilter>,
    #[arg(
        long,
        global = true,
        value_name = "FORMAT",
        env = "CTRSCOPE_LOG_FORMAT",
        hide_env_values = true
    )]
    #[arg(value_enum, hide_possible_values = true)]
    #[arg(help = with_default("Log as text or json", Config::default().log_format.label()))]
    #[expect(missing_docs, reason = "the help text is the documentation")]
    pub log_format: Option<LogFormat>,
    /// BTF of the running kernel [default: /sys/kernel/btf/vmlinux]
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "CTRSCOPE_BTF",
        hide_env_values = true
    )]
    pub btf: Option<PathBuf>,
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "CTRSCOPE_CGROUP_ROOT",
        hide_env_values = true
    )]
    #[arg(help = with_default("Where the host's cgroup file systems are mounted",
        Config::default().cgroup_root.display()))]
    #[expect(missing_docs, reason = "the help text is the documentation")]
    pub cgroup_root: Option<PathBuf>,
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "CTRSCOPE_PROC_ROOT",
        hide_env_values = true
    )]
    #[arg(help = with_default("Where the host's proc file system is mounted",
        Config::default().proc_root.display()))]
    #[expect(missing_docs, reason = "the help text is the documentation")]
    pub proc_root: Option<PathBuf>,
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "CTRSCOPE_HOST_ROOT",
        hide_env_values = true
    )]
    #[arg(help = with_default("Where the host's root is mounted; runtimes' sockets are below it",
        Config::default().host_root.display()))]
    #[expect(missing_docs, reason = "the help text is the documentation")]
    pub host_root: Option<PathBuf>,
    /// Socket of a container runtime to ask for names, in place of the usual ones; can be repeated.
    /// `none` asks no runtime [default: auto]
    #[arg(
        long = "runtime-socket",
        global = true,
        value_name = "PATH",
        env = "CTRSCOPE_RUNTIME_SOCKETS",
        hide_env_values = true,
        value_delimiter = ','
    )]
    #[arg(value_parser = config::parse_runtime_socket)]
    pub runtime_sockets: Vec<PathBuf>,
    /// Compare a number of the diagnosis with this threshold; can be repeated; docs/diagnosis.md has
    /// their keys and defaults
    #[arg(
        long = "threshold",
        global = true,
        value_name = "KEY=VALUE",
        env = "CTRSCOPE_THRESHOLDS",
        hide_env_values = true,
        value_delimiter = ','
    )]
    #[arg(value_parser = config::parse_threshold)]
    pub thresholds: Vec<(String, f64)>,
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = CONFIG_VARIABLE,
        hide_env_values = true
    )]
    #[arg(help = format!("Configuration file (TOML) [default: {} if it exists]", config::DEFAULT_FILE))]
    #[expect(missing_docs, reason = "the help text is the documentation")]
    pub config: Option<PathBuf>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon: collect, and serve metrics and profiles over HTTP
    Run(RunArgs),
    /// Say what this host offers and how to fix what it lacks
    Check(CheckArgs),
    /// Show what each container gets and what it waits for, live
    Top(TopArgs),
    /// Say what holds containers back, with the evidence, what to do, and who is to blame
    Diagnose(DiagnoseArgs),
    /// Say who made whom wait for CPUs, and who made others wait most
    Neighbours(NeighboursArgs),
    /// Histogram of run queue latency: from runnable (woken or preempted) until running
    Runqlat(RunqlatArgs),
    /// Histogram of block I/O latency: from queued until completed
    Biolat(BiolatArgs),
    /// Record where a container spends its CPU time and draw a flame graph
    Flame(FlameArgs),
    /// Say which container a process of the host belongs to, and the other way round
    Who(WhoArgs),
}

/// `ctrscope run`.
#[derive(Args, Debug, Default)]
#[command(after_help = "\
Examples:
  sudo ctrscope run
  sudo ctrscope run --listen :9464 --retention 10m
  sudo ctrscope run --listen 127.0.0.1:0 --address-file /run/ctrscope.addr

Every option can stand in the configuration file under its name with underscores
(retention = \"10m\") or in the environment (CTRSCOPE_RETENTION=10m); options win over the
environment, and the environment wins over the file. All of it is read at the start alone: SIGHUP
ends the daemon as SIGTERM and SIGINT do, unless it was started with SIGHUP ignored (nohup).")]
pub struct RunArgs {
    #[arg(
        long,
        value_name = "ADDR",
        env = "CTRSCOPE_LISTEN",
        hide_env_values = true
    )]
    #[arg(value_parser = config::parse_listen)]
    #[arg(help = with_default("Address to serve on: IP:PORT, NAME:PORT, or :PORT for all addresses; port 0 takes a free one",
        Config::default().listen))]
    #[expect(missing_docs, reason = "the help text is the documentation")]
    pub listen: Option<ListenAddress>,
    /// Write the bound address to this file once it is served
    #[arg(
        long,
        value_name = "PATH",
        env = "CTRSCOPE_ADDRESS_FILE",
        hide_env_values = true
    )]
    pub address_file: Option<PathBuf>,
    #[arg(
        long,
        value_name = "DURATION",
        env = "CTRSCOPE_RETENTION",
        hide_env_values = true
    )]
    #[arg(value_parser = config::parse_retention)]
    #[arg(help = with_default("How long a container stays after it exited, 0s to 24h",
        format_duration(Config::default().retention)))]
    #[expect(missing_docs, reason = "the help text is the documentation")]
    pub retention: Option<Duration>,
    #[arg(
        long,
        value_name = "N",
        env = "CTRSCOPE_MAX_CONTAINERS",
        hide_env_values = true
    )]
    #[arg(value_parser = config::parse_max_containers)]
    #[arg(help = with_default(
        "Containers with numbers of their own, 1 to 32000; the rest is summed in `_other`",
        Config::default().max_containers))]
    #[expect(missing_docs, reason = "the help text is the documentation")]
    pub max_containers: Option<u32>,
    #[arg(
        long,
        value_name = "DURATION",
        env = "CTRSCOPE_INTERVAL",
        hide_env_values = true
    )]
    #[arg(value_parser = config::parse_interval)]
    #[arg(help = with_default("Time between two collections in the background, 1s to 5m",
        format_duration(Config::default().interval)))]
    #[expect(missing_docs, reason = "the help text is the documentation")]
    pub interval: Option<Duration>,
    #[arg(
        long,
        value_name = "DURATION",
        env = "CTRSCOPE_DIAGNOSIS_WINDOW",
        hide_env_values = true
    )]
    #[arg(value_parser = config::parse_window)]
    #[arg(help = with_default("Time that a diagnosis is of, whole seconds, 1s to 1m",
        format_duration(Config::default().diagnosis.window)))]
    #[expect(missing_docs, reason = "the help text is the documentation")]
    pub diagnosis_window: Option<Duration>,
    /// Give only what fits a pattern series of its own: namespace=GLOB, pod=GLOB, container=GLOB,
    /// image=GLOB, label.KEY=GLOB or annotation.KEY=GLOB; can be repeated; the rest is summed in `_other` [default: all]
    #[arg(
        long,
        value_name = "PATTERN",
        env = "CTRSCOPE_INCLUDE",
        hide_env_values = true,
        value_delimiter = ','
    )]
    #[arg(value_parser = config::parse_pattern)]
    pub include: Vec<Pattern>,
    /// Sum what fits a pattern in `_other`, whatever includes it; can be repeated
    #[arg(
        long,
        value_name = "PATTERN",
        env = "CTRSCOPE_EXCLUDE",
        hide_env_values = true,
        value_delimiter = ','
    )]
    #[arg(value_parser = config::parse_pattern)]
    pub exclude: Vec<Pattern>,
}

/// `ctrscope check`.
#[derive(Args, Debug)]
#[command(after_help = "Exits with 1 if something that ctrscope cannot do without is missing.")]
pub struct CheckArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What `top` sorts by, the largest first (names: the first of the alphabet first).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum SortKey {
    /// CPU time.
    #[default]
    Cpu,
    /// Run queue latency, p99.
    Runq,
    /// Share of throttled periods.
    Throttled,
    /// I/O bytes.
    Io,
    /// Name.
    Name,
}

/// `ctrscope top`.
#[derive(Args, Debug)]
#[command(after_help = "\
Keys:
  q, Esc, Ctrl-C    quit
  c r t i n         sort by cpu, run queue, throttled, I/O, name
  b                 hide what is idle
  /                 filter by name; Enter keeps the filter, Esc clears it
  arrows, Page Up, Page Down, Home, End    scroll

Columns:
  CPU               cores
  VERDICT           what holds it back most; `ctrscope diagnose` says why
  RUNQ50, RUNQ99    run queue latency, median and p99
  WAIT              share of the time it wanted a CPU that it waited for one
  THROTTLED         share of its quota's periods in which it was throttled
  INVOL             involuntary context switches
  PREEMPTED         preemptions by other containers or system services
  IO99, IO          block I/O latency, p99, and bytes
  CPU PSI, IO PSI   share of the time in which a task of it waited for CPU, I/O
  A dash is a number that was not measured, or of which there was none.

Examples:
  sudo ctrscope top --busy
  sudo ctrscope top --sort runq --count 1 | head
  sudo ctrscope top --filter shop/
  sudo ctrscope top --json --count 5 --interval 10s")]
pub struct TopArgs {
    /// Time between two tables, 1s to 5m
    #[arg(long, value_name = "DURATION", default_value = "1s")]
    #[arg(value_parser = config::parse_interval)]
    pub interval: Duration,
    /// Tables to show before it ends [default: no end in a terminal, 1 otherwise]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// What to sort by
    #[arg(long, value_name = "KEY", value_enum, default_value_t)]
    pub sort: SortKey,
    /// Hide containers that did nothing
    #[arg(long)]
    pub busy: bool,
    /// Show only containers whose namespace/pod/container has TEXT in it, upper or lower case
    #[arg(
        short,
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    pub filter: String,
    /// Print JSON, one array a line
    #[arg(long)]
    pub json: bool,
}

/// What `runqlat` and `biolat` have in common.
#[derive(Args, Debug, Default)]
pub struct LatencyArgs {
    /// Time between two histograms, in seconds or as 5s, 1m [default: until Ctrl-C]
    #[arg(value_parser = parse_seconds_or_interval)]
    pub interval: Option<Duration>,
    /// Histograms to print [default: until Ctrl-C]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Only this container [default: all, summed]
    #[arg(short, long, add = ArgValueCompleter::new(containers))]
    pub container: Option<String>,
    /// A histogram for each container
    #[arg(short, long, conflicts_with = "container")]
    pub each: bool,
    /// Milliseconds instead of microseconds
    #[arg(short, long)]
    pub milliseconds: bool,
    /// Print the bounds, which are powers of two of a second, in full
    #[arg(long)]
    pub exact: bool,
    /// Print JSON, one object for each histogram and line
    #[arg(long, conflicts_with_all = ["milliseconds", "exact"])]
    pub json: bool,
}

/// `ctrscope runqlat`.
#[derive(Args, Debug, Default)]
#[command(after_help = "\
Examples:
  sudo ctrscope runqlat                  the whole host, until Ctrl-C
  sudo ctrscope runqlat -c web 1 10      `web`, ten times a second long
  sudo ctrscope runqlat -e 5 1           each container, once, over 5 s")]
pub struct RunqlatArgs {
    /// Options.
    #[command(flatten)]
    pub latency: LatencyArgs,
}

/// `ctrscope biolat`.
#[derive(Args, Debug, Default)]
#[command(after_help = "\
Examples:
  sudo ctrscope biolat                   the whole host, until Ctrl-C
  sudo ctrscope biolat -F -c db 10       `db`, every 10 s, reads, writes, flushes, discards apart
I/O is charged to the container that caused it; writeback to the one that dirtied the pages.")]
pub struct BiolatArgs {
    /// Options.
    #[command(flatten)]
    pub latency: LatencyArgs,
    /// A histogram for each operation
    #[arg(short = 'F', long = "operation")]
    pub by_operation: bool,
}

/// `ctrscope flame`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  sudo ctrscope flame -c web
  sudo ctrscope flame -c shop/checkout-1/app --seconds 30 -o /tmp/checkout.svg
  sudo ctrscope flame -c web --format folded -o - | sort -k2 -n
  sudo ctrscope flame -c web --format pprof -o web.pb.gz && go tool pprof -top web.pb.gz

Without -o the file is flame-CONTAINER.svg (.folded, .pb.gz, .speedscope.json) in the current folder, numbered if that exists;
a file named by -o is overwritten.")]
pub struct FlameArgs {
    /// Container to record [default: the whole host]
    #[arg(short, long, add = ArgValueCompleter::new(containers))]
    pub container: Option<String>,
    /// What to measure
    #[arg(long = "type", value_name = "TYPE", default_value = ProfileType::default().name())]
    #[arg(value_parser = choice::<ProfileType>())]
    pub profile_type: ProfileType,
    /// How long to record
    #[arg(long, default_value_t = 10, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_PROFILE_SECONDS)))]
    pub seconds: u32,
    /// Samples per second and CPU
    #[arg(long, default_value_t = DEFAULT_PROFILE_FREQUENCY, value_name = "HZ")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_PROFILE_FREQUENCY)))]
    pub frequency: u32,
    /// How finely the stacks of a container are told apart
    #[arg(long, value_name = "SPLIT", default_value = Split::default().name())]
    #[arg(value_parser = choice::<Split>())]
    pub split: Split,
    /// Show functions that were inlined, where programs have debug information (DWARF); takes up to 5 s more
    #[arg(long)]
    pub inlined: bool,
    /// How to write it
    #[arg(long, default_value = ProfileFormat::default().name())]
    #[arg(value_parser = choice::<ProfileFormat>())]
    pub format: ProfileFormat,
    /// File to write, `-` for standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// `ctrscope who`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  ctrscope who 4242                      needs no root for processes that you may look at
  ctrscope who --container web 17        the host's id of what is process 17 in the container web

CONTAINER is a name, an id or a unique prefix of one, namespace/pod/container, or a cgroup path;
names that only a runtime knows need a running daemon.")]
pub struct WhoArgs {
    /// Process or thread id on the host; with --container the one inside it
    #[arg(value_parser = clap::value_parser!(i32).range(1..))]
    pub pid: i32,
    /// Container whose process id PID is
    #[arg(short, long, value_name = "CONTAINER", add = ArgValueCompleter::new(containers))]
    pub container: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

impl Cli {
    /// The configuration: options and environment over the file over the defaults.
    ///
    /// # Errors
    ///
    /// Any [`ConfigError`] of the file.
    pub fn config(&self) -> Result<Config, ConfigError> {
        let mut config = Config::read(self.global.config.as_deref())?;
        let global = &self.global;
        set(&mut config.server, &global.server);
        config.local = global.local;
        set(&mut config.log_format, &global.log_format);
        set(&mut config.cgroup_root, &global.cgroup_root);
        set(&mut config.proc_root, &global.proc_root);
        set(&mut config.host_root, &global.host_root);
        if !global.runtime_sockets.is_empty() {
            config.runtime_sockets = RuntimeSockets::from_list(global.runtime_sockets.clone())
                .map_err(|message| ConfigError::BadOption {
                    option: "--runtime-socket",
                    message,
                })?;
        }
        config.log_level = global.log_level.or(config.log_level);
        config.btf = global.btf.clone().or(config.btf);
        for (key, value) in &global.thresholds {
            config
                .diagnosis
                .thresholds
                .set(key, *value)
                .map_err(|message| ConfigError::BadOption {
                    option: "--threshold",
                    message: format!("{key} {message}"),
                })?;
        }
        if let Command::Run(run) = &self.command {
            set(&mut config.diagnosis.window, &run.diagnosis_window);
            set(&mut config.listen, &run.listen);
            set(&mut config.retention, &run.retention);
            set(&mut config.max_containers, &run.max_containers);
            set(&mut config.interval, &run.interval);
            config.address_file = run.address_file.clone().or(config.address_file);
            let selection = &mut config.selection;
            for (option, given, list) in [
                ("--include", &run.include, &mut selection.include),
                ("--exclude", &run.exclude, &mut selection.exclude),
            ] {
                if !given.is_empty() {
                    *list = check_patterns(given.clone())
                        .map_err(|message| ConfigError::BadOption { option, message })?;
                }
            }
        }
        Ok(config)
    }
}

fn set<T: Clone>(value: &mut T, given: &Option<T>) {
    if let Some(given) = given {
        value.clone_from(given);
    }
}

fn with_default(help: &str, default: impl Display) -> String {
    format!("{help} [default: {default}]")
}

/// Takes the names of a choice, which the help lists with what they mean.
fn choice<T: Choice>() -> impl TypedValueParser<Value = T> {
    let names = T::ALL
        .iter()
        .map(|one| PossibleValue::new(one.name()).help(one.about()));
    PossibleValuesParser::new(names)
        .try_map(|name| T::from_name(&name).ok_or_else(|| format!("{name} is none of them")))
}

/// Like the bcc tools a bare number is seconds.
fn parse_seconds_or_interval(text: &str) -> Result<Duration, String> {
    if text.parse::<f64>().is_ok() {
        config::parse_interval(&format!("{text}s"))
    } else {
        config::parse_interval(text)
    }
}

#[cfg(test)]
mod tests;
