//! Every repeatable chore of this repository, one file per command.

mod accuracy;
mod architecture;
mod bench;
mod build;
mod ci;
mod demo;
mod document;
mod e2e;
mod flamegraphs;
mod fuzz;
mod interrupt;
mod mutate;
mod private_apt;
mod repeat;
mod scenes;
mod setup;
mod step;
mod test;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Chores of the ctrscope repository. Each says what it does and how long it took.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Setup(setup::Arguments),
    Build(build::Arguments),
    Demo(demo::Arguments),
    Test(test::Arguments),
    Accuracy(accuracy::Arguments),
    Repeat(repeat::Arguments),
    Mutate(mutate::Arguments),
    Bench(bench::Arguments),
    Fuzz(fuzz::Arguments),
    Ci(ci::Arguments),
    Vm(vm::Arguments),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Setup(arguments) => setup::run(&arguments),
        Command::Build(arguments) => build::run(&arguments),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Test(arguments) => test::run(&arguments),
        Command::Accuracy(arguments) => accuracy::run(&arguments),
        Command::Repeat(arguments) => repeat::run(&arguments),
        Command::Mutate(arguments) => mutate::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Fuzz(arguments) => fuzz::run(&arguments),
        Command::Ci(arguments) => ci::run(&arguments),
        Command::Vm(arguments) => vm::run(&arguments),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
