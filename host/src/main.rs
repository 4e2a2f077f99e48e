//! aligner
fn main() {}
