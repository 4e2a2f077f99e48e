//! What other tools call the base of an adapter.

use std::path::Path;

use super::source::alias::Alias;
use super::text::Model;

impl Model {
    /// Returns the name and revision to write into an adapter as its base: the repository on the
    /// Hugging Face hub where it is known, because other tools do not know our aliases, else the path.
    pub fn base_name(&self) -> (String, Option<String>) {
        match (self.name.strip_prefix("hf:"), Alias::find(&self.name)) {
            (Some(name), _) => match name.split_once('@') {
                Some((name, revision)) => (name.to_owned(), Some(revision.to_owned())),
                None => (name.to_owned(), None),
            },
            (None, Some(alias)) => (alias.repository.to_owned(), None),
            (None, None) => {
                of_snapshot(&self.path).unwrap_or_else(|| (self.path.display().to_string(), None))
            }
        }
    }
}

/// Reads name and revision out of a folder in the cache of Hugging Face's libraries:
/// `models--OWNER--NAME/snapshots/REVISION`.
fn of_snapshot(path: &Path) -> Option<(String, Option<String>)> {
    let mut parts = path.components().rev().map(|part| part.as_os_str().to_str());
    let (revision, snapshots, repository) = (parts.next()??, parts.next()??, parts.next()??);
    let (owner, name) = repository.strip_prefix("models--")?.split_once("--")?;
    (snapshots == "snapshots").then(|| (format!("{owner}/{name}"), Some(revision.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_known_by_its_repository() {
        let check = |path: &str, expected: Option<(&str, &str)>| {
            let found = of_snapshot(Path::new(path));
            let expected = expected.map(|(name, r)| (name.to_owned(), Some(r.to_owned())));
            assert_eq!(found, expected, "{path}");
        };
        check("/h/hub/models--a--b-c/snapshots/1f2e", Some(("a/b-c", "1f2e")));
        check("hub/models--a--b--c/snapshots/1f2e", Some(("a/b--c", "1f2e")));
        check("/h/hub/models--a/snapshots/1f2e", None);
        check("/h/models--a--b/1f2e", None);
        check("/", None);
    }
}
