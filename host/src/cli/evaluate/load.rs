//! From what the user names to a plugin that can be called on rows.

use super::batch::{FIRST, SECOND};
use super::oracle::grant;
use super::plugins::Wanted;
use crate::{
    cli::host,
    evaluate::summary::Who,
    plugin::{Kind, Limits, OnError, Plugin, Runtime, Setup},
    progress::Progress,
    round::{GRAMMAR, Need, What},
};

/// What plugins are called on, and with what.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Whether the rows are pairs.
    pub pairs: bool,
    /// Whether there is a model that writes.
    pub measures: bool,
    /// Tokens that the answers to one plugin may have.
    pub ask_tokens: Option<u64>,
}

/// Loads a plugin, with what is to be measured for it, or says why it cannot be called: where it needs
/// measurements and none of them can be made, for example. `bytes` is the size of its file, as soon as that
/// is known.
pub fn load(
    runtime: &Runtime,
    wanted: &Wanted,
    terms: Terms,
    bytes: &mut usize,
    progress: &Progress,
) -> Result<(Plugin, Vec<Need>), String> {
    let found = host::fetched(&wanted.source, progress);
    let found = found.map_err(|error| error.to_string())?.component;
    *bytes = found.len();
    let loaded = runtime.open(&found, &Limits::default()).map_err(|error| error.to_string())?;
    let kinds = loaded.kinds();
    let order = if terms.pairs { [Kind::Judge, Kind::Filter] } else { [Kind::Filter, Kind::Judge] };
    let Some(kind) = order.into_iter().find(|kind| kinds.contains(kind)) else {
        return Err("it is neither a filter nor a judge".to_owned());
    };
    let together = kind == Kind::Judge && terms.pairs && !wanted.each;
    let names: &[&str] = if together { &[FIRST, SECOND] } else { &["plain"] };
    let need = |name: &String| need(name, names, terms.measures);
    let (met, unmet): (Vec<_>, Vec<_>) = loaded.needs().iter().map(need).partition(Result::is_ok);
    // As in a run, what a record cannot have is left out.
    let needs: Vec<Need> = met.into_iter().flatten().collect();
    if let (true, Some(Err(why))) = (needs.is_empty(), unmet.into_iter().next()) {
        return Err(why);
    }
    let grant = wanted.ask.then(|| grant(terms.ask_tokens));
    let config = wanted.config.to_string();
    let setup = Setup { config, grant, on_error: OnError::Drop, ..Setup::new(kind) };
    let plugin = loaded.configure(setup).map_err(|error| error.to_string())?;
    Ok((plugin, needs))
}

/// Reads the name of a measurement that can be made here, of completions in variants of these names.
fn need(name: &str, variants: &[&str], measures: bool) -> Result<Need, String> {
    let what = format!("it needs the measurement `{name}`");
    let need = Need::parse(name).ok_or_else(|| format!("{what}; {GRAMMAR}"))?;
    let What::Scored { completion, prompt, .. } = &need.what else {
        return Err(format!(
            "{what}: clusters are among all completions of a round, and rows are read in chunks here"
        ));
    };
    if let Some(other) =
        [completion, prompt].into_iter().find(|it| !variants.contains(&it.as_str()))
    {
        let there =
            variants.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" and ");
        return Err(format!("{what}, and no variant is called `{other}` here; there is {there}"));
    }
    match measures {
        true => Ok(need),
        false => Err(format!(
            "{what}, and there is no model that writes\n\nhint: `--model` names the model that measures it"
        )),
    }
}

/// Returns who a plugin is.
pub fn who(plugin: &Plugin, bytes: usize) -> Who {
    Who {
        name: plugin.name().to_owned(),
        version: plugin.version().to_owned(),
        kind: plugin.identity().kind.to_string(),
        interfaces: plugin.interfaces().iter().map(|it| it.as_str().to_owned()).collect(),
        needs: plugin.needs().to_vec(),
        digest: plugin.digest().to_owned(),
        bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_measured_here_is_promised() {
        let check = |name: &str, measures: bool, expected: &str| {
            let found = need(name, &["plain"], measures).map(|need| need.name);
            match found {
                Ok(found) => assert_eq!(found, expected),
                Err(why) => assert!(why.contains(expected), "{why}\n  lacks\n{expected}"),
            }
        };
        check("perplexity(plain; initial)", true, "perplexity(plain; initial)");
        check("perplexity(plain)", false, "hint: `--model`");
        check(
            "alogp(plain | few-shot)",
            true,
            "no variant is called `few-shot` here; there is `plain`",
        );
        check("cluster(plain)", true, "clusters are among all completions");
        check("rouge", true, "a measurement is");
    }
}
