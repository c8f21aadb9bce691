//! ctrscope: arguments, logging, run, exit code.

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};
use clap_complete::CompleteEnv;
use ctrscope::{
    cli::Cli,
    commands::{self, EXIT_USAGE},
    error_chain::error_chain,
};

fn main() -> ExitCode {
    // Where a shell asks what could be typed, the answer is all.
    CompleteEnv::with_factory(Cli::command).complete();
    let cli = Cli::parse();
    let config = match cli.config() {
        Ok(config) => config,
        Err(error) => {
            eprintln!("ctrscope: {}", error_chain(&error));
            return ExitCode::from(EXIT_USAGE);
        }
    };
    commands::init_logging(&cli, &config);
    commands::run(&cli, &config)
}
