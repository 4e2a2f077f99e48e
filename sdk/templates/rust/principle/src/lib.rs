//! Puts each prompt under instructions, and beside it the prompt as it is.

use aligner_sdk::{
    Ask, Context, Error, Plugin, Principle, Record, System, Text, Variant, VariantRole,
    export_principle,
};
use serde::Deserialize;

/// What stands under `config`; it is the whole plugin.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MyPlugin {
    /// What the model is told.
    instructions: String,
}

impl Default for MyPlugin {
    fn default() -> Self {
        MyPlugin {
            instructions:
                "Answer truthfully and in a few clear sentences. Say so where you do not know."
                    .into(),
        }
    }
}

impl Plugin for MyPlugin {
    type Config = MyPlugin;
    const NAME: &'static str = "my-plugin";
    const SUMMARY: &'static str =
        "Puts each prompt under instructions, and beside it the prompt as it is.";
    const CONFIG_SCHEMA: &'static str = r#"{"type": "object", "additionalProperties": false, "properties": {
"instructions": {"type": "string"}}}"#;

    fn new(config: MyPlugin) -> Result<Self, Error> {
        Ok(config)
    }
}

impl Principle for MyPlugin {
    fn render(&self, _: &Context, record: &Record, _: &mut Ask) -> Result<Vec<Variant>, Error> {
        let prompt = &record.prompt.text;
        let place = match prompt {
            Text::Raw(_) => System::User,
            Text::Chat(_) => System::Message,
        };
        Ok(vec![
            Variant::new("good", VariantRole::Good, place.put(&self.instructions, prompt)?),
            Variant::new("plain", VariantRole::Plain, prompt.clone()),
        ])
    }
}

export_principle!(MyPlugin);

#[cfg(test)]
mod tests {
    use aligner_sdk::{Message, Speaker, testing};

    use super::*;

    fn rendered(prompt: Text) -> Vec<Variant> {
        let plugin: MyPlugin = testing::plugin(r#"{"instructions": "Be good."}"#).unwrap();
        let mut record = testing::record("p-1", "Why?");
        record.prompt.text = prompt;
        testing::render(&plugin, &record, testing::no_model).unwrap()
    }

    #[test]
    fn the_good_variant_is_under_the_instructions() {
        let message = |speaker, content: &str| Message { speaker, content: content.into() };
        let said = vec![message(Speaker::System, "Be good."), message(Speaker::User, "Why?")];
        let expected = [
            Variant::new("good", VariantRole::Good, Text::Chat(said)),
            Variant::new("plain", VariantRole::Plain, Text::user("Why?")),
        ];
        assert_eq!(rendered(Text::user("Why?")), expected);
    }

    #[test]
    fn raw_text_begins_with_the_instructions() {
        let variants = rendered(Text::Raw("Why?".into()));
        assert_eq!(variants[0].prompt, Text::Raw("Be good.\n\nWhy?".into()));
    }

    #[test]
    fn awkward_records_are_rendered() {
        for record in testing::awkward() {
            assert_eq!(rendered(record.prompt.text).len(), 2);
        }
    }
}
