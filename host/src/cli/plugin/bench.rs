//! `aligner plugin bench`: what a plugin takes, beside another one of its kind, in one process and in turn.

use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::json;

use super::{BenchArgs, data, kind};
use crate::{
    cli::{CliError, host, output},
    conformance::{MOST_DATA, PLACE, Workload, fuel_of_a_call},
    plugin::{Interface, Kind, Limits, Loaded, Plugin, PluginError, Runtime, Source},
};

/// Rounds of both plugins, at least.
const LEAST_ROUNDS: usize = 5;
/// Instances that are started to time that.
const STARTS: usize = 50;

/// What was measured of one plugin.
#[derive(Clone, Debug, Serialize)]
struct Measured {
    plugin: String,
    name: String,
    version: String,
    bytes: usize,
    /// Checking and compiling the file, where that is known.
    compile_milliseconds: Option<f64>,
    /// Loading it from the cache of compiled plugins.
    load_milliseconds: f64,
    /// Making and configuring an instance.
    start_microseconds: f64,
    /// Of one item in a full batch: converting, calling, checking what comes back.
    item_microseconds: f64,
    /// Of the items' texts.
    megabytes_a_second: f64,
    fuel_an_item: f64,
    memory_bytes: u64,
    requests_an_item: f64,
}

/// Times the plugin and what it is compared with.
pub fn main(args: &BenchArgs) -> Result<(), CliError> {
    let progress = args.shown.open();
    let runtime = host::runtime()?;
    let mine = super::named(&args.file, &progress)?;
    let loaded = runtime.open(&mine, &Limits::default())?;
    let interface = interface(&loaded, kind(&loaded, args.kind)?);
    let rival_name = args.against.clone().unwrap_or_else(|| rival(interface).to_owned());
    let rival = super::named(&rival_name, &progress)?;
    let other = runtime.open(&rival, &Limits::default())?;
    let data = match &args.data {
        Some(path) => data::some(path, MOST_DATA)?,
        None => Vec::new(),
    };
    let config = args.config.as_deref().unwrap_or("{}");
    let both = [(&loaded, config), (&other, "{}")];
    let (workload, plugins) = Workload::find(interface, &data, &both)?;

    let bar = progress.stage("bench", args.seconds, "seconds");
    let times = in_turn(&workload, &plugins, Duration::from_secs(args.seconds), &mut bar.follow())?;
    bar.finish();
    let sources = [(&args.file, &mine), (&rival_name, &rival)];
    let measured: Vec<Measured> = sources
        .into_iter()
        .zip(plugins.iter().zip(times))
        .map(|((name, source), (plugin, seconds))| {
            measure(&runtime, (name, source), plugin, &workload, seconds)
        })
        .collect::<Result<_, CliError>>()?;
    let [mine, rival] = &measured[..] else {
        return Err(CliError::usage("there are two plugins to time"));
    };
    if args.json {
        let found = json!({
            "aligner": env!("CARGO_PKG_VERSION"),
            "interface": interface.as_str(),
            "items": workload.items,
            "of": workload.name,
            "plugins": measured,
            "item_microseconds_ratio": mine.item_microseconds / rival.item_microseconds,
        });
        return output::print(&format!("{found:#}\n"));
    }
    output::print(&table(&workload, mine, rival))
}

/// How a component of that kind is called.
fn interface(loaded: &Loaded, kind: Kind) -> Interface {
    let has = |interface: &&Interface| interface.kind() == kind;
    // Of a sampler that writes prompts, that is what takes time.
    loaded.interfaces().iter().rev().find(has).copied().unwrap_or(Interface::Filter)
}

/// What a plugin is compared with where nothing else is named: the shipped one of the same kind that does
/// least, or about as little as any.
fn rival(interface: Interface) -> &'static str {
    match interface {
        Interface::Filter => "builtin:length",
        Interface::SetFilter => "builtin:rouge-l",
        Interface::Judge => "builtin:reward-model",
        Interface::Difficulty => "builtin:perplexity",
        Interface::Principle => "builtin:contrast",
        Interface::Sampler => "builtin:exemplars",
        Interface::PromptWriter => "builtin:self-instruct",
    }
}

/// Calls one plugin after the other, again and again. Returns the median of each one's seconds.
fn in_turn(
    workload: &Workload,
    plugins: &[Plugin],
    most: Duration,
    heard: &mut dyn FnMut(u64),
) -> Result<Vec<f64>, PluginError> {
    let mut times: Vec<Vec<f64>> = plugins.iter().map(|_| Vec::new()).collect();
    let begun = Instant::now();
    let mut rounds = 0;
    while begun.elapsed() < most || rounds < LEAST_ROUNDS {
        // Which of them is first changes, so that neither always finds the caches as the other left them.
        for place in 0..plugins.len() {
            let place = (place + rounds) % plugins.len();
            let start = Instant::now();
            workload.call(&plugins[place])?;
            times[place].push(start.elapsed().as_secs_f64());
        }
        rounds += 1;
        heard(begun.elapsed().min(most).as_secs());
    }
    Ok(times.into_iter().map(median).collect())
}

fn measure(
    runtime: &Runtime,
    (name, source): (&str, &Source),
    plugin: &Plugin,
    workload: &Workload,
    seconds: f64,
) -> Result<Measured, CliError> {
    let begun = Instant::now();
    let loaded = runtime.open(source, &Limits::default())?;
    let load = begun.elapsed();
    let mut starts = Vec::with_capacity(STARTS);
    for _ in 0..STARTS {
        let begun = Instant::now();
        plugin.start(&PLACE)?;
        starts.push(begun.elapsed().as_secs_f64());
    }
    let spent = workload.call(plugin)?.spent;
    let items = workload.items as f64;
    let idle = plugin.start(&PLACE)?;
    let calls = spent.calls.saturating_sub(idle.calls * spent.instances);
    Ok(Measured {
        plugin: name.to_owned(),
        name: plugin.name().to_owned(),
        version: plugin.version().to_owned(),
        bytes: source.len(),
        compile_milliseconds: loaded.compiled_in().map(|time| time.as_secs_f64() * 1e3),
        load_milliseconds: load.as_secs_f64() * 1e3,
        start_microseconds: median(starts) * 1e6,
        item_microseconds: seconds * 1e6 / items,
        megabytes_a_second: workload.bytes as f64 / seconds / 1e6,
        fuel_an_item: fuel_of_a_call(plugin, spent) * calls as f64 / items,
        memory_bytes: spent.memory_bytes,
        requests_an_item: spent.requests as f64 / items,
    })
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or_default()
}

fn table(workload: &Workload, mine: &Measured, rival: &Measured) -> String {
    let mut text = format!("{} {}, one batch, medians\n\n", workload.items, workload.name);
    let mut row = |cells: [&str; 4]| {
        let [name, mine, rival, ratio] = cells;
        let line = format!("{name:<28}{mine:>18}{rival:>24}{ratio:>9}");
        text.push_str(line.trim_end());
        text.push('\n');
    };
    row(["", &shown(&mine.plugin), &shown(&rival.plugin), "ratio"]);
    let mut number = |name: &str, value: &dyn Fn(&Measured) -> f64| {
        let (mine, rival) = (value(mine), value(rival));
        let ratio = match rival > 0.0 {
            true => format!("{:.2}", mine / rival),
            false => String::new(),
        };
        row([name, &digits(mine), &digits(rival), &ratio]);
    };
    number("µs a record", &|it| it.item_microseconds);
    number("MB/s", &|it| it.megabytes_a_second);
    number("fuel a record", &|it| it.fuel_an_item);
    number("memory, MiB", &|it| it.memory_bytes as f64 / f64::from(1 << 20));
    number("requests a record", &|it| it.requests_an_item);
    number("start of an instance, µs", &|it| it.start_microseconds);
    number("load from the cache, ms", &|it| it.load_milliseconds);
    number("compile, ms", &|it| it.compile_milliseconds.unwrap_or_default());
    number("file, kB", &|it| it.bytes as f64 / 1e3);
    text
}

/// Returns the end of a name that is too long for its column.
fn shown(name: &str) -> String {
    let count = name.chars().count();
    match count > 17 {
        true => format!("…{}", name.chars().skip(count - 16).collect::<String>()),
        false => name.to_owned(),
    }
}

fn digits(number: f64) -> String {
    match number {
        number if number >= 100.0 => format!("{number:.0}"),
        number if number >= 1.0 => format!("{number:.1}"),
        number => format!("{number:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_fit_their_columns() {
        assert_eq!([12345.6, 12.34, 0.129].map(digits), ["12346", "12.3", "0.13"]);
        assert_eq!(shown("builtin:length"), "builtin:length");
        assert_eq!(shown("target/some/where/plugin.wasm"), "…here/plugin.wasm");
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
    }
}
