//! Batched decoding over token ids.
