//! What a plugin set names outside of itself, and where in its text.

use std::ops::Range;

use super::{
    Plugin, PluginSet, Source,
    check::is_model_path,
    typed::{self, Kind, Node, Place},
};

/// A value that names something.
#[derive(Clone, Debug, PartialEq)]
pub struct Named<'a> {
    /// The bytes of the value in the text, quotes included.
    pub span: Range<usize>,
    /// As it was typed.
    pub typed: String,
    /// What it names.
    pub thing: Thing<'a>,
}

/// What a plugin set names.
#[derive(Clone, Debug, PartialEq)]
pub enum Thing<'a> {
    /// A plugin, with what says which one it is.
    Component(&'a Plugin),
    /// Prompts, pairs or held-out prompts.
    Data(&'a Source),
    /// A model.
    Model {
        /// The key in `[models]`.
        key: String,
        /// Its path, where it is a file or folder of this machine.
        path: Option<&'a str>,
        /// Whether it was typed as a path is: it is one wherever the text lies.
        typed_as_path: bool,
    },
}

/// Returns all that `text` names, where `set` is what it was checked to be: without overrides, so that
/// nothing is named elsewhere.
pub fn named<'a>(text: &str, set: &'a PluginSet) -> Vec<Named<'a>> {
    let Ok(root) = typed::parse(text) else { return Vec::new() };
    let mut found = Vec::new();
    let mut add = |node: Option<&Node>, thing: Thing<'a>| {
        if let Some(Node { kind: Kind::String(typed), place: Place::File(span) }) = node {
            found.push(Named { span: span.clone(), typed: typed.clone(), thing });
        }
    };
    for (key, node) in entries(child(&root, "models")) {
        // Of a model on a server, its base is what is here.
        let node = match node.kind {
            Kind::Table(_) => child(node, "base").unwrap_or(node),
            _ => node,
        };
        let name = node.as_text().unwrap_or_default();
        let model = match key {
            "policy" | "initial" => Some(&set.models.policy),
            "aligned" => set.models.aligned.as_ref(),
            key => set.models.named.get(key),
        };
        // Only paths are not left as they were typed, but for those that were absolute.
        let path = model.filter(|model| *model != name || is_model_path(name));
        let path = path.filter(|_| !name.starts_with("hf:")).map(String::as_str);
        let typed_as_path = is_model_path(name);
        add(Some(node), Thing::Model { key: key.to_owned(), path, typed_as_path });
    }
    let data = child(&root, "data");
    let value = |key: &str| data.and_then(|data| child(data, key));
    for (key, source) in set.data.files() {
        add(value(key), Thing::Data(source));
    }
    let filters = match child(&root, "filter").map(|filters| &filters.kind) {
        Some(Kind::Array(filters)) => &filters[..],
        _ => &[],
    };
    let mut filters = filters.iter();
    for (kind, plugin) in set.plugins() {
        let table = match kind {
            "filter" => filters.next(),
            kind => child(&root, kind),
        };
        add(table.and_then(|table| child(table, "plugin")), Thing::Component(plugin));
    }
    found
}

fn entries(table: Option<&Node>) -> impl Iterator<Item = (&str, &Node)> {
    let entries = match table.map(|table| &table.kind) {
        Some(Kind::Table(entries)) => &entries[..],
        _ => &[],
    };
    entries.iter().map(|entry| (entry.key.as_str(), &entry.value))
}

fn child<'n>(table: &'n Node, key: &str) -> Option<&'n Node> {
    entries(Some(table)).find(|(name, _)| *name == key).map(|(_, node)| node)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{Embedded, parse};
    use super::*;

    #[test]
    fn each_name_is_found_where_it_was_typed() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("here")).unwrap();
        let text = "method = { name = 'm', contract = '0.1' }\n\
            models = { initial = \"alias\", \"named\" = 'here', other = \"./there\", hub = \"hf:a/b\" }\n\
            [data]\nprompts = \"builtin:p\"\nheld_out = '''builtin:h'''\n\
            [difficulty]\nplugin = \"builtin:d\"\n\
            [[filter]]\nafter = \"generate\"\nplugin = \"builtin:f\"\n\
            [[filter]]\nafter = 'generate'\nplugin = 'builtin:g'\n\
            [principle]\nplugin = \"\\u0062uiltin:r\"\n";
        let embedded = Embedded { plugins: &["d", "f", "g", "r"], data: &["p", "h"], ..EMBEDDED };
        let set = parse("x", text, folder.path(), Path::new("/"), &[], &embedded).unwrap();
        let found: Vec<String> = named(text, &set)
            .into_iter()
            .map(|named| {
                let thing = match named.thing {
                    Thing::Component(plugin) => format!("component {}", plugin.source),
                    Thing::Data(source) => format!("data {source}"),
                    Thing::Model { key, path, .. } => format!("{key} {}", path.is_some()),
                };
                format!("{} {} {thing}", &text[named.span], named.typed)
            })
            .collect();
        assert_eq!(
            found,
            [
                "\"alias\" alias initial false",
                "'here' here named true",
                "\"./there\" ./there other true",
                "\"hf:a/b\" hf:a/b hub false",
                "\"builtin:p\" builtin:p data builtin:p",
                "'''builtin:h''' builtin:h data builtin:h",
                "\"\\u0062uiltin:r\" builtin:r component builtin:r",
                "\"builtin:f\" builtin:f component builtin:f",
                "'builtin:g' builtin:g component builtin:g",
                "\"builtin:d\" builtin:d component builtin:d",
            ]
        );
    }

    const EMBEDDED: Embedded<'_> = Embedded { plugin_sets: &[], plugins: &[], data: &[] };
}
