//! What a run on a server keeps: nothing twice, no key, and what can be verified without the server.

use super::fake::{Fake, Fault, Kind};
use super::{completions, counted};
use crate::runs::{Place, Said, lines};

#[test]
fn a_killed_run_asks_nothing_twice_and_ends_with_the_same_bytes() {
    let place = Place::new();
    let fake = Fake::start(Kind::Vllm);
    place.served(&fake, "whole", &[]).expect(0);
    let mut whole = place.files("whole");
    whole.remove("servers.jsonl");
    let url = fake.url();
    let more = ["--server", &url, "--set", super::GREEDY];
    let arguments = super::tiny_arguments("run", &more);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut kills = 0;
    for number in [3, 12, 25, 31, 44, 60, 80, 100, 130] {
        let _ = std::fs::remove_dir_all(place.path("run"));
        let output = place
            .command(&arguments)
            .env("ALIGNER_FAULT", format!("kill:{number}"))
            .output()
            .unwrap();
        kills += u32::from(output.status.code().is_none());
        place.aligner(&[&arguments[..], &["--resume"]].concat()).expect(0);
        let mut found = place.files("run");
        found.remove("servers.jsonl");
        let differs: Vec<_> =
            whole.iter().filter(|(name, bytes)| found.get(*name) != Some(bytes)).collect();
        let differs: Vec<&String> = differs.into_iter().map(|(name, _)| name).collect();
        assert!(differs.is_empty(), "killed at {number}: {differs:?}");
        assert_eq!(whole.len(), found.len());
    }
    assert!(kills >= 7, "{kills}");
}

#[test]
fn a_budget_of_tokens_is_kept_and_a_run_goes_on_with_a_larger_one() {
    let place = Place::new();
    let fake = Fake::start(Kind::Vllm);
    place.served(&fake, "whole", &[]).expect(0);
    let spent = counted(&place.files("whole"), "server.policy.tokens");
    let half = format!("models.policy.tokens={}", spent / 2);
    place.served(&fake, "run", &["--set", &half]).expect(4).says(&[
        &format!("the run may have {} tokens read and written by server `", spent / 2),
        "hint: all finished work stays: with a larger `models.policy.tokens` the run goes on by `--resume`",
    ]);
    let so_far = counted(&place.files("run"), "server.policy.tokens");
    assert!(so_far <= spent / 2, "{so_far} of {spent}");
    place.served(&fake, "run", &["--set", "models.policy.tokens=1M", "--resume"]).expect(0);
    let files = place.files("run");
    assert_eq!(completions(&files), completions(&place.files("whole")));
    assert_eq!(counted(&files, "server.policy.tokens"), spent);

    // What is not done by then can be left out instead: here, some of what the pool is scored by.
    let journal = lines(&files, "journal.jsonl");
    let tokens = |stage: &str| {
        let row = journal
            .iter()
            .find(|row| row["stage"] == stage && row["round"] == 0 && row["event"] == "finished");
        row.unwrap()["counts"]["server.policy.tokens"].as_u64().unwrap()
    };
    let some = tokens("evaluate") + tokens("generate") / 2;
    let half = format!("models.policy.tokens={some}");
    let drop = ["--set", &half, "--set", "models.policy.on_budget=drop"];
    place.served(&fake, "dropped", &drop);
    let files = place.files("dropped");
    assert!(counted(&files, "server.policy.tokens") <= some);
    let rows = files.keys().filter(|name| name.ends_with("/generate.jsonl"));
    let dropped =
        rows.flat_map(|name| lines(&files, name)).filter(|row| row["dropped"] == "token-budget");
    assert!(dropped.count() > 0);

    // What is measured cannot be left out.
    let little = ["--set", "models.policy.tokens=10", "--set", "models.policy.on_budget=drop"];
    place.served(&fake, "little", &little).expect(4).says(&[
        "the run's budget of tokens on the server is used up, and pool: evaluate needs more answers",
        "hint: all finished work stays: with a larger `tokens` of the model the run goes on by `--resume`",
    ]);
}

#[test]
fn a_recorded_run_is_verified_without_its_server() {
    let place = Place::new();
    let fake = Fake::start(Kind::Vllm);
    place.served(&fake, "run", &[]).expect(0);
    drop(fake);
    for how in [&["--all"][..], &["--sample", "5"]] {
        let said = place.aligner(&[&["verify", "run"], how].concat()).expect(0);
        assert!(said.stdout.contains("every byte"), "{}", said.stdout);
    }
    // An altered completion is found as ever.
    let file = place.path("run/rounds/01/generate.jsonl");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replacen("\"text\":\"", "\"text\":\"x", 1)).unwrap();
    place.aligner(&["verify", "run"]).expect(5).says(&["was altered"]);
}

#[test]
fn keys_go_to_their_origin_and_nowhere_else() {
    const KEY: &str = "sk-very-secret-0123456789";
    let place = Place::new();
    let fake = Fake::failing(Kind::Vllm, |number, _| match number {
        0..45 => Fault::None,
        // Some servers repeat the key.
        _ => Fault::Status(
            "401 Unauthorized",
            "",
            format!("{{\"error\": {{\"message\": \"Incorrect API key provided: {KEY}\"}}}}"),
        ),
    });
    let (here, other) = (fake.url(), "http://10.1.2.3:8000=other-key");
    let run = |out: &str, keys: &str| {
        let more = ["--server", &here, "--set", super::GREEDY];
        let arguments = super::tiny_arguments(out, &more);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut command = place.command(&arguments);
        command.env("ALIGNER_SERVER_KEYS", keys).env("RUST_LOG", "trace");
        Said::of(command.output().unwrap())
    };
    let said = run("run", &format!("{other},{here}={KEY}")).expect(4);
    assert!(said.stderr.contains("401"), "{}", said.stderr);
    assert!(!said.stderr.contains(KEY) && !said.stdout.contains(KEY));
    assert!(said.stderr.contains("Incorrect API key provided: KEY"), "{}", said.stderr);
    assert_eq!(fake.keys(), [Some(format!("Bearer {KEY}"))]);
    let mut looked_at = 0;
    for (name, bytes) in place
        .files("run")
        .into_iter()
        .chain([("log.txt".into(), std::fs::read(place.path("run/log.txt")).unwrap())])
    {
        assert!(!String::from_utf8_lossy(&bytes).contains(KEY), "{name}");
        looked_at += 1;
    }
    assert!(looked_at > 5);
    // A server that is named elsewhere gets none.
    let fake = Fake::start(Kind::Vllm);
    let said = place.served(&fake, "other", &["--rounds", "1"]);
    said.expect(0);
    assert_eq!(fake.keys(), [None]);
}

#[test]
fn a_key_that_is_a_word_changes_no_answer() {
    let place = Place::new();
    let fake = Fake::start(Kind::Vllm);
    place.served(&fake, "none", &[]).expect(0);
    // Digits of logprobs, the model's name, and letters of every word of JSON and of answers.
    for (number, key) in ["1", "tiny", "e"].into_iter().enumerate() {
        let (here, out) = (fake.url(), format!("key-{number}"));
        let more = ["--server", &here, "--set", super::GREEDY];
        let arguments = super::tiny_arguments(&out, &more);
        let mut command = place.command(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        command.env("ALIGNER_SERVER_KEYS", format!("{here}={key}"));
        Said::of(command.output().unwrap()).expect(0);
        assert_eq!(completions(&place.files(&out)), completions(&place.files("none")), "{key}");
    }
}

#[test]
fn an_answer_that_holds_the_key_is_none() {
    const KEY: &str = "sk-very-secret-0123456789";
    let place = Place::new();
    let fake = Fake::failing(Kind::Vllm, |number, _| match number {
        0..45 => Fault::None,
        _ => Fault::Changed(|it| it["choices"][0]["text"] = KEY.into()),
    });
    let here = fake.url();
    let more = ["--server", &here, "--set", super::GREEDY];
    let arguments = super::tiny_arguments("run", &more);
    let mut command = place.command(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    command.env("ALIGNER_SERVER_KEYS", format!("{here}={KEY}"));
    let said = Said::of(command.output().unwrap()).expect(4);
    assert!(said.stderr.contains("its answer holds the key that it was sent"), "{}", said.stderr);
    assert!(!said.stderr.contains(KEY));
    for (name, bytes) in place.files("run") {
        assert!(!String::from_utf8_lossy(&bytes).contains(KEY), "{name}");
    }
}
