//! `[models] aligned`: what stands in for all that rounds would train.

use std::path::Path;

use crate::extrapolate;
use crate::model::template::ChatSettings;
use crate::model::text::Model;
use crate::model::{peft, source};
use crate::round::{Aligned, Opened, RunError};

/// Opens an adapter folder, or a whole model, and sees that it is a state of the initial model.
pub fn open(
    name: &str,
    initial: &Opened,
    chat: ChatSettings,
    report: &mut dyn FnMut(source::Progress),
) -> Result<Aligned, RunError> {
    let folder = Path::new(name);
    if peft::is_adapter(folder) {
        let adapter = peft::read(folder, &initial.model.spec)?;
        if adapter.is_reward_model() {
            return Err(RunError::Settings {
                what: format!("`aligned` of `[models]` is a reward model, and no policy: `{name}`"),
                hint: "name the adapter of a policy".into(),
            });
        }
        return Ok(Aligned::Adapter(adapter));
    }
    let opened = Opened::open(name, chat, report)?;
    let (first, second) = (&*initial.model, &*opened.model);
    extrapolate::check(first, second).map_err(|unlike| RunError::Settings {
        what: format!("`aligned` of `[models]` does not fit: {unlike}"),
        hint: unlike.hint(),
    })?;
    let template =
        |model: &Model| model.template.as_ref().map(|template| template.source().to_owned());
    if template(first) != template(second) {
        return Err(RunError::Settings {
            what: format!(
                "`{}` and `{}` have different chat templates, so no prompt is put to both in one way",
                first.name, second.name
            ),
            hint: "put the same `chat_template.jinja` beside both; `aligner model extrapolate` with an \
                   alpha of your own takes any"
                .into(),
        });
    }
    Ok(Aligned::Model(opened))
}
