//! Runs of several processes that train together: what they end with, and what becomes of the others where one ends.

use std::fs;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::full::FULL;
use super::{Place, Said, tests, tiny};

/// What gives a step of the tiny set several micro-batches.
const CUT: [&str; 4] =
    ["--set", "train.micro_batch_tokens=40", "--set", "train.per_device_train_batch_size=8"];

/// Processes of one run.
struct Ranks(Vec<Child>);

impl Drop for Ranks {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Starts one rank of a run. Runs that are there at once have a port each.
fn start(place: &Place, rank: usize, size: usize, port: u32, arguments: &[String]) -> Child {
    let mut command = place.command(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    command.env("RANK", rank.to_string()).env("WORLD_SIZE", size.to_string());
    command.env("MASTER_PORT", port.to_string()).env("TMPDIR", place.folder.path());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn port() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(30_000);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Runs all ranks to their end, and returns what they said, that of rank 0 first.
fn together(place: &Place, size: usize, arguments: &[String]) -> Vec<Said> {
    let port = port();
    let children = (0..size).map(|rank| start(place, rank, size, port, arguments)).collect();
    ended(Ranks(children))
}

fn ended(mut ranks: Ranks) -> Vec<Said> {
    let children = std::mem::take(&mut ranks.0);
    children.into_iter().map(|child| Said::of(child.wait_with_output().unwrap())).collect()
}

fn arguments(out: &str, more: &[&str]) -> Vec<String> {
    tiny(out, &[&CUT, more].concat())
}

fn run(place: &Place, size: usize, out: &str, more: &[&str]) -> Vec<Said> {
    together(place, size, &arguments(out, more))
}

fn resume(place: &Place, size: usize, out: &str) -> Vec<Said> {
    together(place, size, &["resume".to_owned(), out.to_owned()])
}

/// Fails where two runs differ in a byte.
fn same(place: &Place, one: &str, other: &str) {
    let (one, other) = (place.files(one), place.files(other));
    assert_eq!(one.keys().collect::<Vec<_>>(), other.keys().collect::<Vec<_>>());
    for (name, bytes) in &one {
        assert!(other[name] == *bytes, "{name} differs");
    }
}

#[test]
fn several_processes_leave_what_one_leaves() {
    let place = Place::new();
    place.tiny("one", &CUT).expect(0);
    for (size, out) in [(2, "two"), (3, "three")] {
        let all = run(&place, size, out, &[]);
        for (rank, said) in all.into_iter().enumerate() {
            let said = said.expect(0);
            assert_eq!(said.stderr.is_empty() && said.stdout.is_empty(), rank > 0, "{said:?}");
        }
        same(&place, "one", out);
    }
    // Who finds the work done sends the others home.
    for said in run(&place, 2, "two", &["--resume"]) {
        said.expect(0);
    }
    place.aligner(&["verify", "two"]).expect(0);
}

/// Waits until a run has begun to train.
fn training(place: &Place, out: &str, ranks: &mut Ranks) {
    let begun = Instant::now();
    let ledger = place.path(out).join("rounds/01/metrics.partial.jsonl");
    while fs::metadata(&ledger).map_or(0, |it| it.len()) == 0 {
        assert!(begun.elapsed() < Duration::from_secs(120), "no step was made");
        assert!(ranks.0[0].try_wait().unwrap().is_none(), "rank 0 has ended");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// What makes training last long enough to be disturbed.
const LONG: [&str; 4] = ["--set", "train.num_train_epochs=300", "--rounds", "1"];

#[test]
fn a_rank_that_is_killed_ends_the_run_which_goes_on_over_any_number() {
    let place = Place::new();
    place.tiny("whole", &[&CUT[..], &LONG].concat()).expect(0);
    for (out, size, victim, left) in [("a", 2, 1, 1), ("b", 3, 2, 2), ("c", 2, 0, 3)] {
        let arguments = arguments(out, &LONG);
        let port = port();
        let children = (0..size).map(|rank| start(&place, rank, size, port, &arguments));
        let mut ranks = Ranks(children.collect());
        training(&place, out, &mut ranks);
        ranks.0[victim].kill().unwrap();
        let all = ended(ranks);
        for (rank, said) in all.into_iter().enumerate().filter(|(rank, _)| *rank != victim) {
            match rank {
                0 => {
                    let lost = format!(
                        "error: rank {victim} cannot be worked with: its process has ended"
                    );
                    said.expect(4)
                        .says(&[&lost, "hint: `aligner resume` with the run directory goes on"]);
                }
                // Rank 0 says that it ends, unless it is killed.
                _ if victim == 0 => {
                    said.expect(0).says(&[&format!("rank {rank}: rank 0 has ended")]);
                }
                _ => assert_eq!(said.expect(0).stderr, ""),
            }
        }
        for said in resume(&place, left, out) {
            said.expect(0);
        }
        same(&place, "whole", out);
    }
}

#[test]
fn ctrl_c_stops_all_of_them_and_loses_nothing() {
    let place = Place::new();
    place.tiny("whole", &[&CUT[..], &LONG].concat()).expect(0);
    let arguments = arguments("run", &LONG);
    let port = port();
    let mut ranks = Ranks((0..2).map(|rank| start(&place, rank, 2, port, &arguments)).collect());
    training(&place, "run", &mut ranks);
    for child in &ranks.0 {
        // SAFETY: a process of this test, which has not been waited for.
        unsafe { libc::kill(child.id() as i32, libc::SIGINT) };
    }
    let all = ended(ranks);
    assert_eq!(
        all.iter().map(|said| said.code).collect::<Vec<_>>(),
        [Some(130), Some(0)],
        "{all:?}"
    );
    for said in resume(&place, 2, "run") {
        said.expect(0);
    }
    same(&place, "whole", "run");
}

#[test]
fn a_rank_that_is_stuck_does_not_keep_the_user_from_stopping() {
    let place = Place::new();
    place.tiny("whole", &[&CUT[..], &LONG].concat()).expect(0);
    let arguments = arguments("run", &LONG);
    let port = port();
    let mut ranks = Ranks((0..2).map(|rank| start(&place, rank, 2, port, &arguments)).collect());
    training(&place, "run", &mut ranks);
    let signal = |child: &Child, signal| {
        // SAFETY: a process of this test, which has not been waited for.
        unsafe { libc::kill(child.id() as i32, signal) };
    };
    signal(&ranks.0[1], libc::SIGSTOP);
    std::thread::sleep(Duration::from_secs(1));
    signal(&ranks.0[0], libc::SIGINT);
    let begun = Instant::now();
    let first = ranks.0.remove(0).wait_with_output().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    Said::of(first)
        .expect(130)
        .says(&["rank 1 cannot be worked with: interrupted while it was waited for"]);
    drop(ranks);
    place.aligner(&["resume", "run"]).expect(0);
    same(&place, "whole", "run");
}

#[test]
fn what_ranks_cannot_share_is_refused_before_anything_is_written() {
    let place = Place::new();
    let trl = ["--set", "train.backend='trl'"];
    let tiny = |more: &[&str]| together(&place, 2, &tiny("run", more));
    for (more, expected) in [
        (&FULL[..], "`WORLD_SIZE` is 2, and round 1 trains every weight, which ranks do not share"),
        (&trl, "`WORLD_SIZE` is 2, and round 1 trains with TRL, which starts processes of its own"),
    ] {
        for said in tiny(more) {
            said.expect(2).says(&[expected]);
        }
        assert!(!place.path("run").exists());
    }
    let set = tests().join("sets/tiny.toml").display().to_string();
    let mut command = place.command(&["--plugins", &set, "--out", "run"]);
    let said = Said::of(command.env("WORLD_SIZE", "2").output().unwrap());
    said.expect(2).says(&["error: `WORLD_SIZE` is 2, and there is no `RANK`", "hint: "]);
}

#[test]
fn runs_at_one_port_do_not_disturb_each_other() {
    let place = Place::new();
    let port = port();
    // Two that differ, at once.
    let [one, two] = ["one", "two"].map(|out| arguments(out, &[]));
    let ranks = [0, 1].map(|rank| (rank, &one)).into_iter().chain([1, 0].map(|rank| (rank, &two)));
    let ranks = ranks.map(|(rank, told)| start(&place, rank, 2, port, told));
    for said in ended(Ranks(ranks.collect())) {
        said.expect(0);
    }
    same(&place, "one", "two");

    // A second rank 0 of the same run is refused; the first goes on when its rank 1 comes.
    let three = arguments("three", &[]);
    let mut waiting = Ranks(vec![start(&place, 0, 2, port, &three)]);
    let has_socket = || {
        let folders = fs::read_dir(place.folder.path()).unwrap().map(|entry| entry.unwrap().path());
        let mut folders = folders.filter(|path| path.is_dir());
        folders.any(|folder| {
            fs::read_dir(folder).unwrap().any(|entry| {
                let name = entry.unwrap().file_name();
                let name = name.to_str().unwrap();
                name.starts_with("ranks-") && !name.ends_with("lock")
            })
        })
    };
    while !has_socket() {
        assert!(waiting.0[0].try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(5));
    }
    let other = Ranks(vec![start(&place, 0, 2, port, &three)]);
    let message = "error: another rank 0 of this run waits for its ranks";
    ended(other).remove(0).expect(2).says(&[message]);
    waiting.0.push(start(&place, 1, 2, port, &three));
    for said in ended(waiting) {
        said.expect(0);
    }
    same(&place, "one", "three");
}
