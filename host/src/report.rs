//! Tables of a run.
