//! Logprobs of completions.
