//! The command line: one file a verb, with its arguments and its `main`.

pub mod ablate;
pub mod cancel;
mod device;
pub mod doctor;
mod error;
pub mod evaluate;
pub mod exit;
pub mod host;
pub mod log;
mod memory;
pub mod methods;
pub mod model;
pub mod output;
pub mod place;
pub mod plugin;
mod progress;
pub mod ranks;
pub mod report;
pub mod resume;
mod reuse;
pub mod run;
pub mod show;
pub mod stage;
pub mod verify;

use clap::{Parser, Subcommand};

pub use device::Device;
pub use error::CliError;
pub use progress::{ProgressArg, ProgressArgs};

/// What the user typed.
///
/// The hidden verb `__compile-plugin`, under which the program is the compiler of its own child
/// process, is looked for before this is parsed.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "aligner",
    version,
    about = "Self-alignment methods as sets of sandboxed plugins over native models and training.",
    long_about = None,
    after_help = "Begin with:  aligner --plugins soft-plus.toml\n\n\
        Exit codes: 0 done, 1 internal, 2 usage or plugin set, 3 plugin, 4 model or data, \
        5 run directory, 6 a round kept nothing, or an alarm left nothing, 130 \
        interrupted.",
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    arg_required_else_help = true,
    disable_help_subcommand = true
)]
pub struct Cli {
    /// A verb; without one, a plugin set is run.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// What is run where there is no verb.
    #[command(flatten)]
    pub run: Option<run::RunArgs>,
    /// How its progress is shown. Not among its arguments: those of a group within the group would not count as
    /// given.
    #[command(flatten)]
    pub shown: ProgressArgs,
}

/// The verbs.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Go on with a run that was stopped
    Resume(resume::ResumeArgs),
    /// Print the tables of runs
    Report(report::ReportArgs),
    /// Do the work of a finished run again, all or a sample of it, and compare every byte
    Verify(verify::VerifyArgs),
    /// Do a finished run with another plugin, and print what went another way
    Ablate(ablate::AblateArgs),
    /// Say what became of a record, or what was dropped and why
    Show(show::ShowArgs),
    /// Fetch a model, talk to it, score with it, measure it, or merge an adapter into it
    #[command(subcommand)]
    Model(model::ModelCommand),
    /// Measure filters and judges on labelled data
    Evaluate(evaluate::EvaluateArgs),
    /// Run one stage of a plugin set over a part of some data, as a worker among many
    #[command(subcommand)]
    Stage(stage::StageCommand),
    /// List the embedded plugin sets, or print one
    Methods(methods::MethodsArgs),
    /// Try out whether this machine and this build can do what runs ask of them
    Doctor(doctor::DoctorArgs),
    /// Make a plugin, build it, or look at one
    #[command(subcommand)]
    Plugin(plugin::PluginCommand),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn check(line: &str, expected: Result<&str, &str>) {
        let found = Cli::try_parse_from(line.split(' '));
        match (found, expected) {
            (Ok(cli), Ok(part)) => {
                let shown = format!("{cli:?}");
                assert!(shown.contains(part), "{line}: {shown}");
            }
            (Err(error), Err(part)) => {
                assert_eq!(error.exit_code(), 2, "{line}");
                let shown = error.to_string();
                assert!(shown.contains(part), "{line}: {shown}");
            }
            (found, _) => panic!("{line}: {found:?}"),
        }
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn command_lines_are_read() {
        check("aligner --plugins soft-plus.toml", Ok("plugins: \"soft-plus.toml\""));
        check("aligner --plugins s --set a=1 --set b=c=d", Ok(r#"overrides: ["a=1", "b=c=d"]"#));
        check("aligner --plugins s --device cuda:3", Ok("device: Cuda(3)"));
        // The plugin set's own check says which are in range.
        check("aligner --plugins s --rounds 0", Ok("rounds: Some(0)"));
        check("aligner --plugins s --rounds -1", Ok("rounds: Some(-1)"));
        check("aligner --plugins s --seed=-1", Ok("seed: Some(-1)"));
        check("aligner --plugins s --progress plain --dry-run", Ok("progress: Some(Plain)"));
        check("aligner --plugins s --out d --resume", Ok("resume: true"));
        check("aligner resume runs/x -q", Ok("quiet: true"));
        check("aligner plugin bench f.wasm --progress json", Ok("progress: Some(Json)"));
        check("aligner resume runs/x", Ok(r#"Resume(ResumeArgs { directory: "runs/x""#));
        check("aligner report a b", Ok(r#"directories: ["a", "b"]"#));
        check("aligner show d p-001", Ok(r#"record: Some("p-001")"#));
        check("aligner show d --dropped --round 2", Ok("round: Some(2)"));
        check("aligner model pull", Ok("smollm2-135m-instruct"));
        check("aligner model chat --adapter a --temperature 0.5", Ok("temperature: 0.5"));
        check("aligner model score --model m --data d.jsonl", Ok(r#"data: "d.jsonl""#));
        check("aligner model eval --suite s.toml --limit 3", Ok("limit: Some(3)"));
        check("aligner model merge --adapter a --out o --dtype bf16", Ok("dtype: Some(Bf16)"));
        check("aligner model merge --adapter a --out o", Ok("max_shard_size: 5000000000"));
        for (size, bytes) in [
            ("2GiB", 2_147_483_648u64),
            ("1.5GB", 1_500_000_000),
            ("0.5kib", 512),
            (".25TiB", 1 << 38),
            ("700", 700),
        ] {
            let line = format!("aligner model merge --adapter a --out o --max-shard-size {size}");
            check(&line, Ok(&format!("max_shard_size: {bytes}")));
        }
        check("aligner evaluate a.wasm b=builtin:length --data d", Ok(r#""b=builtin:length"]"#));
        check("aligner evaluate --plugins e.toml --data d --ask j", Ok(r#"ask: ["j"]"#));
        check("aligner methods", Ok("Methods"));
        check("aligner doctor --json -q", Ok("Doctor(DoctorArgs { json: true"));
        check("aligner plugin check f.wasm --json", Ok("json: true"));
        check("aligner plugin pack s.toml -o x.aligner", Ok(r#"out: Some("x.aligner")"#));
        check("aligner plugin pack --list x.aligner", Ok("list: true"));
    }

    #[test]
    fn bad_command_lines_are_refused() {
        check("aligner", Err("Usage:"));
        check("aligner --rounds 2", Err("--plugins <SET>"));
        check("aligner --plugins", Err("a value is required"));
        check("aligner --plugin s", Err("--plugins"));
        check("aligner --plugins s --resume --fresh", Err("cannot be used with"));
        check("aligner --plugins s --rounds two", Err("invalid value 'two'"));
        check("aligner --plugins s --seed 1.5", Err("invalid value '1.5'"));
        check(
            "aligner --plugins s --device gpu",
            Err("expected `auto`, `cpu`, `cuda` or `cuda:N`"),
        );
        check("aligner --plugins s --progress dots", Err("possible values: plain, fancy, json"));
        check("aligner resume d -q --progress json", Err("cannot be used with"));
        check("aligner --plugins s report d", Err("cannot be used with"));
        check("aligner --plugins s extra", Err("extra"));
        check("aligner resum d", Err("resume"));
        check("aligner resume", Err("<DIR>"));
        check("aligner report", Err("<DIR>"));
        check("aligner show d p --dropped", Err("cannot be used with"));
        check("aligner model", Err("Usage:"));
        check("aligner model score", Err("--data"));
        check("aligner model eval", Err("--suite"));
        check("aligner model eval --suite s --limit 0", Err("0 is not in 1.."));
        check("aligner model chat --temperature nan", Err("expected a number from 0 to 10"));
        check("aligner model chat --top-p 0", Err("expected a number over 0"));
        check("aligner model chat --top-p -1", Err("expected a number over 0"));
        check("aligner model chat --seed -1", Err("expected a whole number, 0 or more"));
        check("aligner model chat --max-new-tokens 0", Err("0 is not in 1.."));
        check("aligner model chat --max-new-tokens -1", Err("-1 is not in 1.."));
        check("aligner show d --round -1", Err("-1 is not in 0.."));
        check("aligner model merge --adapter a", Err("--out <DIR>"));
        for size in ["0", "5XB", "GB", "1e3GB", "-1GB", "infGB", "1.5.GB", "0.1KB5"] {
            let line = format!("aligner model merge --adapter a --out o --max-shard-size={size}");
            check(&line, Err("expected a size in KB, MB, GB or TB"));
        }
        check("aligner plugin check", Err("<SOURCE>"));
        check("aligner plugin pack --list x.aligner -o y", Err("cannot be used with"));
        check("aligner evaluate a.wasm", Err("--data <FILE>"));
        check("aligner evaluate a.wasm --data d --limit 0", Err("0 is not in 1.."));
        check("aligner evaluate a.wasm --data d --column x=y", Err("expected ROLE=NAME"));
        check("aligner __compile", Err("unrecognized"));
    }
}
