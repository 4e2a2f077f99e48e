//! The plugins, plugin sets and data that ship inside the aligner binary.
//!
//! Names are those after `builtin:` in a plugin set, without an extension.

include!(concat!(env!("OUT_DIR"), "/lists.rs"));

/// Every shipped plugin: its name and its component, sorted by name.
pub const COMPONENTS: &[(&str, &[u8])] = COMPONENT_LIST;

/// Every shipped plugin set: its name and its text, sorted by name.
pub const PLUGIN_SETS: &[(&str, &str)] = PLUGIN_SET_LIST;

/// Every shipped data file: its name and its JSON lines, sorted by name.
pub const DATA: &[(&str, &str)] = DATA_LIST;

/// What a plugin's author gets: SDKs, templates and the contract, each file by its path in this
/// repository, such as `sdk/js/index.js`, sorted.
pub const FOR_AUTHORS: &[(&str, &str)] = AUTHORS_LIST;

/// Returns the component of a plugin, for example `self-align`.
pub fn component(name: &str) -> Option<&'static [u8]> {
    find(COMPONENTS, name)
}

/// Returns the names of all plugins, sorted.
pub fn component_names() -> impl Iterator<Item = &'static str> {
    COMPONENTS.iter().map(|(name, _)| *name)
}

/// Returns the text of a plugin set, for example `soft-plus`.
pub fn plugin_set(name: &str) -> Option<&'static str> {
    find(PLUGIN_SETS, name)
}

/// Returns the text of a data file, for example `prompts-240`: one JSON object a line.
pub fn data(name: &str) -> Option<&'static str> {
    find(DATA, name)
}

fn find<T: ?Sized>(list: &[(&str, &'static T)], name: &str) -> Option<&'static T> {
    list.iter().find(|(each, _)| *each == name).map(|(_, item)| *item)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use wasmparser::{ComponentExternName, Parser, Payload, Validator, WasmFeatures};

    use super::*;

    /// Returns the names of what a component imports and exports at its outermost level.
    fn interfaces(component: &[u8]) -> (BTreeSet<String>, BTreeSet<String>) {
        let (mut imports, mut exports) = (BTreeSet::new(), BTreeSet::new());
        let mut depth = 0;
        let text = |ComponentExternName { name, .. }: ComponentExternName<'_>| name.to_owned();
        for payload in Parser::new(0).parse_all(component) {
            match payload.unwrap() {
                Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
                Payload::End(_) if depth > 0 => depth -= 1,
                Payload::ComponentImportSection(section) if depth == 0 => {
                    imports.extend(section.into_iter().map(|it| text(it.unwrap().name)));
                }
                Payload::ComponentExportSection(section) if depth == 0 => {
                    exports.extend(section.into_iter().map(|it| text(it.unwrap().name)));
                }
                _ => {}
            }
        }
        (imports, exports)
    }

    #[test]
    fn every_plugin_is_a_component_of_its_kind() {
        let check = |name: &str, kinds: &[&str]| {
            let component = component(name).unwrap();
            Validator::new_with_features(WasmFeatures::all()).validate_all(component).unwrap();
            let (imports, exports) = interfaces(component);
            let expected = [&["meta"], kinds].concat();
            let expected = expected.iter().map(|it| format!("aligner:plugin/{it}@0.1.1"));
            assert_eq!(exports, expected.collect(), "{name}");
            let allowed =
                ["log", "types", "verdicts"].map(|it| format!("aligner:plugin/{it}@0.1.1"));
            assert!(imports.is_subset(&allowed.into()), "{name}: {imports:?}");
        };
        check("contrast", &["principle"]);
        check("contrast-cleanup", &["filter"]);
        check("density", &["set-filter"]);
        check("exemplars", &["sampler"]);
        check("grade", &["judge"]);
        check("instruction-rules", &["filter"]);
        check("length", &["filter"]);
        check("logprob-order", &["set-filter"]);
        check("output-rules", &["filter"]);
        check("pairwise", &["judge"]);
        check("perplexity", &["difficulty"]);
        check("perplexity-filter", &["filter"]);
        check("reward-model", &["judge"]);
        check("rouge-l", &["set-filter"]);
        check("self-align", &["principle"]);
        check("self-align-format", &["filter"]);
        check("self-assessment", &["judge"]);
        check("self-instruct", &["sampler", "prompt-writer"]);
        check("sso", &["principle"]);
        check("threshold", &["filter"]);
        check("topic-guided", &["sampler", "prompt-writer"]);
        assert_eq!(component_names().count(), 21);
    }

    #[test]
    fn components_are_small_and_say_nothing_of_the_machine_that_built_them() {
        let home = std::env::home_dir().unwrap();
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
        let source = std::fs::canonicalize(source).unwrap();
        for (name, component) in COMPONENTS {
            assert!(component.len() < 300_000, "{name}: {} bytes", component.len());
            for folder in [&home, &source] {
                let folder = format!("{}/", folder.display());
                let found = component.windows(folder.len()).any(|it| it == folder.as_bytes());
                assert!(!found, "{name} contains `{folder}`");
            }
        }
    }

    #[test]
    fn every_line_of_data_is_a_prompt_with_an_id_of_its_own() {
        let check = |name: &str, lines: usize, answers: bool| {
            let mut ids = BTreeSet::new();
            for line in data(name).unwrap().lines() {
                let line: serde_json::Value = serde_json::from_str(line).unwrap();
                assert!(!line["prompt"].as_str().unwrap().is_empty(), "{line}");
                assert_eq!(line["answer"].is_string(), answers, "{line}");
                ids.insert(line["id"].as_str().unwrap().to_owned());
            }
            assert_eq!(ids.len(), lines, "{name}");
        };
        check("prompts-240", 240, false);
        check("seed-tasks", 60, false);
        check("trusted-40", 40, true);
        assert_eq!(DATA.len(), 3);
    }

    #[test]
    fn every_plugin_set_names_plugins_and_data_that_are_there() {
        for (name, text) in PLUGIN_SETS {
            let set: toml::Table = text.parse().unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(set["method"]["name"].as_str(), Some(*name));
            let filters =
                set.get("filter").and_then(|filters| filters.as_array()).into_iter().flatten();
            for user in filters
                .chain(["principle", "sampler", "difficulty"].iter().filter_map(|it| set.get(*it)))
            {
                let plugin = user["plugin"].as_str().unwrap().strip_prefix("builtin:").unwrap();
                assert!(component(plugin).is_some(), "{name}: {plugin}");
            }
            for key in ["prompts", "held_out"] {
                let file = set["data"][key].as_str().unwrap().strip_prefix("builtin:").unwrap();
                assert!(data(file).is_some(), "{name}: {file}");
            }
        }
        let names: Vec<_> = PLUGIN_SETS.iter().map(|(name, _)| *name).collect();
        assert_eq!(
            names,
            [
                "dromedary",
                "expo",
                "i-sheep",
                "rlcd",
                "self-instruct",
                "soft",
                "soft-plus",
                "sso",
                "sso-v2"
            ]
        );
    }

    #[test]
    fn authors_get_sources_and_nothing_that_was_built() {
        let of =
            |start: &str| FOR_AUTHORS.iter().filter(|(path, _)| path.starts_with(start)).count();
        // A manifest, a README, a .gitignore, and two files for each of seven kinds; in Rust one for each.
        assert_eq!(of("sdk/templates/python/"), 17);
        assert_eq!(of("sdk/templates/js/"), 17);
        assert_eq!(of("sdk/templates/rust/"), 10);
        assert_eq!(of("wit/"), 7);
        for (path, _) in FOR_AUTHORS {
            let extension = path.rsplit_once('.').map(|(_, extension)| extension);
            let known = ["gitignore", "json", "js", "md", "py", "rs", "toml", "ts", "typed", "wit"];
            assert!(extension.is_some_and(|it| known.contains(&it)), "{path}");
        }
    }

    #[test]
    fn unknown_names_have_nothing() {
        assert!(component("self_align").is_none());
        assert!(plugin_set("soft-plus.toml").is_none());
        assert!(data("").is_none());
    }
}
