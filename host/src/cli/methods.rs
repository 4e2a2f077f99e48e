//! `aligner methods`: lists the embedded plugin sets.

use clap::Args;

use super::{CliError, output};
use crate::plugin_set::{self, Embedded, PluginSet, PluginSetError};

/// Arguments of `methods`.
#[derive(Clone, Debug, Args)]
pub struct MethodsArgs {
    /// Print the plugin set of this name, to copy and change
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
}

/// Lists the embedded plugin sets, or prints one.
pub fn main(args: &MethodsArgs, embedded: &Embedded<'_>) -> Result<(), CliError> {
    match &args.name {
        Some(name) => {
            let stem = name.strip_suffix(".toml").unwrap_or(name);
            let found = embedded.plugin_sets.iter().find(|(name, _)| *name == stem);
            let (_, text) = found.ok_or_else(|| PluginSetError::Missing {
                name: name.clone(),
                embedded: embedded.plugin_sets.iter().map(|(name, _)| (*name).into()).collect(),
            })?;
            output::print(text)
        }
        None => output::print(&list(embedded)?),
    }
}

/// Two columns, the second with the summary and the paper below each other.
fn list(embedded: &Embedded<'_>) -> Result<String, CliError> {
    let mut sets: Vec<(&str, PluginSet)> = Vec::new();
    for (name, _) in embedded.plugin_sets {
        let builtin = format!("builtin:{name}");
        sets.push((name, plugin_set::load(builtin.as_ref(), &[], embedded)?.set));
    }
    sets.sort_by(|a, b| a.0.cmp(b.0));
    let width = sets.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for (name, set) in &sets {
        let lines = [&set.method.summary, &set.method.paper];
        let mut left = *name;
        for line in lines.into_iter().flatten() {
            text.push_str(&format!("{left:width$}  {line}\n"));
            left = "";
        }
        if !left.is_empty() {
            text.push_str(&format!("{left}\n"));
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_listed_with_summary_and_paper() {
        let set = |name: &str, more: &str| {
            format!(
                "[method]\nname = \"{name}\"\ncontract = \"0.1\"\n{more}\n[models]\npolicy = \"m\"\n\
                 [data]\nprompts = \"builtin:p\"\n"
            )
        };
        let soft = set("soft", "summary = \"Many rounds\"\npaper = \"https://example.org\"");
        let bare = set("bare", "");
        let sets = [("soft", soft.as_str()), ("bare", bare.as_str())];
        let embedded = Embedded { plugin_sets: &sets, plugins: &[], data: &["p"] };
        assert_eq!(
            list(&embedded).unwrap(),
            "bare\nsoft  Many rounds\n      https://example.org\n"
        );
    }
}
