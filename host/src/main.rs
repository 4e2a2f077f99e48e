//! Parses the command line, calls the verb, prints its error and picks the exit code.

use std::{
    io::Write,
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
};

use aligner::{
    child,
    cli::{self, Cli, CliError, Command, exit},
    model::template,
    plugin::compile,
    progress::LOG_TARGET,
};
use clap::Parser;

fn main() -> ExitCode {
    let first = std::env::args_os().nth(1);
    let is = |argument: &str| first.as_ref().is_some_and(|first| first == argument);
    if is(compile::ARGUMENT) {
        return compile::child_main();
    }
    if is(template::ARGUMENT) {
        return template::child_main();
    }
    if let Ok(program) = child::this_program() {
        template::isolate(program);
    }
    // A file that would grow over a limit (`ulimit -f`) is an error of the write, with a sentence.
    // SAFETY: ignoring a signal touches nothing of this process's state.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    let cli = Cli::parse();
    cli::log::start();
    // The text of a panic is on stderr already; what is left is the documented exit code.
    let result = catch_unwind(AssertUnwindSafe(|| run(&cli))).unwrap_or_else(|_| {
        Err(CliError::new(exit::INTERNAL, "aligner itself failed; the lines above say where").hint(
            "please report it with these lines; `aligner resume` with the run directory goes on with a run",
        ))
    });
    match result {
        Ok(()) => ExitCode::from(exit::DONE),
        Err(error) => {
            let _ = writeln!(std::io::stderr().lock(), "{error}");
            tracing::error!(target: LOG_TARGET, "{error}");
            ExitCode::from(error.code)
        }
    }
}

fn run(cli: &Cli) -> Result<(), CliError> {
    match (&cli.command, &cli.run) {
        (Some(Command::Resume(args)), _) => cli::resume::main(args),
        (Some(Command::Verify(args)), _) => cli::verify::main(args),
        (Some(Command::Ablate(args)), _) => cli::ablate::main(args),
        (Some(Command::Report(args)), _) => cli::report::main(args),
        (Some(Command::Show(args)), _) => cli::show::main(args),
        (Some(Command::Model(command)), _) => cli::model::main(command),
        (Some(Command::Evaluate(args)), _) => cli::evaluate::main(args),
        (Some(Command::Stage(command)), _) => cli::stage::main(command),
        (Some(Command::Methods(args)), _) => cli::methods::main(args, &cli::host::embedded()),
        (Some(Command::Doctor(args)), _) => cli::doctor::main(args),
        (Some(Command::Plugin(command)), _) => cli::plugin::main(command),
        (None, Some(args)) => cli::run::main(args, &cli.shown),
        (None, None) => Err(CliError::usage("nothing to do").hint("see `aligner --help`")),
    }
}
