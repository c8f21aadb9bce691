//! ctrscope: arguments, logging, run, exit code.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::{CommandFactory as _, Parser as _};
use clap_complete::CompleteEnv;
use ctrscope::{
    cli::Cli,
    commands::{self, EXIT_FAILURE, EXIT_USAGE},
    error_chain::error_chain,
    terminal::say,
};

fn main() -> ExitCode {
    // Where a shell asks what could be typed, the answer is all.
    CompleteEnv::with_factory(Cli::command).complete();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(answer) => return print(&answer),
    };
    let config = match cli.config() {
        Ok(config) => config,
        Err(error) => {
            say(format_args!("ctrscope: {}", error_chain(&error)));
            return ExitCode::from(EXIT_USAGE);
        }
    };
    commands::init_logging(&cli, &config);
    commands::run(&cli, &config)
}

/// Prints a help text, the version, or what is wrong with the arguments.
fn print(answer: &clap::Error) -> ExitCode {
    let printed = answer.print().and_then(|()| io::stdout().flush());
    match printed {
        // What is wrong with the arguments stays wrong where it cannot be said.
        _ if answer.use_stderr() => ExitCode::from(EXIT_USAGE),
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            say(format_args!(
                "ctrscope: cannot write to standard output: {error}"
            ));
            ExitCode::from(EXIT_FAILURE)
        }
        _ => ExitCode::SUCCESS,
    }
}
