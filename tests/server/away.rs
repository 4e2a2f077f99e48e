//! Servers that are slow, busy, broken or away.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;

use super::fake::{Fake, Fault, Kind};
use super::{completions, counted};
use crate::runs::{Place, Said};

/// Runs on a server with faults, which has to come to what it comes to without.
#[track_caller]
fn comes_through(faults: impl Fn(usize) -> Fault + Send + Sync + 'static) -> Said {
    let place = Place::new();
    place.served(&Fake::start(Kind::Vllm), "sound", &[]).expect(0);
    let fake = Fake::failing(Kind::Vllm, move |number, _| faults(number));
    let said = place.served(&fake, "run", &["--set", "models.policy.timeout_seconds=2"]).expect(0);
    let (sound, found) = (place.files("sound"), place.files("run"));
    assert_eq!(completions(&sound), completions(&found));
    // Nothing is counted twice.
    let tokens = "server.policy.tokens";
    assert_eq!(counted(&sound, tokens), counted(&found, tokens));
    said
}

#[test]
fn what_fails_now_and_then_is_asked_again() {
    let busy = || Fault::Status("429 Too Many Requests", "retry-after: 0\r\n", String::new());
    comes_through(move |number| match number % 11 {
        1 => busy(),
        2 => {
            Fault::Status("500 Internal Server Error", "", "{\"error\": \"out of memory\"}".into())
        }
        3 => Fault::Half,
        _ => Fault::None,
    });
}

#[test]
fn a_connection_that_ends_and_an_answer_that_is_late_are_asked_again() {
    comes_through(|number| match number {
        45 | 60 => Fault::HangUp,
        50 => Fault::Late(Duration::from_secs(4)),
        _ => Fault::None,
    });
}

#[test]
fn what_always_fails_ends_the_run_which_can_be_gone_on_with() {
    let place = Place::new();
    let sick = Arc::new(AtomicBool::new(true));
    let own = sick.clone();
    let fake = Fake::failing(Kind::Vllm, move |number, _| {
        match own.load(Ordering::SeqCst) && number > 45 {
            true => Fault::Status(
                "500 Internal Server Error",
                "",
                json!({"error": {"message": "CUDA error"}}).to_string(),
            ),
            false => Fault::None,
        }
    });
    place.served(&fake, "run", &[]).expect(4).says(&[
        "gives no whole answer to record `",
        "asked 5 times: status 500 Internal Server Error: \"CUDA error\"",
        "`aligner resume` with its directory goes on",
    ]);
    sick.store(false, Ordering::SeqCst);
    place.aligner(&["resume", "run"]).expect(0);
    place.served(&Fake::start(Kind::Vllm), "sound", &[]).expect(0);
    let (found, sound) = (place.files("run"), place.files("sound"));
    assert_eq!(completions(&found), completions(&sound));
    let tokens = "server.policy.tokens";
    assert_eq!(counted(&found, tokens), counted(&sound, tokens));
}

#[test]
fn a_server_that_starts_again_is_waited_for_and_looked_at() {
    let place = Place::new();
    let first = Fake::failing(Kind::Vllm, |number, _| match number {
        0..50 => Fault::None,
        _ => Fault::Late(Duration::from_secs(1)),
    });
    let address = first.server.address;
    let url = first.url();
    let more = ["--server", &url, "--set", super::GREEDY];
    let running = place.command(
        &super::tiny_arguments("run", &more).iter().map(String::as_str).collect::<Vec<_>>(),
    );
    let child = spawn(running);
    wait_until(|| first.bodies("/v1/completions").len() > 52);
    drop(first);
    std::thread::sleep(Duration::from_secs(2));
    let second = Fake::at(address, Kind::Vllm, "tiny-llama", |_, _| Fault::None);
    let said = Said::of(child.wait_with_output().unwrap()).expect(0);
    said.says(&["is away (", "waiting for it", "is back"]);
    drop(second);
}

#[test]
fn a_server_that_comes_back_as_another_ends_the_run() {
    let place = Place::new();
    let state = Arc::new(Mutex::new(0));
    let own = state.clone();
    // After the connection broke, everything is half a nat less likely.
    let fake = Fake::failing(Kind::Vllm, move |number, _| {
        let mut broke = own.lock().unwrap();
        if number >= 45 && *broke == 0 {
            *broke = 1;
            return Fault::HangUp;
        }
        match *broke {
            0 => Fault::None,
            _ => Fault::Changed(|it| {
                let logprobs =
                    it["choices"][0]["logprobs"]["token_logprobs"].as_array_mut().unwrap();
                logprobs
                    .iter_mut()
                    .filter(|it| !it.is_null())
                    .for_each(|it| *it = json!(it.as_f64().unwrap() - 0.5));
            }),
        }
    });
    place.served(&fake, "run", &[]).expect(4).says(&[
        "is not the model that it should be: it was away, and what it says of a token now is 0.50 nats from",
        "hint: start it again with the model that it had",
    ]);
}

#[test]
fn a_server_that_stays_away_ends_the_run_which_goes_on_elsewhere() {
    let place = Place::new();
    let fake = Fake::failing(Kind::Vllm, |number, _| match number {
        0..45 => Fault::None,
        _ => Fault::Late(Duration::from_millis(300)),
    });
    let url = fake.url();
    let more =
        ["--server", &url, "--set", super::GREEDY, "--set", "models.policy.patience_seconds=2"];
    let running = place.command(
        &super::tiny_arguments("run", &more).iter().map(String::as_str).collect::<Vec<_>>(),
    );
    let child = spawn(running);
    wait_until(|| fake.bodies("/v1/completions").len() > 46);
    drop(fake);
    let said = Said::of(child.wait_with_output().unwrap()).expect(4);
    said.says(&[
        "has answered nothing for",
        "hint: start it, or name another: `--server URL`, which `aligner resume` takes too",
    ]);
    // With the first one gone, the run is gone on with on a second one.
    place.aligner(&["resume", "run"]).expect(4).says(&["` does not answer: "]);
    let second = Fake::start(Kind::Vllm);
    place.aligner(&["resume", "run", "--server", &second.url()]).expect(0);
}

#[test]
fn fewer_requests_are_under_way_where_the_server_is_busy() {
    let place = Place::new();
    let begun = Instant::now();
    let busy = Fault::Status("503 Service Unavailable", "retry-after: 1\r\n", "{}".into());
    let fake = Fake::failing(Kind::Vllm, move |number, _| match number {
        0..45 => Fault::None,
        _ if begun.elapsed() < Duration::from_secs(12) => busy.clone(),
        _ => Fault::None,
    });
    place.served(&fake, "run", &["--set", "models.policy.patience_seconds=60"]).expect(0);
}

#[test]
fn what_stands_before_a_server_that_starts_again_is_asked_until_it_has() {
    for fault in [
        Fault::Status("502 Bad Gateway", "", "<html>bad gateway</html>".into()),
        // More often than a request is tried where the server answers.
        Fault::HangUp,
    ] {
        let place = Place::new();
        let begun = Arc::new(Mutex::new(None));
        let own = begun.clone();
        let fake = Fake::failing(Kind::Vllm, move |number, _| {
            if number < 45 {
                return Fault::None;
            }
            let mut begun = own.lock().unwrap();
            match begun.get_or_insert_with(Instant::now).elapsed() < Duration::from_secs(10) {
                true => fault.clone(),
                false => Fault::None,
            }
        });
        place.served(&fake, "run", &["--set", "models.policy.patience_seconds=60"]).expect(0);
        place.served(&Fake::start(Kind::Vllm), "sound", &[]).expect(0);
        assert_eq!(completions(&place.files("run")), completions(&place.files("sound")));
    }
}

#[test]
fn patience_ends_whatever_pause_a_server_wants() {
    let place = Place::new();
    let fake = Fake::failing(Kind::Vllm, |number, _| match number {
        0..45 => Fault::None,
        _ => Fault::Status("429 Too Many Requests", "retry-after: 100000\r\n", String::new()),
    });
    let begun = Instant::now();
    let said = place.served(&fake, "run", &["--set", "models.policy.patience_seconds=3"]).expect(4);
    said.says(&["has answered nothing for", "status 429 Too Many Requests"]);
    assert!(begun.elapsed() < Duration::from_secs(25), "{:?}", begun.elapsed());
}

#[test]
fn a_redirect_is_said_with_where_it_leads() {
    let place = Place::new();
    let fake = Fake::failing(Kind::Vllm, |number, _| match number {
        0..45 => Fault::None,
        _ => Fault::Status(
            "307 Temporary Redirect",
            "location: http://elsewhere.example/v1/completions\r\n",
            String::new(),
        ),
    });
    place.served(&fake, "run", &[]).expect(4).says(&[
        "with status 307: \"it sends to `http://elsewhere.example/v1/completions`, where nobody follows\"",
    ]);
}

fn spawn(mut command: std::process::Command) -> std::process::Child {
    use std::process::Stdio;
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn wait_until(mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(120), "it never came to that");
        std::thread::sleep(Duration::from_millis(20));
    }
}
