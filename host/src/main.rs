//! Parses the command line, calls the verb, prints its error and picks the exit code.

use std::{
    io::Write,
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
};

use aligner::{
    cli::{self, Cli, CliError, Command, exit},
    plugin_set::Embedded,
};
use clap::Parser;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = Cli::parse();
    start_log();
    // The text of a panic is on stderr already; what is left is the documented exit code.
    let result = catch_unwind(AssertUnwindSafe(|| run(&cli))).unwrap_or_else(|_| {
        Err(CliError::new(exit::INTERNAL, "aligner itself failed; the lines above say where").hint(
            "please report it with these lines; a run can be gone on with `aligner resume DIR`",
        ))
    });
    match result {
        Ok(()) => ExitCode::from(exit::DONE),
        Err(error) => {
            let _ = writeln!(std::io::stderr().lock(), "{error}");
            ExitCode::from(error.code)
        }
    }
}

fn run(cli: &Cli) -> Result<(), CliError> {
    let embedded = Embedded::default();
    match &cli.command {
        Some(Command::Methods(args)) => cli::methods::main(args, &embedded),
        Some(Command::Report(args)) => cli::report::main(args),
        _ => Err(CliError::new(exit::INTERNAL, "this verb is not part of this build")),
    }
}

/// Sends log lines to stderr: warnings, or what `RUST_LOG` asks for.
fn start_log() {
    let filter =
        EnvFilter::builder().with_default_directive(tracing::Level::WARN.into()).from_env_lossy();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .without_time()
        .log_internal_errors(false)
        .init();
}
