//! ctrscope: arguments, logging, run, exit code.

use std::process::ExitCode;

use clap::Parser as _;
use ctrscope::{
    cli::Cli,
    commands::{self, EXIT_USAGE},
    error_chain::error_chain,
};

fn main() -> ExitCode {
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
