//! The plugins, plugin sets and data that ship inside the aligner binary.
