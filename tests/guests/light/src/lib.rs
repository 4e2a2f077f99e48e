//! The filter that `make bench-plugins` compares with the same code on the bare processor.

#[path = "../../../bench-plugins/light.rs"]
mod light;

use aligner_sdk::{Ask, Context, Error, Filter, Plugin, Record, Verdict, export_filter};
use serde::Deserialize;

/// It has no settings.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Light {}

impl Plugin for Light {
    type Config = Light;
    const NAME: &'static str = "light";
    const SUMMARY: &'static str = "Drops completions that are too short or say who speaks.";

    fn new(config: Light) -> Result<Self, Error> {
        Ok(config)
    }
}

impl Filter for Light {
    fn filter(&self, _: &Context, record: &Record, _: &mut Ask) -> Result<Verdict, Error> {
        let fault = record.completions().find_map(|(_, completion)| light::fault(&completion.text));
        Ok(fault.map_or(Verdict::Keep, |reason| Verdict::Drop(reason.into())))
    }
}

export_filter!(Light);
