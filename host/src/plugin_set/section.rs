//! One table while it is read: keys, kinds and ranges.

use std::ops::RangeInclusive;

use super::{
    keys::TABLES,
    problem::{Problem, list},
    typed::{Entry, Kind, Node, Place},
};

type Checked<T> = Result<T, Problem>;

/// Which keys a table may have.
pub(crate) struct Shape {
    /// Those that are read.
    pub keys: &'static [&'static str],
    /// Those that a later version will read: they get a sentence of their own.
    pub later: &'static [&'static str],
}

/// A table with its name, for messages.
#[derive(Debug)]
pub(crate) struct Section<'a> {
    entries: &'a [Entry],
    place: &'a Place,
    /// With its backticks, for example `` `[generate]` ``.
    name: String,
}

impl<'a> Section<'a> {
    /// Sees that `node` is a table with no other keys than `shape` has.
    pub fn open(
        node: &'a Node,
        place: &'a Place,
        name: &str,
        shape: &Shape,
    ) -> Checked<Section<'a>> {
        let section = Section { place, ..Section::free(node, name)? };
        for entry in section.entries {
            let key = entry.key.as_str();
            if shape.keys.contains(&key) {
                continue;
            }
            if shape.later.contains(&key) {
                let message = format!("`{key}` in {name} is not in this version");
                return Err(Problem::new(message, &entry.place));
            }
            let problem = Problem::new(format!("unknown key `{key}` in {name}"), &entry.place)
                .label(match shape.keys {
                    [only] => format!("expected `{only}`"),
                    keys => format!("expected one of {}", list(keys)),
                });
            let home = TABLES.iter().find(|(_, other)| other.keys.contains(&key));
            let near = problem.suggest(key, shape.keys.iter().copied());
            return Err(match home {
                Some((home, _)) if !near.has_hint() => {
                    near.hint(format!("`{key}` belongs to `{home}`"))
                }
                _ => near,
            });
        }
        Ok(section)
    }

    /// Sees that `node` is a table, of any keys.
    pub fn free(node: &'a Node, name: &str) -> Checked<Section<'a>> {
        match &node.kind {
            Kind::Table(entries) => {
                Ok(Section { entries, place: &node.place, name: name.to_owned() })
            }
            _ => Err(Problem::new(format!("{name} is {}", node.kind_name()), &node.place)
                .label("expected a table")),
        }
    }

    /// Returns where the table is opened.
    pub fn place(&self) -> &'a Place {
        self.place
    }

    /// Returns the entries in the order in which they were typed.
    pub fn entries(&self) -> &'a [Entry] {
        self.entries
    }

    fn entry(&self, key: &str) -> Option<&'a Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    /// Returns the value under `key`.
    pub fn node(&self, key: &str) -> Option<&'a Node> {
        self.entry(key).map(|entry| &entry.value)
    }

    /// Returns whether `key` is given.
    pub fn has(&self, key: &str) -> bool {
        self.entry(key).is_some()
    }

    /// Returns where the value of `key` stands, or the table where it is absent.
    pub fn place_of(&self, key: &str) -> &'a Place {
        self.node(key).map_or(self.place, |node| &node.place)
    }

    /// Returns the first of `keys` that is given although the value of `decides` leaves it without effect.
    /// Whoever tries another value of that from the command line leaves the file as it is.
    pub fn idle<'k>(&self, decides: &str, keys: &[&'k str]) -> Option<&'k str> {
        let tried = matches!(self.place_of(decides), Place::Argument(_));
        let counts = |key: &&str| match self.place_of(key) {
            Place::File(_) => !tried,
            Place::Argument(_) => true,
        };
        keys.iter().copied().filter(|key| self.has(key)).find(counts)
    }

    /// Begins a problem: the value of `key` `is` something.
    pub fn wrong(&self, key: &str, is: &str) -> Problem {
        Problem::new(format!("`{key}` in {} {is}", self.name), self.place_of(key))
    }

    /// Begins a problem: `key` is absent.
    pub fn missing(&self, key: &str, expected: &str) -> Problem {
        let expected = expected.strip_prefix("expected ").unwrap_or(expected);
        Problem::new(format!("missing key `{key}` in {}", self.name), self.place)
            .label(format!("expected `{key}`: {expected}"))
    }

    fn wrong_kind(&self, key: &str, node: &Node, expected: &str) -> Problem {
        self.wrong(key, &format!("is {}", node.kind_name())).label(format!("expected {expected}"))
    }

    /// Returns the table under `key`.
    pub fn table(&self, key: &str, shape: &Shape) -> Checked<Option<Section<'a>>> {
        let Some(entry) = self.entry(key) else { return Ok(None) };
        Section::open(&entry.value, &entry.place, &self.name_of(key), shape).map(Some)
    }

    /// Returns the table under `key`, which must be there.
    pub fn required_table(&self, key: &str, shape: &Shape) -> Checked<Section<'a>> {
        match self.table(key, shape)? {
            Some(table) => Ok(table),
            None => Err(self.no_table(key)),
        }
    }

    /// Returns the table under `key`, which may have any keys.
    pub fn free_table(&self, key: &str) -> Checked<Option<Section<'a>>> {
        let Some(entry) = self.entry(key) else { return Ok(None) };
        let section = Section::free(&entry.value, &self.name_of(key))?;
        Ok(Some(Section { place: &entry.place, ..section }))
    }

    /// Returns the table under `key`, which must be there and may have any keys.
    pub fn required_free_table(&self, key: &str) -> Checked<Section<'a>> {
        self.free_table(key)?.ok_or_else(|| self.no_table(key))
    }

    fn no_table(&self, key: &str) -> Problem {
        Problem::new(format!("there is no `[{key}]`"), self.place)
            .label(format!("expected a table `[{key}]`"))
    }

    /// Returns the tables under `key`, where it is an array of tables; empty where it is absent.
    pub fn tables(&self, key: &str, shape: &Shape) -> Checked<Vec<Section<'a>>> {
        let Some(entry) = self.entry(key) else { return Ok(Vec::new()) };
        let name = format!("`[[{key}]]`");
        match &entry.value.kind {
            Kind::Array(items) => {
                items.iter().map(|item| Section::open(item, &item.place, &name, shape)).collect()
            }
            _ => Err(Problem::new(format!("`{key}` is {}", entry.value.kind_name()), &entry.place)
                .label(format!("expected tables that begin with {name}"))),
        }
    }

    /// Tables of the plugin set are named as they are written there, tables within them by key.
    fn name_of(&self, key: &str) -> String {
        match self.name.starts_with('`') {
            false => format!("`[{key}]`"),
            true => format!("`{key}` of {}", self.name),
        }
    }

    /// Returns the string under `key`.
    pub fn text(&self, key: &str) -> Checked<Option<String>> {
        let Some(node) = self.node(key) else { return Ok(None) };
        match node.as_text() {
            Some(text) => Ok(Some(text.to_owned())),
            None => Err(self.wrong_kind(key, node, "a string")),
        }
    }

    /// Returns the string under `key`, which must be there.
    pub fn required_text(&self, key: &str, expected: &str) -> Checked<String> {
        self.text(key)?.ok_or_else(|| self.missing(key, expected))
    }

    /// Returns the strings under `key` with their places.
    pub fn texts(&self, key: &str) -> Checked<Option<Vec<(String, Place)>>> {
        let Some(node) = self.node(key) else { return Ok(None) };
        let Kind::Array(items) = &node.kind else {
            return Err(self.wrong_kind(key, node, "a list of strings"));
        };
        let text = |item: &Node| match item.as_text() {
            Some(text) => Ok((text.to_owned(), item.place.clone())),
            None => {
                let message =
                    format!("an entry of `{key}` in {} is {}", self.name, item.kind_name());
                Err(Problem::new(message, &item.place).label("expected a string"))
            }
        };
        items.iter().map(text).collect::<Checked<_>>().map(Some)
    }

    /// Returns the strings under `key`, which must be there, with their places.
    pub fn required_texts(&self, key: &str, expected: &str) -> Checked<Vec<(String, Place)>> {
        self.texts(key)?.ok_or_else(|| self.missing(key, expected))
    }

    /// Returns the boolean under `key`.
    pub fn boolean(&self, key: &str) -> Checked<Option<bool>> {
        let Some(node) = self.node(key) else { return Ok(None) };
        match node.kind {
            Kind::Boolean(truth) => Ok(Some(truth)),
            _ => Err(self.wrong_kind(key, node, "true or false")),
        }
    }

    /// Returns the finite number under `key`; `fits` says which are in range.
    pub fn number(
        &self,
        key: &str,
        expected: &str,
        fits: impl Fn(f64) -> bool,
    ) -> Checked<Option<f64>> {
        let Some(node) = self.node(key) else { return Ok(None) };
        let number = match node.kind {
            Kind::Float(number) => number,
            Kind::Integer(Some(number)) => number as f64,
            Kind::Integer(None) => f64::INFINITY,
            _ => return Err(self.wrong_kind(key, node, expected)),
        };
        match number.is_finite() && fits(number) {
            true => Ok(Some(number)),
            false => Err(self.wrong(key, "is out of range").label(format!("expected {expected}"))),
        }
    }

    /// Returns the integer under `key`.
    pub fn integer(&self, key: &str, least: u64, most: u64) -> Checked<Option<u32>> {
        debug_assert!(most <= u32::MAX.into());
        let number = self.whole(key, least..=most, &range(least, most), |_| None)?;
        Ok(number.map(|number| number as u32))
    }

    /// Returns the integer under `key`, which may be a large one.
    pub fn large(&self, key: &str, most: u64) -> Checked<Option<u64>> {
        self.whole(key, 0..=most, &range(0, most), |_| None)
    }

    /// Returns the count under `key`: an integer, or a string such as `2G`.
    pub fn count(&self, key: &str, range_: RangeInclusive<u64>) -> Checked<Option<u64>> {
        let expected =
            format!("{}, or a text such as \"2G\"", range(*range_.start(), *range_.end()));
        self.whole(key, range_, &expected, |text| {
            with_unit(text, &[("k", 1e3), ("K", 1e3), ("M", 1e6), ("G", 1e9), ("T", 1e12)])
        })
    }

    /// Returns the number of bytes under `key`: an integer, or a string such as `64MiB`.
    pub fn bytes(&self, key: &str, range_: RangeInclusive<u64>) -> Checked<Option<u64>> {
        let expected = format!(
            "a size from {} to {}, for example \"64MiB\"",
            size(*range_.start()),
            size(*range_.end())
        );
        const KIB: f64 = 1024.0;
        self.whole(key, range_, &expected, |text| {
            let units = [
                ("KiB", KIB),
                ("MiB", KIB * KIB),
                ("GiB", KIB * KIB * KIB),
                ("kB", 1e3),
                ("KB", 1e3),
                ("MB", 1e6),
                ("GB", 1e9),
                ("B", 1.0),
            ];
            with_unit(text, &units)
        })
    }

    fn whole(
        &self,
        key: &str,
        fits: RangeInclusive<u64>,
        expected: &str,
        parse: impl Fn(&str) -> Option<u64>,
    ) -> Checked<Option<u64>> {
        let Some(node) = self.node(key) else { return Ok(None) };
        let number = match &node.kind {
            Kind::Integer(number) => number.and_then(|number| u64::try_from(number).ok()),
            Kind::String(text) => match parse(text) {
                Some(number) => Some(number),
                None => {
                    let wrong = self.wrong(key, &format!("is `{text}`"));
                    return Err(wrong.label(format!("expected {expected}")));
                }
            },
            _ => return Err(self.wrong_kind(key, node, expected)),
        };
        match number.filter(|number| fits.contains(number)) {
            Some(number) => Ok(Some(number)),
            None => Err(self.wrong(key, "is out of range").label(format!("expected {expected}"))),
        }
    }

    /// Returns the choice under `key`.
    pub fn choice<T: Copy>(&self, key: &str, choices: &[(&str, T)]) -> Checked<Option<T>> {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let expected = match names[..] {
            [only] => format!("`{only}`"),
            _ => format!("one of {}", list(&names)),
        };
        let Some(node) = self.node(key) else { return Ok(None) };
        let Some(text) = node.as_text() else { return Err(self.wrong_kind(key, node, &expected)) };
        match choices.iter().find(|(name, _)| *name == text) {
            Some((_, choice)) => Ok(Some(*choice)),
            None => Err(self
                .wrong(key, &format!("is `{text}`"))
                .label(format!("expected {expected}"))
                .suggest(text, names)),
        }
    }
}

fn range(least: u64, most: u64) -> String {
    match most {
        // A bound that nobody meets would only make the sentence longer.
        most if most >= 1 << 30 => format!("an integer, {least} or more"),
        most => format!("an integer from {least} to {most}"),
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        0 => "0".to_owned(),
        bytes if bytes % (1 << 30) == 0 => format!("{}GiB", bytes >> 30),
        bytes if bytes % (1 << 20) == 0 => format!("{}MiB", bytes >> 20),
        bytes => format!("{}KiB", bytes >> 10),
    }
}

/// Reads a number with a unit behind it, such as `2G` or `1.5 GiB`.
fn with_unit(text: &str, units: &[(&str, f64)]) -> Option<u64> {
    let text = text.trim();
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &text[number.len()..];
    let factor = match unit {
        "" => 1.0,
        unit => units.iter().find(|(name, _)| *name == unit)?.1,
    };
    let value = number.trim().replace('_', "").parse::<f64>().ok()? * factor;
    (0.0..9e18).contains(&value).then_some(value.round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_scale_numbers() {
        let check = |text: &str, expected: Option<u64>| {
            let units = [("G", 1e9), ("MiB", 1048576.0)];
            assert_eq!(with_unit(text, &units), expected, "{text}");
        };
        check("2G", Some(2_000_000_000));
        check("1.5 G", Some(1_500_000_000));
        check("64MiB", Some(64 << 20));
        check("1_000", Some(1000));
        check("2g", None);
        check("G", None);
        check("", None);
        check("-1G", None);
        check("infG", None);
        check("NaN", None);
        check("1e30G", None);
        check("2 GB", None);
    }
}
