//! Every method that ships, killed at moments that nobody chose, ends after `resume` with the same bytes as undisturbed.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use sha2::Digest;

use super::kill::under_way;
use super::{Place, methods};

/// Moments for each method; `make soak` has 23 of each, over 200 in all.
fn points() -> u32 {
    if std::env::var_os("ALIGNER_SOAK").is_some() { 23 } else { 1 }
}

/// Returns a share of a run's time, from 0 to a little over 1, drawn for a point.
fn drawn(method: &str, point: u32) -> f64 {
    let bytes = sha2::Sha256::digest(format!("{method} {point}"));
    f64::from(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])) / f64::from(u32::MAX)
        * 1.05
}

#[test]
fn every_method_survives_being_killed_at_any_moment() {
    let place = Place::new();
    let (mut killed, mut late, mut stages) = (0, 0, BTreeSet::new());
    for (method, more) in methods::all(&place) {
        let more: Vec<&str> = more.iter().map(String::as_str).collect();
        let begun = Instant::now();
        methods::run(&place, method, "whole", &more).expect(0);
        let took = begun.elapsed();
        let whole = place.files("whole");
        for point in 0..points() {
            let arguments = methods::arguments(&place, method, "killed", &more);
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let mut command = place.command(&arguments);
            let mut process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            std::thread::sleep(Duration::from_secs_f64(took.as_secs_f64() * drawn(method, point)));
            process.kill().unwrap();
            match process.wait().unwrap().signal() {
                Some(9) => killed += 1,
                // It was faster than the first one.
                _ => late += 1,
            }
            stages.extend(under_way(&place, "killed"));
            match place.path("killed/run.json").exists() {
                true => place.aligner(&["resume", "killed"]).expect(0),
                false => {
                    methods::run(&place, method, "killed", &[&more[..], &["--resume"]].concat())
                        .expect(0)
                }
            };
            let files = place.files("killed");
            let names = |files: &methods::Files| files.keys().cloned().collect::<Vec<_>>();
            assert_eq!(names(&files), names(&whole), "{method}, point {point}");
            for (name, bytes) in &whole {
                assert!(files[name] == *bytes, "{method}, point {point}: {name} differs");
            }
            std::fs::remove_dir_all(place.path("killed")).unwrap();
        }
        std::fs::remove_dir_all(place.path("whole")).unwrap();
    }
    assert!(killed > 0, "{late} too late");
    println!("killed: {killed} moments, {late} too late, in stages {stages:?}");
}
