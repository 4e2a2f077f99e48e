//! `aligner model extrapolate`: an aligned model with its distance from the initial one stretched, as a
//! folder that other tools read.

use std::fmt::Write as _;
use std::path::Path;

use super::{ExtrapolateArgs, merge::shown};
use crate::{
    cli::{CliError, cancel, exit, host, output},
    extrapolate::{self, Change, Extrapolated, Noting},
    model::{
        export::{self, Dtype, NewFolder},
        layout, merge, peft,
    },
    progress::{Progress, go_on},
    round::{Opened, RunError},
};

/// Writes the extrapolated model, or adapter. The folder gets its name only once it is whole.
pub fn main(args: &ExtrapolateArgs) -> Result<(), CliError> {
    cancel::listen()?;
    let progress = args.shown.open();
    if let Some(initial) = args.initial.as_deref().filter(|name| peft::is_adapter(Path::new(name)))
    {
        let message = format!("`--initial` names `{initial}`, which is an adapter");
        return Err(CliError::usage(message).hint("name the model that training began with"));
    }
    let (change, what, talk) = match peft::is_adapter(Path::new(&args.aligned)) {
        true => adapter(args, &progress)?,
        false => model(args, &progress)?,
    };
    if let Some(change) = &change {
        output::print(&format!("{}\n", sentence(change)))?;
    }
    output::print(&format!("{what} in {}\ntalk to it:   {talk}\n", args.out.display()))
}

/// What is reported: how far the two were apart where that is known, what was written, and how to talk
/// to it.
type Written = (Option<Change>, String, String);

fn model(args: &ExtrapolateArgs, progress: &Progress) -> Result<Written, CliError> {
    let Some(initial) = &args.initial else {
        return Err(CliError::usage(format!(
            "`--initial` is missing, and `{}` is no adapter folder",
            args.aligned
        ))
        .hint("name the model that training began with"));
    };
    let mut folder = NewFolder::begin(&args.out).map_err(export::ExportError::from)?;
    let (initial, aligned) = (host::open(initial, progress)?, host::open(&args.aligned, progress)?);
    extrapolate::check(&initial.model, &aligned.model).map_err(|unlike| {
        CliError::new(exit::MODEL_OR_DATA, unlike.to_string()).hint(unlike.hint())
    })?;
    let settings = export::Settings {
        dtype: args.dtype.map_or_else(|| Dtype::of(&aligned.model), Dtype::from),
        max_shard_size: args.max_shard_size,
    };
    let weights = Noting::new(Extrapolated::new(
        initial.checkpoint.clone(),
        aligned.checkpoint.clone(),
        args.alpha,
    ));
    let mut count = progress.counter("extrapolating", "tensors");
    let mut hear = |done: usize, total: usize| {
        count(done, total);
        go_on(cancel::flag())
    };
    export::write(&mut folder, &aligned.model, &weights, &settings, &mut hear)?;
    let (change, dtype) = (weights.change(), settings.dtype.torch_name());
    let (base, _) = aligned.model.base_name();
    let parts = [("initial", &initial), ("aligned", &aligned)].map(|(name, opened)| {
        format!("- {name}: `{}`, SHA-256 `{}`\n", opened.model.name, opened.model.digest)
    });
    let card = card(args, ("transformers", &base), &parts.concat(), Some(&change));
    export::put(&mut folder, "README.md", card.as_bytes())?;
    folder.finish().map_err(export::ExportError::from)?;
    let talk = format!("aligner model chat --model {}", shown(&args.out));
    Ok((Some(change), format!("{dtype} model"), talk))
}

fn adapter(args: &ExtrapolateArgs, progress: &Progress) -> Result<Written, CliError> {
    if args.dtype.is_some() {
        let message =
            format!("`--dtype` is for whole models, and `{}` is an adapter", args.aligned);
        return Err(CliError::usage(message).hint("an adapter is written in f32"));
    }
    let from = Path::new(&args.aligned);
    let mut folder = NewFolder::begin(&args.out).map_err(export::ExportError::from)?;
    let files = peft::scaled::files(from, 1.0 + args.alpha).map_err(RunError::from)?;
    let opened = match &args.initial {
        Some(initial) => Some(host::open(initial, progress)?),
        None => None,
    };
    let change = opened.as_ref().map(|opened| change(from, opened, progress)).transpose()?;
    for (name, bytes) in files {
        export::put(&mut folder, name, &bytes)?;
    }
    let base = peft::base_of(from).unwrap_or_default();
    let parts = format!("- adapter: `{}`, every `B` times {}\n", from.display(), 1.0 + args.alpha);
    let card = card(args, ("peft", &base), &parts, change.as_ref());
    export::put(&mut folder, "README.md", card.as_bytes())?;
    folder.finish().map_err(export::ExportError::from)?;
    let model = match &args.initial {
        Some(initial) => format!("--model {initial} "),
        None => String::new(),
    };
    let talk = format!("aligner model chat {model}--adapter {}", args.out.display());
    Ok((change, "adapter".to_owned(), talk))
}

/// Returns how far an adapter moves a model; fails where it does not fit.
fn change(folder: &Path, opened: &Opened, progress: &Progress) -> Result<Change, CliError> {
    let adapter = host::writing_adapter(folder, opened)?;
    let mut change = Change::default();
    for (name, pair) in &adapter.pairs {
        let name = crate::model::adapter::module_path(name.0, name.1);
        change.note_delta(&name, merge::delta(pair).into_iter().map(f64::from));
    }
    let tensors = layout::tensors(&opened.model.spec);
    let mut count = progress.counter("measuring", "tensors");
    for (index, (name, shape)) in tensors.iter().enumerate() {
        let values = opened.checkpoint.tensor(name, shape);
        change.note_initial(&values.map_err(export::ExportError::from)?);
        count(index + 1, tensors.len());
        if go_on(cancel::flag()).is_break() {
            return Err(export::ExportError::Interrupted.into());
        }
    }
    Ok(change)
}

fn sentence(change: &Change) -> String {
    match change.tensor.is_empty() {
        true => "The aligned model is the initial one: no weight differs".to_owned(),
        false => format!(
            "From initial to aligned a weight moves by up to {:.3e} (`{}`), all together by {:.3e} of \
             the initial model's norm",
            change.largest,
            change.tensor,
            change.relative_norm()
        ),
    }
}

/// The model card, for the Hugging Face hub and for whoever finds the folder.
fn card(
    args: &ExtrapolateArgs,
    (library, base): (&str, &str),
    parts: &str,
    change: Option<&Change>,
) -> String {
    let title = args.out.file_name().unwrap_or_default().to_string_lossy();
    let alpha = args.alpha;
    let mut card = format!(
        "---\nbase_model: {base}\nlibrary_name: {library}\npipeline_tag: text-generation\n\
         tags: [aligner, extrapolated]\n---\n\n# {title}\n\n`{}` extrapolated by alpha {alpha} \
         (ExPO, <https://arxiv.org/abs/2404.16792>), made by aligner {}.\n\n{parts}",
        args.aligned,
        env!("CARGO_PKG_VERSION"),
    );
    let _ = match change {
        Some(change) => writeln!(card, "\n{}.", sentence(change)),
        None => writeln!(card, "\nThe model under the adapter was not looked at."),
    };
    card
}
