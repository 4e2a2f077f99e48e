//! What has to hold of every simulation, whatever is assumed.

use crate::simulate::assumptions::{Assumptions, DESCRIBED};
use crate::simulate::flight::{Cost, Flown, fly};
use crate::simulate::page::{CHANGES, changed, page};
use crate::simulate::round::{Stage, round};
use crate::simulate::server::{Request, Server};
use crate::simulate::{draw::Draws, read};

const RAW: Cost = Cost { chats: 0.0, echoes: false };

fn with(set: &[(&str, f64)]) -> Assumptions {
    let mut assumptions = Assumptions::default();
    for (name, value) in set {
        assumptions.set(name, *value).unwrap();
    }
    assumptions
}

fn small(seed: u64) -> Assumptions {
    with(&[("prompts", 500.0), ("in_flight", 300.0), ("gpus", 16.0), ("seed", seed as f64)])
}

fn requests(seed: u64, count: usize) -> Vec<Request> {
    let mut draws = Draws::of(seed, "tests");
    let mut request = || {
        let own = draws.log_normal(300.0, 0.5).clamp(1.0, 5000.0) as u32;
        let answer = draws.log_normal(100.0, 1.0).clamp(1.0, 2000.0) as u32;
        Request { common: 700, own, answer }
    };
    (0..count).map(|_| request()).collect()
}

fn total(stages: &[Stage]) -> f64 {
    stages.iter().map(|stage| stage.seconds).sum()
}

/// Returns how long a server takes for requests that are all there from the beginning.
fn drained(assumptions: &Assumptions, requests: &[Request]) -> f64 {
    let mut server = Server::new(assumptions, true);
    requests.iter().enumerate().for_each(|(id, request)| server.take(id, *request));
    let steps = std::iter::from_fn(|| server.step());
    steps.map(|(seconds, _)| seconds).sum()
}

fn near(a: f64, b: f64, share: f64) -> bool {
    (a - b).abs() <= share * b.abs()
}

#[test]
fn no_request_is_lost_and_no_token() {
    for seed in 0..20 {
        let requests = requests(seed, 400);
        let tokens: u64 = requests.iter().map(|request| u64::from(request.answer)).sum();
        for in_flight in [1.0, 7.0, 300.0, 100_000.0] {
            for burst in [1.0, 100_000.0] {
                let assumptions = with(&[("in_flight", in_flight), ("burst", burst)]);
                let flown = fly(&assumptions, &requests, true, RAW);
                assert_eq!((flown.answered, flown.written), (400, tokens));
                assert!(flown.idle >= -1e-6 && flown.tail >= 0.0 && flown.first > 0.0, "{flown:?}");
                assert!(flown.longest <= flown.seconds && flown.host <= flown.seconds + 1e-9);
            }
        }
    }
}

#[test]
fn nothing_asked_takes_no_time() {
    assert_eq!(fly(&Assumptions::default(), &[], true, RAW), Flown::default());
}

#[test]
fn a_request_alone_takes_its_steps() {
    // Its prompt is read and its first token written in one step, and each further one in a step.
    let assumptions =
        with(&[("billions", 0.0), ("layers", 0.0), ("network_ms", 0.0)]).without_host();
    for answer in [1, 2, 1000] {
        let flown = fly(&assumptions, &[Request { common: 0, own: 10, answer }], false, RAW);
        assert!(near(flown.seconds, f64::from(answer) * 0.003, 1e-9), "{flown:?}");
    }
}

#[test]
fn a_prompt_that_is_common_is_read_once() {
    let assumptions = with(&[("network_ms", 0.0), ("gpus", 8.0)]).without_host();
    let twice = |common, own| drained(&assumptions, &[Request { common, own, answer: 1 }; 9]);
    assert!(twice(8000, 10) < twice(0, 8010) / 4.0);
}

#[test]
fn servers_without_limits_leave_the_hosts_time() {
    let assumptions = with(&[
        ("gpu_tflops", 1e12),
        ("gpu_tb_per_second", 1e12),
        ("link_gb_per_second", 1e15),
        ("all_reduce_us", 0.0),
        ("step_ms", 0.0),
        ("network_ms", 0.0),
    ]);
    for seed in 0..5 {
        let flown = fly(&assumptions, &requests(seed, 2000), true, RAW);
        assert!(near(flown.seconds, flown.host, 1e-3), "{flown:?}");
    }
}

#[test]
fn a_host_that_takes_no_time_leaves_the_servers() {
    let assumptions = with(&[("gpus", 8.0), ("in_flight", 1e5), ("network_ms", 0.0)]);
    for seed in 0..5 {
        let requests = requests(seed, 2000);
        let flown = fly(&assumptions.without_host(), &requests, true, RAW);
        // The first request is there before the others, and has a step for itself.
        assert!(near(flown.seconds, drained(&assumptions, &requests), 0.01), "{flown:?}");
        assert!(flown.idle.abs() < 1e-6);
    }
}

#[test]
fn twice_the_servers_are_never_slower() {
    for seed in 0..10 {
        let requests = requests(seed, 1500);
        let seconds: Vec<f64> = [8.0, 16.0, 32.0, 64.0]
            .iter()
            .map(|&gpus| fly(&with(&[("gpus", gpus)]), &requests, true, RAW).seconds)
            .collect();
        assert!(seconds.windows(2).all(|pair| pair[1] <= pair[0] * 1.001), "{seconds:?}");
    }
}

#[test]
fn a_slower_host_is_never_faster() {
    for seed in 0..5 {
        let requests = requests(seed, 1500);
        let seconds: Vec<f64> = [0.0, 0.5, 1.0, 2.0, 10.0]
            .iter()
            .map(|&times| {
                let mut assumptions = small(seed);
                assumptions.scale_host(times);
                fly(&assumptions, &requests, true, RAW).seconds
            })
            .collect();
        // What comes later may find another batch, so a step more or less.
        assert!(seconds.windows(2).all(|pair| pair[1] >= pair[0] * 0.99), "{seconds:?}");
    }
}

#[test]
fn a_request_that_the_cache_cannot_hold_is_answered_all_the_same() {
    let assumptions = with(&[("gpus", 8.0), ("gpu_memory_gb", 24.3)]);
    assert!(assumptions.cache_tokens().unwrap() < 9000.0);
    let requests = vec![Request { common: 100, own: 9000, answer: 500 }; 5];
    assert_eq!(fly(&assumptions, &requests, true, RAW).answered, 5);
}

#[test]
fn a_round_is_the_same_for_the_same_seed() {
    assert_eq!(round(&small(1)), round(&small(1)));
    assert_ne!(total(&round(&small(1))), total(&round(&small(2))));
}

#[test]
fn what_the_host_adds_is_none_where_it_takes_no_time() {
    let free = small(3).without_host();
    assert_eq!(round(&free), round(&free.without_host()));
    assert!(round(&free).iter().all(|stage| stage.host == 0.0));
    assert!(total(&round(&small(3))) > total(&round(&free)));
}

#[test]
fn gpus_are_idle_no_longer_than_there_are() {
    for change in CHANGES {
        let mut changed = changed(&small(4), change);
        changed.prompts = 300.0;
        for stage in round(&changed) {
            let all = stage.seconds * changed.gpus;
            assert!(stage.idle >= -1e-6 && stage.idle <= all + 1e-6, "{}: {stage:?}", change.what);
        }
    }
}

#[test]
fn what_is_known_of_the_model_comes_out() {
    let llama = Assumptions::default();
    assert_eq!(llama.cache_bytes(), 327_680.0);
    assert_eq!(llama.servers(), 8);
    // Rank 16 on the seven linear layers of Llama 3 70B is 207 million numbers.
    assert!(near(llama.adapter_gb(), 4.0 * 0.207, 0.03), "{}", llama.adapter_gb());
}

#[test]
fn what_is_set_is_looked_at() {
    let said = |arguments: &[&str]| read(arguments.iter().map(|it| it.to_string()));
    assert_eq!(said(&["gpus=128", "in_flight=8192"]).unwrap().servers(), 16);
    for (argument, why) in [
        ("gpu=1", "there is no assumption `gpu`"),
        ("gpus", "`gpus` sets nothing"),
        ("gpus=many", "`many` is no number"),
        ("gpus=-1", "`gpus` is a number from 0 on"),
        ("gpus=NaN", "`gpus` is a number from 0 on"),
        ("gpus=4", "there are not GPUs enough for one server"),
        ("in_flight=0", "`in_flight` is at least 1"),
        ("billions=400", "the weights do not fit into 8 GPUs of 80 GB"),
    ] {
        assert_eq!(said(&[argument]).unwrap_err(), why);
    }
}

#[test]
fn the_page_names_every_assumption_and_every_change() {
    let page = page(&small(5)).concat();
    for described in DESCRIBED {
        assert!(page.contains(&format!("| `{}` |", described.name)));
    }
    for change in CHANGES {
        assert!(page.contains(change.what));
    }
    assert!(!page.contains("NaN") && !page.contains("inf"), "{page}");
}

#[test]
fn what_cannot_be_is_said_in_the_table() {
    // Of 8B a server on one GPU of 22 GB has no room for the weights.
    let [_, _, changes, _] = page(&with(&[("prompts", 20.0), ("gpu_memory_gb", 22.0)]));
    let row = changes.lines().find(|line| line.contains("8B on 1 GPU")).unwrap();
    assert!(row.contains("the weights do not fit into 1 GPUs of 22 GB"), "{row}");
    assert_eq!(row.matches('|').count(), changes.lines().nth(2).unwrap().matches('|').count());
}

#[test]
fn the_documentation_holds_the_tables() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/simulation.md");
    let documentation = std::fs::read_to_string(path).unwrap();
    for table in page(&Assumptions::default()) {
        let (heading, table) = table.split_once("\n\n").unwrap();
        assert!(
            documentation.contains(table.trim()),
            "`{heading}` of docs/simulation.md is not what `make simulate` prints"
        );
    }
}
