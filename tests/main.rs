//! What crosses crates: the whole program from outside.

mod bad_input;
// The bench has no test harness of its own.
#[path = "bench/table.rs"]
#[expect(dead_code, reason = "the bench uses all of it")]
mod bench_table;
#[path = "bench/table_tests.rs"]
mod bench_table_tests;
#[path = "reproduce/main.rs"]
#[expect(dead_code, reason = "`make reproduce` uses all of it")]
mod reproduce;
#[path = "reproduce/tests.rs"]
mod reproduce_tests;
mod runs;
mod runtime;
mod server;
mod sharing;
// It is a program of its own, which `make simulate` compiles.
#[path = "simulate/main.rs"]
#[expect(dead_code, reason = "`make simulate` uses all of it")]
mod simulate;
#[path = "simulate/tests.rs"]
mod simulate_tests;
mod tutorials;
