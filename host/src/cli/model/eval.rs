//! `aligner model eval`: held-out measures of a model, by a suite.

mod respondent;
mod rows;
mod take;

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::json;

use super::EvalArgs;
use crate::{
    cli::{CliError, cancel, exit, host, output, place},
    digest::sha256,
    file,
    measure::{
        figure::Figure,
        letters::BothOrders,
        suite::{self, Decoding, Format, Kind, Measure, Suite},
    },
    model::{
        adapter::Adapter,
        backend::{AnyDevice, WeightType},
        export::{self, ExportError, NewFolder},
    },
    progress::{Progress, counted},
    record::Text,
    report,
    round::{Loaded, Opened},
};
use respondent::{Answered, Respondent};
use rows::Rows;
use take::{Others, Shown, Taken, letters, take};

/// Takes every measure of a suite and prints the table.
///
/// All data is read, and every other model of the suite found, before weights load.
pub fn main(args: &EvalArgs) -> Result<(), CliError> {
    let device = args.device.resolve(args.dtype)?;
    cancel::listen()?;
    let (suite, suite_digest) = read_suite(&args.suite)?;
    let name = host::model_name(args.model.as_deref(), args.adapter.as_deref())?;
    check_judges(&suite, &name)?;
    let limit = args.limit.map(|limit| limit as usize);
    let mut data = Vec::with_capacity(suite.measures.len());
    for measure in &suite.measures {
        data.push(Rows::read(measure, limit)?);
    }
    let mut folder = match &args.out {
        Some(out) => Some(NewFolder::begin(out).map_err(ExportError::from)?),
        None => None,
    };
    args.json.as_deref().map(|path| place::check("--json", path, &[])).transpose()?;

    let progress = args.shown.open();
    let opened = host::open(&name, &progress)?;
    let adapter = args.adapter.as_deref().map(|it| host::adapter(it, &opened)).transpose()?;
    check_reward_model(&suite, adapter.as_ref())?;
    check_templates(&suite, &opened)?;
    let others = OtherModels { device: &device, weight_type: args.dtype, progress: &progress };
    others.check(&suite, &opened)?;
    let (loaded, loaded_adapter) =
        host::load_adapted(&opened, adapter.as_ref(), &device, args.dtype, &progress)?;
    let model =
        Respondent { loaded: &loaded, adapter: loaded_adapter.as_ref(), progress: &progress };

    let mut all = Vec::with_capacity(suite.measures.len());
    for (measure, rows) in suite.measures.iter().zip(&data) {
        let taken = take(measure, rows, model, &others)?;
        if let Some(folder) = &mut folder {
            let lines = taken.rows.iter().map(|(_, line)| format!("{line}\n"));
            let lines: String = lines.collect();
            export::put(folder, &format!("{}.jsonl", measure.name), lines.as_bytes())?;
        }
        all.push(Summary::new(measure, rows.len(), taken)?);
    }

    let adapter_digest = adapter.as_ref().map(|adapter| adapter.digest());
    let report = json!({
        "aligner": env!("CARGO_PKG_VERSION"),
        "model": name,
        "model_sha256": opened.model.digest,
        "adapter": args.adapter,
        "adapter_sha256": adapter_digest,
        "suite": args.suite,
        "suite_sha256": suite_digest,
        "engine": device.class(args.dtype),
        "limit": args.limit,
        "measures": all,
    });
    let json = serde_json::to_string_pretty(&report).map_err(anyhow::Error::from)? + "\n";
    // What cannot be written must not take the table with it.
    let written = args.json.as_deref().map_or(Ok(()), |path| place::write(path, json.as_bytes()));
    let tables = all.iter().map(|summary| (summary.name.as_str(), summary.figures.as_slice()));
    let mut text = report::measures(tables);
    for summary in &all {
        text.push_str(&summary.notes());
    }
    if let (Some(mut folder), Some(out)) = (folder, &args.out) {
        export::put(&mut folder, "eval.json", json.as_bytes())?;
        folder.finish().map_err(ExportError::from)?;
        text.push_str(&format!("\nevery number and row: {}\n", out.display()));
    }
    output::print(&text)?;
    written
}

/// What a measure gave, as the JSON says it.
#[derive(Serialize)]
struct Summary {
    name: String,
    kind: &'static str,
    data: PathBuf,
    data_sha256: String,
    /// Rows that were read.
    rows: usize,
    /// Rows among these that do not fit into a model's context, and are in no figure.
    left_out: usize,
    figures: Vec<Figure>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    details: Vec<Figure>,
}

impl Summary {
    fn new(measure: &Measure, rows: usize, taken: Taken) -> Result<Summary, CliError> {
        let bytes = file::read(&measure.data).map_err(|error| {
            let path = measure.data.display();
            CliError::new(exit::MODEL_OR_DATA, format!("cannot read data file `{path}`: {error}"))
        })?;
        Ok(Summary {
            name: measure.name.clone(),
            kind: measure.kind.name(),
            data: measure.data.clone(),
            data_sha256: sha256(&bytes),
            rows,
            left_out: rows - taken.rows.len(),
            figures: taken.figures,
            details: taken.details,
        })
    }

    /// Returns the lines below the table.
    fn notes(&self) -> String {
        match self.left_out {
            0 => String::new(),
            left_out => {
                let rows = counted(self.rows as u64, "rows");
                format!(
                    "{}: {left_out} of {rows} left out, too long for a model's context\n",
                    self.name
                )
            }
        }
    }
}

/// Reads and checks a suite; returns it with the digest of its file.
fn read_suite(path: &Path) -> Result<(Suite, String), CliError> {
    let shown = path.display().to_string();
    if path.is_dir() {
        let error = CliError::usage(format!("suite `{shown}` is a folder"));
        return Err(error.hint("name the TOML file in it"));
    }
    let bytes = file::read(path)
        .map_err(|error| CliError::usage(format!("cannot read suite `{shown}`: {error}")))?;
    let digest = sha256(&bytes);
    let text = String::from_utf8(bytes).map_err(|_| {
        CliError::usage(format!("suite `{shown}` is not UTF-8")).hint("save it as UTF-8")
    })?;
    let folder = path.parent().unwrap_or(Path::new(""));
    Ok((suite::parse(&shown, &text, folder)?, digest))
}

fn is_judge_itself(measure: &Measure, judge: &str) -> CliError {
    let message = format!(
        "measure `{}` is judged by `{judge}`, which is the model that is measured",
        measure.name
    );
    CliError::usage(message).hint("name another model in `judge`: a model prefers its own answers")
}

/// Fails where a model is to judge itself, or what an adapter made of it.
fn check_judges(suite: &Suite, name: &str) -> Result<(), CliError> {
    for measure in &suite.measures {
        if let Kind::Pairwise { judge, .. } = &measure.kind
            && judge == name
        {
            return Err(is_judge_itself(measure, judge));
        }
    }
    Ok(())
}

/// Fails where a reward model is to write, or to say how likely something is.
fn check_reward_model(suite: &Suite, adapter: Option<&Adapter>) -> Result<(), CliError> {
    let writes = |measure: &&Measure| !matches!(measure.kind, Kind::Preferences { .. });
    let is_reward_model = adapter.is_some_and(|adapter| adapter.is_reward_model());
    match suite.measures.iter().find(writes).filter(|_| is_reward_model) {
        None => Ok(()),
        Some(measure) => Err(CliError::usage(format!(
            "`--adapter` is a reward model, which measure `{}` of kind `{}` is not for",
            measure.name,
            measure.kind.name()
        ))
        .hint("a suite of kind `preferences` alone measures a reward model")),
    }
}

/// Fails where a model without a chat template is to answer messages.
fn check_templates(suite: &Suite, opened: &Opened) -> Result<(), CliError> {
    let chats = suite.measures.iter().find(|measure| measure.format == Format::Chat);
    match (chats, &opened.model.template) {
        (Some(measure), None) => Err(CliError::new(
            exit::MODEL_OR_DATA,
            format!(
                "`{}` has no chat template, and measure `{}` shows it messages",
                opened.model.name, measure.name
            ),
        )
        .hint("set `format = \"raw\"` for measures of such a model")),
        _ => Ok(()),
    }
}

/// The models that comparisons name.
struct OtherModels<'a> {
    device: &'a AnyDevice,
    weight_type: WeightType,
    progress: &'a Progress,
}

impl OtherModels<'_> {
    /// Finds every model, and fails where one is not there, has no chat template, or is the judge of
    /// itself under another name.
    fn check(&self, suite: &Suite, measured: &Opened) -> Result<(), CliError> {
        for measure in &suite.measures {
            let Kind::Pairwise { judge, against, .. } = &measure.kind else { continue };
            let place = format!("measure `{}`", measure.name);
            let open =
                |name: &str| host::open(name, self.progress).map_err(|error| error.context(&place));
            let found = open(judge)?;
            if found.model.digest == measured.model.digest {
                return Err(is_judge_itself(measure, judge));
            }
            let others = [Some((found, Format::Chat)), None];
            let other = against.as_deref().map(open).transpose()?;
            let others = others.into_iter().flatten().chain(other.map(|o| (o, measure.format)));
            for (other, format) in others {
                if format == Format::Chat && other.model.template.is_none() {
                    let name = &other.model.name;
                    let message = format!("`{name}` has no chat template, so it reads no messages");
                    return Err(CliError::new(exit::MODEL_OR_DATA, message)
                        .context(&place)
                        .hint("name a model that was trained to chat"));
                }
            }
        }
        Ok(())
    }

    fn load(&self, name: &str) -> Result<Loaded, CliError> {
        let opened = host::open(name, self.progress)?;
        let loaded =
            host::load_adapted(&opened, None, self.device, self.weight_type, self.progress);
        loaded.map(|(loaded, _)| loaded)
    }
}

impl Others for OtherModels<'_> {
    fn answers(
        &self,
        model: &str,
        what: &str,
        prompts: &[(&str, Text, u64)],
        decoding: &Decoding,
    ) -> Result<Vec<Option<Answered>>, CliError> {
        let loaded = self.load(model)?;
        let model = Respondent { loaded: &loaded, adapter: None, progress: self.progress };
        model.answers(what, prompts, decoding)
    }

    fn letters(
        &self,
        model: &str,
        what: &str,
        pairs: &[Shown<'_>],
    ) -> Result<Vec<Option<BothOrders>>, CliError> {
        let loaded = self.load(model)?;
        let model = Respondent { loaded: &loaded, adapter: None, progress: self.progress };
        letters(model, what, Format::Chat, pairs)
    }
}
