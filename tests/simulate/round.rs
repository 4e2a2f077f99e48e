//! A round, stage by stage: each ends before the next begins.

use super::assumptions::Assumptions;
use super::draw::Draws;
use super::flight::{Cost, Flown, fly};
use super::server::Request;

/// What a stage of a round came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// Its name, as in a run, or what is waited for.
    pub name: &'static str,
    /// How long it takes.
    pub seconds: f64,
    /// Seconds in which a GPU has nothing to do, of all GPUs together.
    pub idle: f64,
    /// Seconds in which the host has something to do.
    pub host: f64,
    /// What came of its requests, where there were any.
    pub flown: Option<Flown>,
}

/// Records on their way through a round.
#[derive(Clone, Copy)]
struct Record {
    question: u32,
    own: u32,
    answer: u32,
}

/// Simulates a round and returns its stages in order.
pub fn round(assumptions: &Assumptions) -> Vec<Stage> {
    let it = assumptions;
    let mut stages = Vec::new();
    let records = records(it);

    host(it, &mut stages, "sample, render", plugin(it, it.render_ms, records.len()));
    let generating = |record: &Record| request(it.common_tokens, record.own, record.answer);
    flight(it, &mut stages, "generate", records.iter().map(generating).collect(), false);
    host(it, &mut stages, "filter-generate", plugin(it, it.filter_ms, records.len()));
    let records = kept(it, records, "generate", it.kept_generate);

    if it.judge_asks > 0.0 {
        let asking = |record: &Record| {
            let own = record.question + record.answer;
            request(it.judge_common_tokens, own, it.judge_answer_tokens as u32)
        };
        let asks = records
            .iter()
            .flat_map(|record| std::iter::repeat_n(asking(record), it.judge_asks as usize));
        flight(it, &mut stages, "judge", asks.collect(), false);
        host(it, &mut stages, "filter-judge", plugin(it, it.filter_ms, records.len()));
    }
    let records = kept(it, records, "judge", it.kept_judge);

    if it.scored > 0.0 {
        let scoring = |record: &Record| request(0.0, record.question + record.answer, 1);
        flight(it, &mut stages, "score", records.iter().map(scoring).collect(), true);
        let called = plugin(it, it.score_ms, records.len());
        add_host(it, &mut stages, called);
    }
    train(it, &mut stages, &records);

    let trusted = request(0.0, (it.question_tokens + it.answer_tokens) as u32, 1);
    flight(it, &mut stages, "evaluate", vec![trusted; it.held_out as usize], true);
    stages
}

fn request(common: f64, own: u32, answer: u32) -> Request {
    Request { common: common as u32, own, answer }
}

/// Draws the records of a round, one for each completion.
fn records(it: &Assumptions) -> Vec<Record> {
    let mut draws = Draws::of(it.seed as u64, "records");
    let exemplars = (it.own_tokens - it.question_tokens).max(0.0);
    let mut records = Vec::new();
    for _ in 0..it.prompts as usize {
        let question = draws.log_normal(it.question_tokens, 0.5).max(1.0);
        let own = question + exemplars * (0.8 + 0.4 * draws.uniform());
        for _ in 0..it.samples as usize {
            let answer = draws.log_normal(it.answer_tokens, it.answer_sigma);
            let answer = answer.clamp(1.0, it.answer_most.max(1.0)) as u32;
            records.push(Record { question: question as u32, own: own as u32, answer });
        }
    }
    records
}

fn kept(it: &Assumptions, records: Vec<Record>, place: &str, share: f64) -> Vec<Record> {
    let mut draws = Draws::of(it.seed as u64, place);
    records.into_iter().filter(|_| draws.uniform() < share).collect()
}

/// Returns how long a plugin is called, on all cores.
fn plugin(it: &Assumptions, milliseconds: f64, records: usize) -> f64 {
    milliseconds / 1000.0 * records as f64 / it.host_cores
}

/// Adds a stage of requests; the policy that entered the round has an adapter.
fn flight(
    it: &Assumptions,
    stages: &mut Vec<Stage>,
    name: &'static str,
    requests: Vec<Request>,
    echoes: bool,
) {
    // What is scored stands as it is learnt, under the plain prompt.
    let chats = if echoes { 1.0 } else { it.chats };
    let flown = fly(it, &requests, true, Cost { chats, echoes });
    let idle = flown.idle * it.gpus_per_server + flown.seconds * it.training_gpus;
    let (seconds, host) = (flown.seconds, flown.host);
    stages.push(Stage { name, seconds, idle, host, flown: Some(flown) });
}

/// Adds a stage in which GPUs wait for the host.
fn host(it: &Assumptions, stages: &mut Vec<Stage>, name: &'static str, seconds: f64) {
    stages.push(Stage { name, seconds, idle: seconds * it.gpus, host: seconds, flown: None });
}

/// Adds what the host does before or after a stage's requests.
fn add_host(it: &Assumptions, stages: &mut [Stage], seconds: f64) {
    if let Some(stage) = stages.last_mut() {
        stage.seconds += seconds;
        stage.host += seconds;
        stage.idle += seconds * it.gpus;
    }
}

/// Adds training by TRL: what aligner looks at before, the job, and what it looks at after.
fn train(it: &Assumptions, stages: &mut Vec<Stage>, records: &[Record]) {
    let row =
        |record: &Record| f64::from(record.question + record.answer) + it.train_template_tokens;
    let tokens: f64 = records.iter().map(row).sum();
    let probe = probe(it, tokens / records.len().max(1) as f64);
    if probe > 0.0 {
        host(it, stages, "train: rows scored before", probe);
    }

    let turns = it.training_gpus == 0.0;
    let gpus = if turns { it.gpus } else { it.training_gpus };
    let reading = it.weight_bytes() / 1e9 / it.disk_gb_per_second;
    let flops = it.train_flops * it.billions * 1e9 * tokens * it.train_epochs;
    let products = flops / (gpus * it.gpu_tflops * 1e12 * it.train_share);
    let updates = (records.len() as f64 * it.train_epochs / it.train_batch).ceil();
    let others = updates * it.train_step_seconds;
    let waiting =
        |name, seconds| Stage { name, seconds, idle: seconds * it.gpus, host: 0.0, flown: None };
    if turns {
        stages.push(waiting("train: servers stop", it.stop_seconds));
    }
    stages.push(waiting("train: job starts", it.train_launch_seconds + reading));
    let seconds = products + others;
    let idle = others * gpus + seconds * (it.gpus - gpus);
    stages.push(Stage { name: "train: updates", seconds, idle, host: 0.0, flown: None });
    if probe > 0.0 {
        host(it, stages, "train: rows scored after", probe);
    }
    let through = it.adapter_gb() * it.host_adapter_seconds;
    host(it, stages, "train: adapter through the host", through);
    if turns {
        stages.push(waiting("train: servers start", it.start_seconds + reading));
    }
    let loading = it.adapter_gb() / it.disk_gb_per_second;
    stages.push(waiting("servers load the adapter", loading));
}

/// Returns how long the embedded engine, where it does that, takes to read the weights and to score the rows that show whether TRL trains
/// the same model. Reading is no faster than the file system.
fn probe(it: &Assumptions, tokens: f64) -> f64 {
    let cores = (it.host_cores * it.host_cores_share).max(1.0);
    let gigabytes = it.weight_bytes() / 1e9;
    let reading = gigabytes * it.host_read_seconds / cores;
    // Where the host takes no time, reading takes none.
    let reading = if it.host_read_seconds > 0.0 {
        reading.max(gigabytes / it.disk_gb_per_second)
    } else {
        0.0
    };
    let scoring = it.probe_rows * tokens * it.billions * it.host_score_ms / 1000.0 / cores;
    if it.probe_rows > 0.0 { reading + scoring } else { 0.0 }
}
