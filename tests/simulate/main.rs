//! `make simulate`: a round of a large model on many GPUs, in seconds on this machine: where its time goes, where GPUs
//! have nothing to do, and what the host adds.
//!
//! Prints the tables of docs/simulation.md. `make simulate SET="gpus=128 in_flight=8192"` prints them for other
//! assumptions, by the names of the first table. Nothing of aligner is called: what it costs was measured by
//! `tests/simulate/measure`, and stands in `assumptions.rs` with all the rest.

pub mod assumptions;
pub mod draw;
pub mod flight;
pub mod page;
pub mod round;
pub mod server;

use std::process::ExitCode;

use assumptions::Assumptions;

fn main() -> ExitCode {
    match read(std::env::args().skip(1)) {
        Ok(assumptions) => {
            print!("{}", page::page(&assumptions).join("\n"));
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!(
                "error: {why}\n\nhint: NAME=VALUE, with a name of the first table of docs/simulation.md"
            );
            ExitCode::from(2)
        }
    }
}

/// Reads what is to be assumed in the place of what stands in `assumptions.rs`.
pub fn read(arguments: impl Iterator<Item = String>) -> Result<Assumptions, String> {
    let mut assumptions = Assumptions::default();
    for argument in arguments {
        let (name, value) =
            argument.split_once('=').ok_or_else(|| format!("`{argument}` sets nothing"))?;
        let number = value.parse().map_err(|_| format!("`{value}` is no number"))?;
        assumptions.set(name, number)?;
    }
    assumptions.check()?;
    Ok(assumptions)
}
