//! What a plugin is timed on, whatever its interface: the same items for two plugins of a kind.

use super::answers::Script;
use super::of_samplers::pool;
use super::records::{Maker, Shape, exemplars};
use super::said::{Said, Subject};
use super::{limits, with_grants};
use crate::plugin::{Interface, Loaded, Plugin, PluginError};
use crate::record::{Exemplar, Prompt, Record};
use crate::round::needs_of;

/// Prompts that are equipped at once.
const PROMPTS: usize = 256;
/// Slots that are written at once.
const SLOTS: u32 = 64;

/// Items of a full batch.
pub struct Workload {
    interface: Interface,
    /// What the items are, in words.
    pub name: String,
    /// How many there are.
    pub items: usize,
    /// Bytes of their texts, in all.
    pub bytes: usize,
    records: Vec<Record>,
    prompts: Vec<Prompt>,
    catalogue: Vec<Exemplar>,
}

impl Workload {
    /// Makes a workload that every one of these plugins gets through: records of the first shape that all
    /// of them work on, or the user's.
    pub fn find(
        interface: Interface,
        data: &[Record],
        plugins: &[(&Loaded, &str)],
    ) -> Result<(Workload, Vec<Plugin>), PluginError> {
        let mut first_error = None;
        for candidate in Workload::candidates(interface, data, plugins)? {
            let tried: Result<Vec<Plugin>, PluginError> = plugins
                .iter()
                .map(|(loaded, config)| {
                    let call = |plugin: &Plugin| candidate.call(plugin);
                    Ok(with_grants(loaded, interface, config, call)?.0)
                })
                .collect();
            match tried {
                Ok(plugins) => return Ok((candidate, plugins)),
                Err(error) => {
                    first_error.get_or_insert(error);
                }
            }
        }
        Err(first_error.unwrap_or_else(|| PluginError::Host("there is nothing to time".into())))
    }

    fn candidates(
        interface: Interface,
        data: &[Record],
        plugins: &[(&Loaded, &str)],
    ) -> Result<Vec<Workload>, PluginError> {
        let of = |name: String, records: Vec<Record>, prompts: Vec<Prompt>| Workload {
            interface,
            name,
            items: records.len() + prompts.len(),
            bytes: records.iter().map(text_bytes).sum(),
            records,
            prompts,
            catalogue: exemplars(48),
        };
        Ok(match interface {
            Interface::Sampler => {
                let prompts = pool(PROMPTS);
                let bytes = prompts.iter().map(|it| it.id.len() + it.tags.concat().len()).sum();
                vec![Workload { bytes, ..of("prompts to equip".into(), Vec::new(), prompts) }]
            }
            Interface::PromptWriter => {
                let prompts = pool(PROMPTS);
                let bytes = prompts.iter().map(|prompt| prompt.text.gist().len()).sum();
                let workload =
                    of(format!("slots, a pool of {PROMPTS} prompts"), Vec::new(), prompts);
                vec![Workload { bytes, items: SLOTS as usize, ..workload }]
            }
            _ if !data.is_empty() => {
                vec![of("records of the data".into(), data.to_vec(), Vec::new())]
            }
            _ => {
                let mut maker = Maker { exemplars: exemplars(3), needs: Vec::new() };
                for (loaded, config) in plugins {
                    let (plugin, catalogue) =
                        with_grants(loaded, interface, config, |plugin| match interface {
                            Interface::Principle => plugin.catalogue(),
                            _ => Ok(Vec::new()),
                        })?;
                    maker.needs.extend(needs_of(&plugin));
                    if interface == Interface::Principle {
                        maker.exemplars = catalogue.into_iter().take(3).collect();
                    }
                }
                let shapes: &[Shape] = match interface {
                    Interface::Principle => &[Shape::Prompt, Shape::Equipped],
                    _ => &[
                        Shape::Plain,
                        Shape::FewShot,
                        Shape::Contrast,
                        Shape::Judged,
                        Shape::Paired,
                        Shape::Prompt,
                    ],
                };
                let one = |shape: &Shape| {
                    let name = format!("records of 1 KiB, {}", shape.as_str());
                    of(name, limits::full_batch(&maker, *shape), Vec::new())
                };
                shapes.iter().map(one).collect()
            }
        })
    }

    /// Calls a plugin with every item, in one stage.
    pub fn call(&self, plugin: &Plugin) -> Result<Said, PluginError> {
        let subject = Subject { plugin, interface: self.interface, script: Script::Plausible };
        match self.interface {
            Interface::Sampler => subject.equip(&self.prompts, &self.catalogue),
            Interface::PromptWriter => subject.write(&self.prompts, 0..SLOTS),
            _ => subject.records(&self.records),
        }
    }
}

/// Bytes of what a plugin reads of a record.
fn text_bytes(record: &Record) -> usize {
    let completions = record.variants.iter().filter_map(|variant| variant.completion.as_ref());
    record.prompt.text.gist().len() + completions.map(|it| it.text.len()).sum::<usize>()
}
