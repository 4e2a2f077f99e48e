//! `aligner model merge`: a model with an adapter in its weights, as a folder that other tools read.

use std::{
    fmt::Write,
    path::{Path, PathBuf},
};

use super::MergeArgs;
use crate::{
    cli::{CliError, cancel, exit, host, output},
    model::{
        adapter::Adapter,
        backend::{AnyDevice, WeightType},
        checkpoint::Checkpoint,
        export::{self, Dtype, NewFolder},
        layout,
        merge::{self, Difference, Merged},
        peft,
        text::Model,
        weights::{LoadedAdapter, WeightsError},
    },
    progress::{Progress, go_on},
    record::Text,
    round::{Loaded, Opened, RunError},
};

/// Writes the merged folder, opens it again, and compares its logits with those of the model and the
/// adapter apart. The folder gets its name only once that is well.
pub fn main(args: &MergeArgs) -> Result<(), CliError> {
    let device = args.device.resolve(WeightType::F32)?;
    cancel::listen()?;
    let name = host::model_name(args.model.as_deref(), Some(&args.adapter))?;
    let mut folder = NewFolder::begin(&args.out).map_err(export::ExportError::from)?;
    let progress = args.shown.open();
    let opened = host::open(&name, &progress)?;
    let model = &*opened.model;
    let adapter = host::writing_adapter(&args.adapter, &opened)?;
    let settings = export::Settings {
        dtype: args.dtype.map_or_else(|| Dtype::of(model), Dtype::from),
        max_shard_size: args.max_shard_size,
    };

    let merged = Merged::new(&*opened.checkpoint, &adapter, &args.adapter)
        .map_err(|source| RunError::from(peft::PeftError::fits(&args.adapter, source)))?;
    let before = match args.no_check {
        true => None,
        false => Some(Before::of(&opened, &adapter, &device, &progress)?),
    };
    let mut count = progress.counter("merging", "tensors");
    let mut hear = |done: usize, total: usize| {
        count(done, total);
        go_on(cancel::flag())
    };
    export::write(&mut folder, model, &merged, &settings, &mut hear)?;

    let check = match &before {
        Some(before) => {
            let folder = folder.unfinished();
            Some(before.compare(folder, &merged, settings.dtype, &device, &progress)?)
        }
        None => None,
    };
    let card = card(args, model, &adapter, settings.dtype, check.as_ref());
    export::put(&mut folder, "README.md", card.as_bytes())?;
    folder.finish().map_err(export::ExportError::from)?;

    let out = args.out.display();
    if let Some(check) = &check {
        output::print(&format!("{}\n", check.sentences()))?;
    }
    output::print(&format!("{} model in {out}\n", settings.dtype.torch_name()))?;
    output::print(&format!("talk to it:   aligner model chat --model {}\n", shown(&args.out)))
}

/// What is compared: short, in several languages and forms, and always the same.
const PROMPTS: [&str; 4] = [
    "What is the capital of France, and why?",
    "Write a short poem about rain.",
    "def fibonacci(n):\n    ",
    "1, 1, 2, 3, 5, 8, 13, ¿qué sigue? 次は何ですか。",
];

/// Longest sequence that is compared: a template may begin with pages.
const LONGEST: usize = 96;

/// Logits before anything is merged.
struct Before {
    sequences: Vec<Vec<u32>>,
    adapted: Vec<f32>,
    /// Between the model without the adapter and with it.
    effect: Difference,
}

impl Before {
    fn of(
        opened: &Opened,
        adapter: &Adapter,
        device: &AnyDevice,
        progress: &Progress,
    ) -> Result<Before, CliError> {
        let sequences = sequences(&opened.model)?;
        let (loaded, adapter) =
            host::load_adapted(opened, Some(adapter), device, WeightType::F32, progress)?;
        let plain = logits(&loaded, None, &sequences)?;
        let adapted = logits(&loaded, adapter.as_ref(), &sequences)?;
        let effect = Difference::of(&adapted, &plain, opened.model.spec.vocab);
        Ok(Before { sequences, adapted, effect })
    }

    /// Opens the folder as any user would, and fails where it reads other tokens, holds other numbers
    /// than the merged ones as `dtype` rounds them, or where these, in f32, say something else than
    /// model and adapter apart.
    fn compare(
        &self,
        folder: &Path,
        merged: &Merged<'_>,
        dtype: Dtype,
        device: &AnyDevice,
        progress: &Progress,
    ) -> Result<Check, CliError> {
        let opened = host::open(&folder.display().to_string(), progress)?;
        if sequences(&opened.model)? != self.sequences {
            return Err(CliError::new(
                exit::INTERNAL,
                "the merged folder's tokenizer gives other tokens than the model's",
            ));
        }
        same_numbers(&*opened.checkpoint, merged, dtype, progress)?;
        let vocab = opened.model.spec.vocab;
        let exact = match dtype {
            Dtype::F32 => None,
            Dtype::Bf16 | Dtype::F16 => {
                let loaded = Loaded::with(&opened, merged, device, WeightType::F32, progress)?;
                Some(logits(&loaded, None, &self.sequences)?)
            }
        };
        let (loaded, _) = host::load_adapted(&opened, None, device, WeightType::F32, progress)?;
        let after = logits(&loaded, None, &self.sequences)?;
        let exact = Difference::of(&self.adapted, exact.as_ref().unwrap_or(&after), vocab);
        let most = SUMS * exact.magnitude;
        if exact.largest > most {
            let message = format!(
                "the merged model is not the model with its adapter: in f32 a logit differs by {:.3e}, \
                 and the order of sums explains {most:.3e}",
                exact.largest
            );
            return Err(CliError::new(exit::MODEL_OR_DATA, message)
                .hint("`--no-check` writes the folder all the same"));
        }
        Ok(Check {
            prompts: self.sequences.len(),
            rounding: Difference::of(&self.adapted, &after, vocab),
            effect: self.effect,
        })
    }
}

/// The largest difference of a logit that sums in another order explain, as a part of the largest logit.
///
/// A weight is off by up to half a unit in its last place, and the errors of all blocks add up like a
/// random walk. A model of 30 blocks showed 1e-5. A wrong scale, order of rows or tensor is off by a good
/// part of the magnitude itself.
const SUMS: f32 = 1e-4;

/// Fails where a checkpoint holds other numbers than the merged ones in this type.
fn same_numbers(
    written: &dyn Checkpoint,
    merged: &Merged<'_>,
    dtype: Dtype,
    progress: &Progress,
) -> Result<(), CliError> {
    let tensors = layout::tensors(merged.spec());
    let mut count = progress.counter("comparing", "tensors");
    for (i, (name, shape)) in tensors.iter().enumerate() {
        let read = |checkpoint: &dyn Checkpoint| {
            checkpoint.tensor(name, shape).map_err(|e| RunError::from(WeightsError::from(e)))
        };
        let (found, wanted) = (read(written)?, read(merged)?);
        let wrong =
            found.iter().zip(&wanted).position(|(found, &wanted)| *found != dtype.round(wanted));
        if let Some(at) = wrong {
            let message = format!(
                "the folder holds {} in `{name}` at position {at}, and not {}",
                found[at],
                dtype.round(wanted[at])
            );
            return Err(CliError::new(exit::INTERNAL, message));
        }
        count(i + 1, tensors.len());
    }
    Ok(())
}

fn logits(
    loaded: &Loaded,
    adapter: Option<&LoadedAdapter<AnyDevice>>,
    sequences: &[Vec<u32>],
) -> Result<Vec<f32>, CliError> {
    let logits = merge::logits(&loaded.engine, adapter, sequences);
    logits.map_err(|error| RunError::from(WeightsError::from(error)).into())
}

fn sequences(model: &Model) -> Result<Vec<Vec<u32>>, CliError> {
    let mut sequences = Vec::new();
    for prompt in PROMPTS {
        let prompt = match &model.template {
            Some(_) => Text::user(prompt),
            None => Text::Raw(prompt.to_owned()),
        };
        let mut tokens = model.encode_prompt(&prompt)?;
        tokens.truncate(LONGEST);
        sequences.push(tokens);
    }
    Ok(sequences)
}

/// How a merged model compares.
struct Check {
    prompts: usize,
    /// Between model and adapter apart, and the merged folder.
    rounding: Difference,
    /// Between the model without the adapter and with it.
    effect: Difference,
}

impl Check {
    fn sentences(&self) -> String {
        let Check { prompts, rounding, effect } = self;
        format!(
            "Over {prompts} prompts, {} tokens: the adapter moves a logit by up to {:.3}, merging \
             by up to {:.2e};\nthe same next token after {} of {}",
            rounding.positions,
            effect.largest,
            rounding.largest,
            rounding.agreeing,
            rounding.positions
        )
    }
}

/// The model card, for the Hugging Face hub and for whoever finds the folder.
fn card(
    args: &MergeArgs,
    model: &Model,
    adapter: &Adapter,
    dtype: Dtype,
    check: Option<&Check>,
) -> String {
    let (base, revision) = model.base_name();
    let title = args.out.file_name().unwrap_or_default().to_string_lossy();
    let mut card = format!(
        "---\nbase_model: {base}\nlibrary_name: transformers\npipeline_tag: text-generation\n\
         tags: [aligner, merged]\n---\n\n# {title}\n\n`{base}`{} with a LoRA adapter in its weights, \
         made by aligner {}.\n\n",
        revision.map_or(String::new(), |revision| format!(" at `{revision}`")),
        env!("CARGO_PKG_VERSION"),
    );
    let _ = writeln!(
        card,
        "- base: `{}`, SHA-256 `{}`\n- adapter: SHA-256 `{}`\n- weights: {}; `W + scale * B A` was \
         summed in f64 over the base in f32 (a quantised file is dequantised first)",
        model.name,
        model.digest,
        adapter.digest(),
        dtype.torch_name()
    );
    match check {
        Some(check) => {
            let _ = writeln!(
                card,
                "\n## Compared with the adapter beside the base\n\n{}.",
                check.sentences().replace('\n', " ")
            );
        }
        None => card.push_str("\nIts logits were not compared with those of base and adapter.\n"),
    }
    card
}

/// Returns a path as a model's name: one without a folder could be taken for an alias.
pub(super) fn shown(path: &Path) -> String {
    let mut components = path.components();
    match (components.next(), components.next()) {
        (Some(std::path::Component::Normal(_)), None) => {
            PathBuf::from(".").join(path).display().to_string()
        }
        _ => path.display().to_string(),
    }
}
