//! A finished run whose journal is cut anywhere: `resume` ends with the same bytes, or says why it does not.

use std::fs;
use std::path::Path;

use aligner::run::journal;

use super::Place;
use super::kill::step;

/// Copies a folder.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[test]
fn a_journal_that_is_cut_is_gone_on_with_or_refused() {
    let place = Place::new();
    place.tiny("whole", &["--rounds", "1"]).expect(0);
    let whole = place.files("whole");
    let text = &whole["journal.jsonl"];

    // Read, whatever is there of it: the lines that are whole, or a sentence.
    let read = place.path("read");
    fs::create_dir_all(read.join("rounds/01")).unwrap();
    let mut refused = 0;
    for cut in 0..text.len() {
        fs::write(read.join("journal.jsonl"), &text[..cut]).unwrap();
        let lines = text[..cut].iter().filter(|&&byte| byte == b'\n').count();
        match journal::read(&read) {
            Ok(entries) => assert_eq!(entries.len(), lines, "cut at byte {cut}"),
            Err(error) => {
                assert!(
                    error.to_string().contains("says nothing of `rounds/01`"),
                    "{cut}: {error}"
                );
                refused += 1;
            }
        }
    }
    println!("read: {} offsets, {refused} refused", text.len());

    let (mut same, mut refused) = (0, 0);
    let run = place.path("run");
    for cut in (0..text.len()).step_by(step(97) as usize) {
        copy(&place.path("whole"), &run);
        fs::write(run.join("journal.jsonl"), &text[..cut]).unwrap();
        let before = place.files("run");
        let said = place.aligner(&["resume", "run"]);
        let files = place.files("run");
        match said.code {
            Some(0) => {
                for (name, bytes) in &whole {
                    assert!(files.get(name) == Some(bytes), "cut at {cut}: {name} differs");
                }
                assert_eq!(files.len(), whole.len(), "cut at {cut}");
                same += 1;
            }
            _ => {
                said.expect(5).says(&["run/journal.jsonl` is damaged: ", "hint: "]);
                assert!(files == before, "cut at {cut}: it is refused, and something is lost");
                refused += 1;
            }
        }
        fs::remove_dir_all(&run).unwrap();
    }
    println!("resumed: {same} offsets with the same bytes, {refused} refused, of {}", text.len());
    assert!(same > 10 && refused > 0);
}
