//! Between the contract's functions, which take batches, and the traits, which take one record.
//!
//! The `export_…!` macros make a type that implements [`Component`]; the contract's interfaces are
//! implemented here for all such types.

use std::cell::RefCell;
use std::thread::LocalKey;

use crate::bindings::common::aligner::plugin::types;
use crate::bindings::{
    difficulty, filter, judge, meta, principle, prompt_writer, sampler, set_filter,
};
use crate::{
    Answer, Ask, Candidate, Card, Context, Difficulty, Equipment, Error, Exemplar, Filter, Judge,
    Plugin, Principle, Prompt, PromptWriter, Record, Request, Sampler, SetFilter, Slot, Turn,
    Verdict, config,
};

/// The one plugin of a component.
pub trait Component {
    /// What the author wrote.
    type Plugin: Plugin;
    /// The version of the author's crate.
    const VERSION: &'static str;
    /// Where the plugin lives between calls; empty until it is configured.
    fn instance() -> &'static LocalKey<RefCell<Option<Self::Plugin>>>;
}

impl<C: Component> meta::exports::aligner::plugin::meta::Guest for C {
    fn describe() -> meta::exports::aligner::plugin::meta::Description {
        send_panics_to_the_log();
        meta::exports::aligner::plugin::meta::Description {
            name: C::Plugin::NAME.into(),
            version: C::VERSION.into(),
            summary: C::Plugin::SUMMARY.into(),
            config_schema: C::Plugin::CONFIG_SCHEMA.into(),
            needs: C::Plugin::NEEDS.iter().map(|&name| name.into()).collect(),
        }
    }

    fn configure(text: String) -> Result<(), types::Error> {
        send_panics_to_the_log();
        let plugin = config::parse(&text).and_then(C::Plugin::new).map_err(|error| error.at(""))?;
        C::instance().set(Some(plugin));
        Ok(())
    }
}

impl<C: Component<Plugin: Principle>> principle::exports::aligner::plugin::principle::Guest for C {
    fn catalogue() -> Result<Vec<Exemplar>, types::Error> {
        with::<C, _>(|plugin| plugin.catalogue().map_err(|error| error.at("the catalogue")))
    }

    fn render(
        context: Context,
        batch: Vec<Turn>,
    ) -> Result<Vec<principle::exports::aligner::plugin::principle::Reply>, types::Error> {
        use principle::exports::aligner::plugin::principle::Reply;
        with::<C, _>(|plugin| {
            each(batch, Reply::Ask, Reply::Done, |record, ask| plugin.render(&context, record, ask))
        })
    }
}

impl<C: Component<Plugin: Sampler>> sampler::exports::aligner::plugin::sampler::Guest for C {
    fn select(
        context: Context,
        pool: Vec<Candidate>,
        seed: u64,
    ) -> Result<Vec<String>, types::Error> {
        with::<C, _>(|plugin| {
            plugin.select(&context, &pool, seed).map_err(|error| error.at("the pool"))
        })
    }

    fn equip(
        context: Context,
        batch: Vec<Slot>,
        catalogue: Vec<Card>,
    ) -> Result<Vec<Equipment>, types::Error> {
        with::<C, _>(|plugin| {
            let equip = |slot: &Slot| {
                plugin.equip(&context, slot, &catalogue).map_err(|error| error.at(&named(&slot.id)))
            };
            batch.iter().map(equip).collect()
        })
    }
}

impl<C: Component<Plugin: PromptWriter>>
    prompt_writer::exports::aligner::plugin::prompt_writer::Guest for C
{
    fn write(
        context: Context,
        pool: Vec<Prompt>,
        batch: Vec<prompt_writer::exports::aligner::plugin::prompt_writer::Slot>,
    ) -> Result<Vec<prompt_writer::exports::aligner::plugin::prompt_writer::Reply>, types::Error>
    {
        use prompt_writer::exports::aligner::plugin::prompt_writer::{Reply, Slot};
        with::<C, _>(|plugin| {
            let write = |Slot { index, seed, answers }: Slot| {
                let write = |ask: &mut Ask| plugin.write(&context, &pool, index, ask);
                one(seed, answers, Reply::Ask, Reply::Done, write)
                    .map_err(|error| error.at(&format!("slot {index}")))
            };
            batch.into_iter().map(write).collect()
        })
    }
}

impl<C: Component<Plugin: Filter>> filter::exports::aligner::plugin::filter::Guest for C {
    fn filter(
        context: Context,
        batch: Vec<Turn>,
    ) -> Result<Vec<filter::exports::aligner::plugin::filter::Reply>, types::Error> {
        use filter::exports::aligner::plugin::filter::Reply;
        with::<C, _>(|plugin| {
            each(batch, Reply::Ask, Reply::Done, |record, ask| plugin.filter(&context, record, ask))
        })
    }
}

impl<C: Component<Plugin: SetFilter>> set_filter::exports::aligner::plugin::set_filter::Guest
    for C
{
    fn observe(context: Context, batch: Vec<Record>) -> Result<(), types::Error> {
        with::<C, _>(|plugin| {
            batch.iter().try_for_each(|record| {
                plugin
                    .observe(&context, record)
                    .map_err(|error| error.at(&named(&record.prompt.id)))
            })
        })
    }

    fn decide(context: Context, batch: Vec<Record>) -> Result<Vec<Verdict>, types::Error> {
        with::<C, _>(|plugin| {
            let decide = |record: &Record| {
                plugin.decide(&context, record).map_err(|error| error.at(&named(&record.prompt.id)))
            };
            batch.iter().map(decide).collect()
        })
    }
}

impl<C: Component<Plugin: Judge>> judge::exports::aligner::plugin::judge::Guest for C {
    fn judge(
        context: Context,
        batch: Vec<Turn>,
    ) -> Result<Vec<judge::exports::aligner::plugin::judge::Reply>, types::Error> {
        use judge::exports::aligner::plugin::judge::Reply;
        with::<C, _>(|plugin| {
            each(batch, Reply::Ask, Reply::Done, |record, ask| plugin.judge(&context, record, ask))
        })
    }
}

impl<C: Component<Plugin: Difficulty>> difficulty::exports::aligner::plugin::difficulty::Guest
    for C
{
    fn score(
        context: Context,
        batch: Vec<Turn>,
    ) -> Result<Vec<difficulty::exports::aligner::plugin::difficulty::Reply>, types::Error> {
        use difficulty::exports::aligner::plugin::difficulty::Reply;
        with::<C, _>(|plugin| {
            each(batch, Reply::Ask, Reply::Done, |record, ask| plugin.score(&context, record, ask))
        })
    }
}

/// Works with the configured plugin.
fn with<C: Component, T>(
    work: impl FnOnce(&mut C::Plugin) -> Result<T, types::Error>,
) -> Result<T, types::Error> {
    C::instance().with_borrow_mut(|plugin| match plugin {
        Some(plugin) => work(plugin),
        None => Err(types::Error::Internal("called before `configure`".into())),
    })
}

/// Works through the turns of a batch.
fn each<T, R>(
    batch: Vec<Turn>,
    ask: fn(Vec<Request>) -> R,
    done: fn(T) -> R,
    work: impl Fn(&Record, &mut Ask) -> Result<T, Error>,
) -> Result<Vec<R>, types::Error> {
    let reply = |Turn { record, seed, answers }: Turn| {
        one(seed, answers, ask, done, |ask| work(&record, ask))
            .map_err(|error| error.at(&named(&record.prompt.id)))
    };
    batch.into_iter().map(reply).collect()
}

/// Works on one record. Whatever came of it, requests without an answer come first: an author may
/// have made several before looking at any result.
fn one<T, R>(
    seed: u64,
    answers: Vec<Answer>,
    ask: fn(Vec<Request>) -> R,
    done: fn(T) -> R,
    work: impl FnOnce(&mut Ask) -> Result<T, Error>,
) -> Result<R, Error> {
    let mut conversation = Ask::new(seed, answers);
    let outcome = work(&mut conversation);
    match conversation.into_pending() {
        requests if requests.is_empty() => outcome.map(done),
        requests => Ok(ask(requests)),
    }
}

fn named(record: &str) -> String {
    format!("record `{record}`")
}

/// A panic ends in a trap that says nothing; its text goes to the log before.
fn send_panics_to_the_log() {
    #[cfg(target_arch = "wasm32")]
    {
        static ONCE: std::sync::Once = std::sync::Once::new();
        ONCE.call_once(|| {
            std::panic::set_hook(Box::new(|panic| crate::log::error(&panic.to_string())));
        });
    }
}

/// Exports a plugin of one kind or several, for example `export_plugin!(Mine: filter, difficulty)`.
///
/// The kinds are `principle`, `sampler`, `prompt_writer` (with `sampler`), `filter`, `set_filter`,
/// `judge` and `difficulty`; the type implements the trait of each. Outside wasm the macro only
/// checks that.
#[macro_export]
macro_rules! export_plugin {
    ($plugin:ty: $($kind:ident),+ $(,)?) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            struct Component;

            impl $crate::glue::Component for Component {
                type Plugin = $plugin;
                const VERSION: &'static str = ::core::env!("CARGO_PKG_VERSION");

                fn instance()
                -> &'static ::std::thread::LocalKey<::core::cell::RefCell<Option<$plugin>>> {
                    ::std::thread_local! {
                        static PLUGIN: ::core::cell::RefCell<Option<$plugin>> =
                            const { ::core::cell::RefCell::new(None) };
                    }
                    &PLUGIN
                }
            }

            $crate::bindings::meta::__export_meta!(Component with_types_in $crate::bindings::meta);
            $($crate::__export_kind!($kind);)+
        };

        #[cfg(not(target_arch = "wasm32"))]
        const _: () = {
            const fn assert_plugin<T: $crate::Plugin>() {}
            assert_plugin::<$plugin>();
            $($crate::__assert_kind!($kind, $plugin);)+
        };
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __export_kind {
    (principle) => {
        $crate::bindings::principle::__export_principle!(
            Component with_types_in $crate::bindings::principle);
    };
    (sampler) => {
        $crate::bindings::sampler::__export_sampler!(
            Component with_types_in $crate::bindings::sampler);
    };
    (prompt_writer) => {
        $crate::bindings::prompt_writer::__export_prompt_writer!(
            Component with_types_in $crate::bindings::prompt_writer);
    };
    (filter) => {
        $crate::bindings::filter::__export_filter!(
            Component with_types_in $crate::bindings::filter);
    };
    (set_filter) => {
        $crate::bindings::set_filter::__export_set_filter!(
            Component with_types_in $crate::bindings::set_filter);
    };
    (judge) => {
        $crate::bindings::judge::__export_judge!(
            Component with_types_in $crate::bindings::judge);
    };
    (difficulty) => {
        $crate::bindings::difficulty::__export_difficulty!(
            Component with_types_in $crate::bindings::difficulty);
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __assert_kind {
    (principle, $plugin:ty) => { $crate::__assert_kind!(@ Principle, $plugin); };
    (sampler, $plugin:ty) => { $crate::__assert_kind!(@ Sampler, $plugin); };
    (prompt_writer, $plugin:ty) => { $crate::__assert_kind!(@ PromptWriter, $plugin); };
    (filter, $plugin:ty) => { $crate::__assert_kind!(@ Filter, $plugin); };
    (set_filter, $plugin:ty) => { $crate::__assert_kind!(@ SetFilter, $plugin); };
    (judge, $plugin:ty) => { $crate::__assert_kind!(@ Judge, $plugin); };
    (difficulty, $plugin:ty) => { $crate::__assert_kind!(@ Difficulty, $plugin); };
    (@ $kind:ident, $plugin:ty) => {
        const _: () = {
            const fn assert_kind<T: $crate::$kind>() {}
            assert_kind::<$plugin>();
        };
    };
}

/// Exports a principle plugin: a type that implements [`Principle`](crate::Principle).
#[macro_export]
macro_rules! export_principle {
    ($plugin:ty) => {
        $crate::export_plugin!($plugin: principle);
    };
}

/// Exports a sampler plugin: a type that implements [`Sampler`](crate::Sampler).
#[macro_export]
macro_rules! export_sampler {
    ($plugin:ty) => {
        $crate::export_plugin!($plugin: sampler);
    };
}

/// Exports a sampler plugin that writes prompts: a type that implements [`PromptWriter`](crate::PromptWriter).
#[macro_export]
macro_rules! export_prompt_writer {
    ($plugin:ty) => {
        $crate::export_plugin!($plugin: sampler, prompt_writer);
    };
}

/// Exports a filter plugin: a type that implements [`Filter`](crate::Filter).
#[macro_export]
macro_rules! export_filter {
    ($plugin:ty) => {
        $crate::export_plugin!($plugin: filter);
    };
}

/// Exports a filter plugin over the whole stage: a type that implements [`SetFilter`](crate::SetFilter).
#[macro_export]
macro_rules! export_set_filter {
    ($plugin:ty) => {
        $crate::export_plugin!($plugin: set_filter);
    };
}

/// Exports a judge plugin: a type that implements [`Judge`](crate::Judge).
#[macro_export]
macro_rules! export_judge {
    ($plugin:ty) => {
        $crate::export_plugin!($plugin: judge);
    };
}

/// Exports a difficulty plugin: a type that implements [`Difficulty`](crate::Difficulty).
#[macro_export]
macro_rules! export_difficulty {
    ($plugin:ty) => {
        $crate::export_plugin!($plugin: difficulty);
    };
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::thread::LocalKey;

    use super::*;
    use crate::bindings::difficulty::exports::aligner::plugin::difficulty::{
        Guest as DifficultyGuest, Reply as ScoreReply,
    };
    use crate::bindings::filter::exports::aligner::plugin::filter::{Guest as FilterGuest, Reply};
    use crate::bindings::meta::exports::aligner::plugin::meta::Guest as MetaGuest;
    use crate::{GenerateRequest, Text, testing};

    /// Drops what the model calls bad. One plugin of two kinds.
    struct Polite(bool);

    impl Plugin for Polite {
        type Config = ();
        const NAME: &'static str = "polite";
        const SUMMARY: &'static str = "For tests.";
        const NEEDS: &'static [&'static str] = &["perplexity(few-shot)"];

        fn new(_: ()) -> Result<Self, Error> {
            Ok(Polite(true))
        }
    }

    impl Filter for Polite {
        fn filter(&self, _: &Context, record: &Record, ask: &mut Ask) -> Result<Verdict, Error> {
            if record.prompt.id == "broken" {
                return Err(Error::Input("no completion".into()));
            }
            let prompt = Text::user(record.prompt.text.gist());
            let answer = ask.generate(GenerateRequest::of("policy", prompt))?;
            assert!(self.0);
            Ok(match answer.text.as_str() {
                "bad" => Verdict::Drop("impolite".into()),
                _ => Verdict::Keep,
            })
        }
    }

    impl Difficulty for Polite {
        fn score(&self, _: &Context, _: &Record, ask: &mut Ask) -> Result<f64, Error> {
            Ok(ask.rng().uniform())
        }
    }

    crate::export_plugin!(Polite: filter, difficulty);

    struct Test;

    impl Component for Test {
        type Plugin = Polite;
        const VERSION: &'static str = "1.2.3";

        fn instance() -> &'static LocalKey<RefCell<Option<Polite>>> {
            thread_local! {
                static PLUGIN: RefCell<Option<Polite>> = const { RefCell::new(None) };
            }
            &PLUGIN
        }
    }

    fn turn(id: &str, answers: &[&str]) -> Turn {
        let answer = |&text: &&str| match text {
            "?" => Answer::Unanswered("too long".into()),
            text => Answer::Completion(testing::completion(text)),
        };
        let answers = answers.iter().map(answer).collect();
        Turn { record: testing::record(id, "Hello?"), seed: 5, answers }
    }

    #[test]
    fn a_component_describes_itself_and_wants_to_be_configured() {
        let description = Test::describe();
        assert_eq!((description.name.as_str(), description.version.as_str()), ("polite", "1.2.3"));
        assert_eq!(description.needs, ["perplexity(few-shot)"]);

        let early = Test::filter(testing::context(), vec![turn("p-1", &[])]);
        assert_eq!(early, Err(types::Error::Internal("called before `configure`".into())));
        let wrong = Test::configure(r#"{"x": 1}"#.into());
        assert!(matches!(wrong, Err(types::Error::Config(text)) if text.contains("`x`")));
        assert_eq!(Test::configure("{}".into()), Ok(()));
    }

    #[test]
    fn each_turn_gets_its_own_reply_in_order() {
        Test::configure("{}".into()).unwrap();
        let batch = vec![turn("p-1", &["fine"]), turn("p-2", &[]), turn("p-3", &["bad"])];
        let replies = Test::filter(testing::context(), batch).unwrap();
        let asked = GenerateRequest::of("policy", Text::user("Hello?")).into();
        assert_eq!(
            replies,
            [
                Reply::Done(Verdict::Keep),
                Reply::Ask(vec![asked]),
                Reply::Done(Verdict::Drop("impolite".into())),
            ]
        );
        assert_eq!(Test::filter(testing::context(), vec![]), Ok(vec![]));
        let scores = Test::score(testing::context(), vec![turn("p-1", &[]), turn("p-2", &[])]);
        assert!(
            matches!(scores.unwrap()[..], [ScoreReply::Done(a), ScoreReply::Done(b)] if a == b)
        );
    }

    #[test]
    fn errors_name_the_record() {
        Test::configure("{}".into()).unwrap();
        let check = |turn: Turn, expected: &str| {
            let replies = Test::filter(testing::context(), vec![turn]);
            assert_eq!(replies, Err(types::Error::Input(expected.into())));
        };
        check(turn("broken", &[]), "record `broken`: no completion");
        check(turn("p-2", &["?"]), "record `p-2`: the model gave no answer: too long");
    }
}
