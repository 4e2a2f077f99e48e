//! What other tools call the base of an adapter.

use super::text::Model;

impl Model {
    /// Returns the name and revision to write into an adapter as its base: the repository on the
    /// Hugging Face hub where it is known, because other tools do not know our aliases, else the path.
    pub fn base_name(&self) -> (String, Option<String>) {
        match self.name.strip_prefix("hf:") {
            Some(name) => match name.split_once('@') {
                Some((name, revision)) => (name.to_owned(), Some(revision.to_owned())),
                None => (name.to_owned(), None),
            },
            None if self.name == "smollm2-135m-instruct" => {
                ("HuggingFaceTB/SmolLM2-135M-Instruct".to_owned(), None)
            }
            None => (self.path.display().to_string(), None),
        }
    }
}
