//! `make bench-server`: what a run adds to calling a server directly, with the same requests under way.
//!
//! The server is on this machine, computes nothing and answers after a time, in a process of its own. Both sides send the
//! same bodies over the same client library; the direct one has them ready and reads nothing of the answers, a run
//! renders, tokenises, checks and decodes. They take turns.

#[path = "../server/quick.rs"]
mod quick;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use aligner::model::backend::{AnyDevice, WeightType};
use aligner::model::template::ChatSettings;
use aligner::plugin_set;
use aligner::progress::{Progress, Style};
use aligner::record::{Decoding, Text};
use aligner::round::{Job, Models, Opened, Served};
use clap::Parser;
use tokio::net::TcpListener;
use tokio::task::{JoinSet, LocalSet};

/// Arguments of the bench.
#[derive(Parser)]
struct Arguments {
    /// How long the server takes for a completion
    #[arg(long, default_value_t = 500)]
    milliseconds: u64,
    /// Requests under way at once
    #[arg(long, default_value_t = 256)]
    in_flight: u32,
    /// Prompts of a measurement
    #[arg(long, default_value_t = 5_120)]
    prompts: usize,
    /// Measurements of each side
    #[arg(long, default_value_t = 5)]
    repeat: usize,
    /// The server's own process
    #[arg(long, hide = true)]
    serve: bool,
    /// Given by `cargo bench`; means nothing
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let arguments = Arguments::parse();
    match arguments.serve {
        true => serve(arguments.milliseconds),
        false => measure(&arguments),
    }
}

/// Answers until the process is killed; prints where.
fn serve(milliseconds: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    LocalSet::new().block_on(&runtime.expect("a runtime"), async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        println!("{}", listener.local_addr().expect("it has an address"));
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let hold = async move || tokio::time::sleep(Duration::from_millis(milliseconds)).await;
            tokio::task::spawn_local(quick::serve(stream, hold));
        }
    });
}

fn measure(arguments: &Arguments) {
    let mut server = Server::start(arguments.milliseconds);
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tiny-llama");
    let base = base.to_str().expect("a path in UTF-8");
    let opened = Opened::open(base, ChatSettings::default(), &mut |_| {}).expect("the tiny model");
    let jobs: Vec<Job> = (0..arguments.prompts).map(job).collect();
    let bodies: Vec<String> = jobs.iter().map(|job| body(&opened, job)).collect();
    println!(
        "{} prompts, {} under way at once, {} ms each, {} bytes a request",
        jobs.len(),
        arguments.in_flight,
        arguments.milliseconds,
        bodies.iter().map(String::len).sum::<usize>() / bodies.len()
    );
    let mut ratios = Vec::new();
    for turn in 0..=arguments.repeat {
        let direct = direct(&server.url, &bodies, arguments.in_flight as usize);
        let run = run(&server.url, &opened, &jobs, arguments.in_flight);
        // The first turn warms both up.
        if turn > 0 {
            let ratio = run.as_secs_f64() / direct.as_secs_f64();
            println!(
                "direct {:.3} s   run {:.3} s   ratio {ratio:.4}",
                direct.as_secs_f64(),
                run.as_secs_f64()
            );
            ratios.push(ratio);
        }
    }
    ratios.sort_by(f64::total_cmp);
    let median = ratios[ratios.len() / 2];
    println!("overhead {:.2} % (median of {})", 100.0 * (median - 1.0), ratios.len());
    server.child.kill().expect("the server ends");
}

struct Server {
    child: Child,
    url: String,
}

impl Server {
    fn start(milliseconds: u64) -> Server {
        let this = std::env::current_exe().expect("this program has a path");
        let mut command = Command::new(this);
        command.args(["--serve", "--milliseconds", &milliseconds.to_string()]);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the server starts");
        let mut address = String::new();
        let output = child.stdout.take().expect("its output is piped");
        std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut address)
            .expect("it says where it is");
        Server { child, url: format!("http://{}", address.trim()) }
    }
}

fn job(number: usize) -> Job {
    let text = format!("Question {number}: what is it that people like to know of it? ");
    Job {
        key: number.to_string(),
        record: number.to_string(),
        prompt: Text::user(text.repeat(3)),
        decoding: Decoding { max_new_tokens: Some(64), ..Decoding::greedy(64) },
        seed: number as u64,
    }
}

fn body(opened: &Opened, job: &Job) -> String {
    let prompt = opened.model.encode_prompt(&job.prompt).expect("it fits");
    serde_json::json!({
        "model": quick::MODEL, "prompt": prompt, "n": 1, "stream": false, "echo": false, "max_tokens": 64,
        "temperature": 0.0, "top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "stop": [],
        "seed": 0, "logprobs": 1, "presence_penalty": 0.0, "frequency_penalty": 0.0,
    })
    .to_string()
}

/// Sends bodies that are ready.
fn direct(url: &str, bodies: &[String], in_flight: usize) -> Duration {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().http1_only().build().expect("a client");
    let begun = Instant::now();
    runtime.expect("a runtime").block_on(async {
        let mut bodies = bodies.iter();
        let mut tasks = JoinSet::new();
        loop {
            while tasks.len() < in_flight
                && let Some(body) = bodies.next()
            {
                let request = client.post(format!("{url}/v1/completions")).body(body.clone());
                tasks.spawn(async move {
                    let answer = request.header("content-type", "application/json").send().await;
                    answer.expect("it answers").bytes().await.expect("the answer is whole").len()
                });
            }
            match tasks.join_next().await {
                Some(length) => assert!(length.expect("it ends") > 0),
                None => break,
            }
        }
    });
    begun.elapsed()
}

/// Has a run's models complete the same.
fn run(url: &str, opened: &Opened, jobs: &[Job], in_flight: u32) -> Duration {
    let device = AnyDevice::cpu();
    let silent = Progress::new(Style::Silent);
    let mut models = Models::unloaded(opened, &device, WeightType::F32, BTreeMap::new(), silent);
    let settings = plugin_set::Server { in_flight, ..plugin_set::Server::at(url) };
    models.serve(Served::new("policy", &settings, None, opened));
    let jobs: Vec<&Job> = jobs.iter().collect();
    let cancel = AtomicBool::new(false);
    let mut done = 0;
    let begun = Instant::now();
    let policy = models.initial();
    let completed = models.complete("policy", &policy, &jobs, None, &cancel, &mut |_, made| {
        assert_eq!(made.expect("it is completed").it.text, "Yes.");
        done += 1;
        Ok(())
    });
    let elapsed = begun.elapsed();
    completed.expect("the server answers");
    assert_eq!(done, jobs.len());
    elapsed
}
