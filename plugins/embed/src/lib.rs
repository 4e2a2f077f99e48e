//! The plugins, plugin sets and data that ship inside the aligner binary.
/// c
pub fn component(_name: &str) -> Option<&'static [u8]> { None }
/// c
pub fn data(_name: &str) -> Option<&'static str> { None }
/// c
pub fn component_names() -> impl Iterator<Item = &'static str> { [].into_iter() }
