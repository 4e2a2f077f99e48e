//! Budgets of plugins over a whole run: kept in the journal, so that a kill changes nothing.

use super::kill::{check_set, step};
use super::{Place, arguments, lines};

/// Returns a count of the finished stages of that name, round by round.
fn counts(place: &Place, run: &str, stage: &str, count: &str) -> Vec<Option<u64>> {
    let journal = lines(&place.files(run), "journal.jsonl");
    let finished =
        journal.iter().filter(|line| line["event"] == "finished" && line["stage"] == stage);
    finished.map(|line| line["counts"][count].as_u64()).collect()
}

#[test]
fn a_run_ends_where_its_budget_does_also_after_a_kill() {
    let place = Place::new();
    place.tiny("free", &[]).expect(0);
    // Without such a budget nothing is counted for it.
    assert_eq!(counts(&place, "free", "filter-generate", "filter-1.fuel"), [None, None]);
    let used = counts(&place, "free", "filter-generate", "fuel");
    let [Some(first), Some(second)] = used[..] else { panic!("{used:?}") };

    let set = |budget: u64| format!("filter.0.limits={{ fuel = {budget}, run_fuel = {budget} }}");
    let enough = set(first + second);
    place.tiny("enough", &["--set", &enough]).expect(0);
    let counted = counts(&place, "enough", "filter-generate", "filter-1.fuel");
    assert_eq!(counted, [Some(first), Some(second)]);

    let budget = first + second - 1;
    let less = set(budget);
    let what = format!("used up its budget of {budget} fuel for the whole run");
    let parts = [what.as_str(), "\n  in round 2, stage filter-generate", "`limits = { run_fuel = "];
    place.tiny("stopped", &["--set", &less]).expect(3).says(&parts);
    place.aligner(&["resume", "stopped"]).expect(3).says(&parts);
    // Given more it goes on, and comes to what it would have come to.
    let more = format!("filter.0.limits={{ fuel = {budget}, run_fuel = {} }}", first + second);
    let resumed = ["--resume", "--set", more.as_str()];
    place.tiny("copy", &["--set", &less]).expect(3);
    place.tiny("copy", &resumed).expect(0);
    let (went_on, whole) = (place.files("copy"), place.files("enough"));
    assert_eq!(lines(&went_on, "journal.jsonl").len(), lines(&whole, "journal.jsonl").len());
    for round in 1..=2 {
        let file = format!("rounds/{round:02}/filter-generate.jsonl");
        assert!(went_on[&file] == whole[&file], "{file}");
    }
    let journal = &place.files("stopped")["journal.jsonl"];
    for number in [15, 30, 45] {
        let run = format!("killed-{number}");
        let arguments = arguments("tiny", &run, &["--set", &less]);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut command = place.command(&arguments);
        let status = command.env("ALIGNER_FAULT", format!("kill:{number}")).status().unwrap();
        assert_eq!(status.code(), None, "it was not killed at {number}");
        place.aligner(&["resume", &run]).expect(3).says(&parts);
        assert!(place.files(&run)["journal.jsonl"] == *journal, "{run}");
    }
}

#[test]
fn a_killed_run_with_budgets_ends_with_the_same_bytes() {
    let more = [
        "--set",
        "filter.0.limits={ run_fuel = \"1T\", run_log_bytes = \"1MiB\" }",
        "--set",
        "difficulty.ask={ models = [\"initial\"], run_tokens = \"10M\", run_requests = \"10k\" }",
    ];
    let place = Place::new();
    place.tiny("run", &more).expect(0);
    let requests = counts(&place, "run", "difficulty", "difficulty.requests");
    assert!(requests.iter().all(|count| count.is_some_and(|count| count > 0)), "{requests:?}");
    let stages = check_set("tiny", &more, "kill", step(29));
    assert!(!stages.is_empty());
}
