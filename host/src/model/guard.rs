//! A boundary around crates that read what comes with a model. `tokenizers` panics at files that say what makes no
//! sense, when it reads them or later, with a text: for example where a decoder is to cut more letters off a token than
//! it has. `minijinja` panics at some templates.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local! {
    /// Whether this thread is within the boundary, where a panic is nothing to be told of.
    static WITHIN: Cell<bool> = const { Cell::new(false) };
}

/// Returns what `tokenizers` makes of its work, or why it makes nothing of it, a panic included.
pub fn guarded<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match unpanicked(work) {
        Ok(done) => done.map_err(|error| error.to_string()),
        Err(said) => Err(format!("the file makes no sense to its reader ({said})")),
    }
}

/// Returns what comes of some work, or what it panics with; of a panic nothing is told elsewhere.
pub fn unpanicked<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let tell = take_hook();
        set_hook(Box::new(move |panic| {
            if !WITHIN.get() {
                tell(panic);
            }
        }));
    });
    let outer = WITHIN.replace(true);
    let done = catch_unwind(AssertUnwindSafe(work));
    WITHIN.set(outer);
    done.map_err(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str);
        said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no reason").to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_a_reason() {
        assert_eq!(guarded(|| Ok(1)), Ok(1));
        assert_eq!(guarded(|| Err::<(), _>("no".into())), Err("no".to_owned()));
        let number: usize = "7".parse().unwrap();
        let error = guarded(|| Ok([0_u8; 3][number])).unwrap_err();
        assert!(error.contains("makes no sense to its reader (index out of bounds"), "{error}");
        assert!(!WITHIN.get());
    }
}
