//! The suite for samplers, and for those that let a model write prompts.

use super::answers::Script;
use super::of_records::{nothing, scripted, told};
use super::rebatch::{self, Way};
use super::records::{Maker, Shape, exemplars};
use super::report::Report;
use super::said::{PLACE, Said, Subject};
use super::{Tested, limits, texts, with_grants};
use crate::plugin::{Candidate, Interface, Place, Plugin, PluginError};
use crate::progress::counted;
use crate::record::{Exemplar, Prompt, Text};

/// Prompts of an ordinary pool.
const POOL: usize = 40;
/// Exemplars of an ordinary catalogue.
const CATALOGUE: usize = 48;
/// Prompts that are equipped at once, more than a batch has.
const MANY: usize = 300;
/// Slots that are written at once.
const SLOTS: u32 = 8;

/// Runs every check of `sampler`.
pub fn sampler(tested: &Tested<'_>, report: &mut Report) {
    let interface = Interface::Sampler;
    let begun = with_grants(tested.loaded, interface, tested.config, |_| Ok(()));
    let plugin = match begun {
        Ok((plugin, ())) => plugin,
        Err(error) => return report.fail(Some(interface), "select", error.to_string()),
    };
    selects(&plugin, report);
    nothing(&plugin, interface, report);
    let subject = Subject { plugin: &plugin, interface, script: Script::Plausible };
    let prompts = pool(MANY);
    let Some(catalogue) = equips(subject, &prompts[..12], report) else { return };

    for size in [1, 2, 7, MANY] {
        if let Err(error) = subject.equip(&prompts[..size], &catalogue) {
            let found = format!("a stage of {} fails\n{error}", counted(size as u64, "prompts"));
            report.fail(Some(interface), "lengths", found);
            break;
        }
    }
    let names: Vec<String> = prompts[..POOL].iter().map(|prompt| prompt.id.clone()).collect();
    rebatch::check(report, interface, &names, &Way::ALL, &|calls| {
        let mut all = Said::default();
        for call in calls {
            let batch: Vec<Prompt> = call.iter().map(|&at| prompts[at].clone()).collect();
            all.add(subject.equip(&batch, &catalogue)?);
        }
        Ok(all)
    });
    match subject.equip(&awkward_prompts(), &catalogue) {
        Ok(said) => report.ok(Some(interface), "awkward ids and tags", said.summary()),
        Err(error) => {
            report.fail(Some(interface), "awkward ids and tags", format!("it fails\n{error}"));
        }
    }
    let of = counted(256, "prompts");
    limits::shares(report, subject, "limits in a full batch", &of, &|subject| {
        subject.equip(&prompts[..256], &catalogue)
    });
}

/// Lets the plugin select from several pools, round after round, each time twice.
fn selects(plugin: &Plugin, report: &mut Report) {
    let about = Some(Interface::Sampler);
    let mut scored = candidates(pool(POOL));
    for (index, candidate) in scored.iter_mut().enumerate() {
        candidate.difficulty = Some(1.5 * index as f64);
        candidate.selected = (index % 3) as u32;
    }
    let pools = [
        ("select", scored),
        ("select without difficulties", candidates(pool(POOL))),
        ("select of one prompt", candidates(pool(1))),
        ("select of no prompt", Vec::new()),
        ("select of awkward ids and tags", candidates(awkward_prompts())),
        ("select of 10000 prompts", candidates(pool(10_000))),
    ];
    for (check, pool) in pools {
        let mut numbers = Vec::new();
        let mut wrong = None;
        for round in 1..=3 {
            let place = Place { round, ..PLACE };
            match (plugin.select(&place, &pool), plugin.select(&place, &pool)) {
                (Ok((first, _)), Ok((second, _))) if first == second => numbers.push(first.len()),
                (Ok(_), Ok(_)) => wrong = Some("it selects others when called again".to_owned()),
                (Err(error), _) | (_, Err(error)) if error.is_of_input() => {
                    report.note(about, check, format!("it does not work on these\n{error}"));
                    numbers.clear();
                    break;
                }
                (Err(error), _) | (_, Err(error)) => wrong = Some(format!("it fails\n{error}")),
            }
        }
        match (wrong, numbers.is_empty()) {
            (Some(wrong), _) => report.fail(about, check, wrong),
            (None, true) => {}
            (None, false) => {
                let found = format!("{numbers:?} of {} in rounds 1, 2 and 3", pool.len());
                report.ok(about, check, found);
            }
        }
    }
}

/// Lets the plugin equip prompts from a large and from an empty catalogue; returns one that works.
fn equips(subject: Subject<'_>, prompts: &[Prompt], report: &mut Report) -> Option<Vec<Exemplar>> {
    let about = Some(subject.interface);
    let large = exemplars(CATALOGUE);
    let tried =
        [large, Vec::new()].map(|catalogue| (subject.equip(prompts, &catalogue), catalogue));
    let works = tried.iter().find(|(said, _)| said.is_ok()).map(|(_, catalogue)| catalogue.clone());
    for (said, catalogue) in &tried {
        let check = format!("equip from {}", counted(catalogue.len() as u64, "exemplars"));
        match said {
            Ok(said) => report.ok(about, &check, said.summary()),
            // A plugin may want more exemplars, or exemplars of other names.
            Err(error) if works.is_some() && is_refusal(error) => {
                let first = error.to_string().lines().next().unwrap_or_default().to_owned();
                report.note(about, &check, format!("it does not work on these\n{first}"));
            }
            Err(error) => report.fail(about, &check, format!("it fails\n{error}")),
        }
    }
    works
}

/// Returns whether a plugin says that its input or its configuration does not fit.
fn is_refusal(error: &PluginError) -> bool {
    use crate::plugin::{Fault, Reported};
    let PluginError::Call(call) = error else { return false };
    matches!(call.fault, Fault::Reported { kind: Reported::Input | Reported::Config, .. })
}

/// Runs every check of `prompt-writer`.
pub fn writer(tested: &Tested<'_>, report: &mut Report) {
    let interface = Interface::PromptWriter;
    let about = Some(interface);
    let pool = pool(POOL);
    let begun = with_grants(tested.loaded, interface, tested.config, |plugin| {
        let subject = Subject { plugin, interface, script: Script::Plausible };
        subject.write(&pool, 0..SLOTS)
    });
    let (plugin, said) = match begun {
        Ok(begun) => begun,
        Err(error) => return report.fail(about, "write", format!("it fails\n{error}")),
    };
    let subject = Subject { plugin: &plugin, interface, script: Script::Plausible };
    report.ok(about, "write", format!("in {SLOTS} slots: {}", said.summary()));
    nothing(&plugin, interface, report);
    let names: Vec<String> = (0..SLOTS).map(|slot| format!("slot {slot}")).collect();
    rebatch::check(report, interface, &names, &Way::IN_ORDER, &|calls| {
        let mut all = Said::default();
        for call in calls {
            let (first, last) = (call[0] as u32, call[call.len() - 1] as u32);
            all.add(subject.write(&pool, first..last + 1)?);
        }
        Ok(all)
    });
    match subject.write(&[], 0..SLOTS) {
        Ok(said) => report.ok(about, "empty pool", said.summary()),
        Err(error) if error.is_of_input() => {
            let first = error.to_string().lines().next().unwrap_or_default().to_owned();
            report.note(about, "empty pool", format!("it does not work on it\n{first}"));
        }
        Err(error) => report.fail(about, "empty pool", format!("it fails\n{error}")),
    }
    (tested.hear)();
    awkward_pool(subject, &pool, report);
    (tested.hear)();
    if told(report, interface, &said.asked) {
        for script in Script::AWKWARD {
            let subject = Subject { script, ..subject };
            let results = (0..SLOTS).map(|slot| subject.write(&pool, slot..slot + 1));
            scripted(report, interface, script, results.collect());
        }
    }
    (tested.hear)();
    let large: Vec<Prompt> = large_pool();
    let of = format!("64 slots, a pool of {} of 1 KiB", counted(large.len() as u64, "prompts"));
    limits::shares(report, subject, "limits with a large pool", &of, &|subject| {
        subject.write(&large, 0..64)
    });
}

/// Puts awkward texts into the pool that is shown to the model.
fn awkward_pool(subject: Subject<'_>, pool: &[Prompt], report: &mut Report) {
    let about = Some(subject.interface);
    let mut tried = 0;
    let mut failed: Vec<(&str, PluginError)> = Vec::new();
    for (name, text) in texts::awkward() {
        if text.trim().is_empty() {
            continue;
        }
        tried += 1;
        let prompt = |index: usize| Prompt {
            id: format!("awkward-{index}"),
            text: Text::user(texts::a_quarter(&text)),
            tags: Vec::new(),
        };
        // Some are drawn, and not too many for one request.
        let some: Vec<Prompt> = (0..3).map(prompt).chain(pool.iter().cloned()).collect();
        if let Err(error) = subject.write(&some, 0..SLOTS) {
            failed.push((name, error));
        }
    }
    match failed.first() {
        None => report.ok(about, "awkward prompts in the pool", format!("{tried} pools")),
        Some((_, first)) => {
            let names: Vec<String> = failed.iter().map(|(name, _)| format!("`{name}`")).collect();
            let found = format!("it fails on {}\n{first}", names.join(", "));
            report.fail(about, "awkward prompts in the pool", found);
        }
    }
}

/// Returns ordinary prompts; every other one has a tag as a prompt-writer gives it.
pub fn pool(count: usize) -> Vec<Prompt> {
    let maker = Maker::default();
    let mut prompts: Vec<Prompt> =
        maker.ordinary(Shape::Prompt, count).into_iter().map(|record| record.prompt).collect();
    for (index, prompt) in prompts.iter_mut().enumerate() {
        prompt.tags = vec![format!("domain:{}", ["home", "words", "science"][index % 3])];
        if index % 2 == 1 {
            prompt.tags.push(format!("round:{}", 1 + index % 3));
        }
        prompt.text = Text::user(format!("{} ({index})", prompt.text.gist()));
    }
    prompts
}

/// Returns prompts of 1 KiB, without tags.
fn large_pool() -> Vec<Prompt> {
    let records = limits::full_batch(&Maker::default(), Shape::Plain);
    let one = |record: crate::record::Record| {
        let completion = record.variants.first().and_then(|variant| variant.completion.as_ref());
        let text = completion.map(|completion| completion.text.clone()).unwrap_or_default();
        Prompt { id: record.prompt.id, text: Text::user(text), tags: Vec::new() }
    };
    records.into_iter().map(one).collect()
}

/// Returns prompts with ids and tags of all scripts, of the greatest length, and with none.
fn awkward_prompts() -> Vec<Prompt> {
    let long = "x".repeat(200);
    let words =
        ["a", "p 1", "👩\u{200d}🔬", "שלום", "\"quoted\"", "{}", "a:b:c", "../x", long.as_str()];
    let one = |(index, word): (usize, &&str)| Prompt {
        id: (*word).to_owned(),
        text: Text::user("Are you there?"),
        tags: words[..index].iter().map(|word| (*word).to_owned()).collect(),
    };
    words.iter().enumerate().map(one).collect()
}

fn candidates(prompts: Vec<Prompt>) -> Vec<Candidate> {
    let one = |prompt: Prompt| Candidate {
        id: prompt.id,
        tags: prompt.tags,
        difficulty: None,
        selected: 0,
    };
    prompts.into_iter().map(one).collect()
}
