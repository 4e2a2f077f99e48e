//! A filter's work on one text, compiled for the processor, for the sandbox and for Extism alike. It is what
//! most filters are: words are counted, and some are looked for.

/// Returns why a text is dropped, if it is: it is cut short, or somebody speaks who was not asked.
pub fn fault(text: &str) -> Option<&'static str> {
    if text.split_whitespace().count() < 100 {
        return Some("too-short");
    }
    if text.contains("As a language model") {
        return Some("boilerplate");
    }
    None
}
