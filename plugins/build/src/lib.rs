//! Compiles plugin crates to WebAssembly and encodes them as components.
