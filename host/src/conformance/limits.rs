//! How near a plugin comes to the budgets of a call.

use super::records::{Maker, Shape};
use super::report::Report;
use super::said::{PLACE, Said, Subject};
use super::texts;
use crate::plugin::{Limits, Plugin, PluginError, Spent};
use crate::progress::counted;
use crate::record::Record;

/// Records of a full batch, as the host cuts them.
const FULL: usize = 256;
/// Bytes of the texts of its records.
const RECORD_BYTES: usize = 1024;

/// Returns a full batch of records with completions of 1 KiB.
pub fn full_batch(maker: &Maker, shape: Shape) -> Vec<Record> {
    let text = texts::of_bytes(FULL * RECORD_BYTES);
    let one = |index: usize| {
        let part = &text[index * RECORD_BYTES..(index + 1) * RECORD_BYTES];
        let (prompt, worse) = (&part[..200], &part[512..]);
        maker.record(shape, format!("record-{index}"), prompt, part, worse)
    };
    (0..FULL).map(one).collect()
}

/// Measures calls over records of the shape that takes most: a full batch, and a single large record.
pub fn of_records(report: &mut Report, subject: Subject<'_>, maker: &Maker, working: &[Shape]) {
    let costly = |shape: &&Shape| {
        let said = subject.records(&maker.ordinary(**shape, 12));
        said.map_or(0, |said| said.spent.fuel)
    };
    let Some(&shape) = working.iter().max_by_key(costly) else { return };
    let records = full_batch(maker, shape);
    let of = format!("{} of 1 KiB, {}", counted(records.len() as u64, "records"), shape.as_str());
    shares(report, subject, "limits in a full batch", &of, &|subject| subject.records(&records));
    let text = texts::near_the_limit();
    let large = [maker.record(shape, "record".into(), &text[..200], &text, &text[..1000])];
    let of = format!("a completion of {} KiB, {}", text.len() >> 10, shape.as_str());
    shares(report, subject, "limits with a large record", &of, &|subject| subject.records(&large));
}

/// Notes what share of each budget calls take.
pub fn shares(
    report: &mut Report,
    subject: Subject<'_>,
    check: &str,
    of: &str,
    call: &dyn Fn(Subject<'_>) -> Result<Said, PluginError>,
) {
    let about = Some(subject.interface);
    let said = match call(subject) {
        Ok(said) => said,
        Err(error) => return report.fail(about, check, format!("over 100 %: {of}\n{error}")),
    };
    let limits = &subject.plugin.setup().limits;
    let fuel = 100.0 * fuel_of_a_call(subject.plugin, said.spent) / limits.fuel as f64;
    let memory = 100.0 * said.spent.memory_bytes as f64 / limits.memory_bytes as f64;
    let copied = least(subject, call, &|limits, share| {
        limits.copied_bytes = (limits.copied_bytes as f64 * share) as usize;
    });
    let log = least(subject, call, &|limits, share| {
        limits.log_bytes = (limits.log_bytes as f64 * share) as usize;
    });
    let found = format!(
        "{of}: fuel {}, memory {}, copied bytes {copied}, log {log}",
        percent(fuel),
        percent(memory)
    );
    report.ok(about, check, found);
}

fn percent(share: f64) -> String {
    match share {
        share if share < 0.1 => "under 0.1 %".to_owned(),
        share if share < 10.0 => format!("{share:.1} %"),
        share => format!("{share:.0} %"),
    }
}

/// Returns what one call took on average, of those that took `spent` without what instances take to start.
pub fn fuel_of_a_call(plugin: &Plugin, spent: Spent) -> f64 {
    let idle = plugin.start(&PLACE).unwrap_or_default();
    let fuel = spent.fuel.saturating_sub(idle.fuel * spent.instances);
    let calls = spent.calls.saturating_sub(idle.calls * spent.instances);
    fuel as f64 / calls.max(1) as f64
}

/// Returns the least share of a budget with which calls still go well, of some that are tried.
fn least(
    subject: Subject<'_>,
    call: &dyn Fn(Subject<'_>) -> Result<Said, PluginError>,
    set: &dyn Fn(&mut Limits, f64),
) -> String {
    for percent in [1, 5, 10, 25, 50, 75] {
        let mut setup = subject.plugin.setup().clone();
        set(&mut setup.limits, f64::from(percent) / 100.0);
        let Ok(plugin) = subject.plugin.configure(setup) else { continue };
        if call(Subject { plugin: &plugin, ..subject }).is_ok() {
            return format!("under {percent} %");
        }
    }
    "over 75 %".to_owned()
}
