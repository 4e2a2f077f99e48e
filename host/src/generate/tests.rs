//! What holds whatever runs beside a sequence.

use super::*;
use crate::logprob::{Row, score};
use crate::model::backend::cpu::Cpu;
use crate::model::tiny;
use crate::model::weights::Weights;

pub(super) fn engine(spec: Spec) -> Engine<Cpu> {
    let weights = Weights::load(&Cpu::new(), &tiny::checkpoint(spec, 1), &mut |_, _| ());
    Engine::new(Cpu::new(), weights.unwrap())
}

/// Nine jobs, of which most begin alike and two are equal but for the seed.
pub(super) fn jobs() -> Vec<Job> {
    let random = |seed, len| (0..len).map(move |i| seed::bits(seed, i) as u32 % 300);
    let common: Vec<u32> = random(1, 50).collect();
    let job = |i: u64| {
        let own = random(2 + i / 2, [0, 1, 30, 140][i as usize % 4]);
        let prompt: Vec<u32> = match i {
            5 => random(9, 1).collect(),
            _ => common.iter().copied().chain(own).collect(),
        };
        let sampling = Sampling {
            temperature: [1.0, 0.7, 0.0][i as usize % 3],
            top_p: [1.0, 0.9][i as usize % 2],
            top_k: [0, 0, 20][i as usize % 3],
            repetition_penalty: [1.0, 1.3][i as usize / 2 % 2],
            max_new_tokens: 1 + (7 * i as usize) % 40,
        };
        Job { prompt, sampling, seed: i }
    };
    let mut jobs: Vec<Job> = (0..9).map(job).collect();
    jobs[8] = Job { seed: 77, ..jobs[2].clone() };
    jobs
}

pub(super) fn run(
    engine: &Engine<Cpu>,
    adapter: Option<&LoadedAdapter<Cpu>>,
    jobs: &[Job],
    settings: &Settings,
) -> Vec<Output> {
    let mut outputs = vec![None; jobs.len()];
    let hooks = Hooks {
        stop: &|_, tokens| tokens.ends_with(&[7, 8]),
        on_done: &mut |index, output| {
            assert!(outputs[index].replace(output).is_none());
            ControlFlow::Continue(())
        },
        progress: &mut |_| ControlFlow::Continue(()),
    };
    generate(engine, adapter, jobs, settings, hooks).unwrap();
    outputs.into_iter().map(Option::unwrap).collect()
}

pub(super) fn settings(max_batch: usize, prefill_rows: usize) -> Settings {
    Settings { end_tokens: vec![3], max_batch, prefill_rows, ..Settings::default() }
}

#[test]
fn batch_chunks_threads_sharing_and_memory_change_no_bit() {
    let engine = engine(tiny::spec(16, true));
    let adapter = tiny::adapter(&engine.weights.spec, 5);
    let adapter = engine.load_adapter(&adapter, 1.0).unwrap();
    let jobs = jobs();
    for adapter in [None, Some(&adapter)] {
        let all = run(&engine, adapter, &jobs, &settings(8, 512));
        // Alone, nothing is shared.
        for (job, output) in jobs.iter().zip(&all) {
            let alone = run(&engine, adapter, std::slice::from_ref(job), &settings(1, 512));
            assert_eq!(alone, std::slice::from_ref(output));
        }
        for (max_batch, rows) in [(1, 512), (3, 512), (8, 1), (8, 5), (100, 33), (2, 16)] {
            assert_eq!(run(&engine, adapter, &jobs, &settings(max_batch, rows)), all);
        }
        for threads in [1, 2, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let outputs = pool.install(|| run(&engine, adapter, &jobs, &settings(4, 64)));
            assert_eq!(outputs, all, "{threads} threads");
        }
        // Room for the longest job and one page.
        let page = engine.backend.cache_bytes(engine.cache_shape(1));
        for pages in [14, 15, 17, 20, 25] {
            let small = Settings { cache_bytes: pages * page, ..settings(8, 64) };
            assert_eq!(run(&engine, adapter, &jobs, &small), all, "{pages} pages");
        }
    }
}

#[test]
fn a_completion_scored_again_has_the_logprob_it_was_drawn_with() {
    for spec in [tiny::spec(16, true), Spec { vocab: 1300, ..tiny::spec(32, false) }] {
        let engine = engine(spec);
        let jobs = jobs();
        let outputs = run(&engine, None, &jobs, &settings(8, 512));
        let rows: Vec<Row> = jobs
            .iter()
            .zip(&outputs)
            .map(|(job, output)| Row {
                tokens: [&job.prompt[..], &output.tokens[..]].concat(),
                from: job.prompt.len(),
            })
            .collect();
        for settings in [settings(8, 512), settings(2, 10)] {
            let scores = score(&engine, None, &rows, &settings, &mut |_| ControlFlow::Continue(()));
            for (score, output) in scores.unwrap().iter().zip(&outputs) {
                assert_eq!(score.logprob, output.logprob);
                assert_eq!(score.token_logprobs.len(), output.tokens.len());
                let entropy = score.entropy / output.tokens.len() as f64;
                assert_eq!(entropy, output.entropy);
            }
        }
    }
}

#[test]
fn scores_are_those_of_the_plain_model() {
    let checkpoint = tiny::checkpoint(Spec { vocab: 700, ..tiny::spec(16, true) }, 1);
    let weights = Weights::load(&Cpu::new(), &checkpoint, &mut |_, _| ()).unwrap();
    let engine = Engine::new(Cpu::new(), weights);
    let tokens: Vec<u32> = (0..60).map(|i| seed::bits(4, i) as u32 % 700).collect();
    let logits = tiny::oracle(&checkpoint, None, &tokens);
    let rows: Vec<Row> = [1, 17, 59, 60].map(|from| Row { tokens: tokens.clone(), from }).into();
    let scores = score(&engine, None, &rows, &settings(8, 20), &mut |_| ControlFlow::Continue(()));
    for (row, score) in rows.iter().zip(scores.unwrap()) {
        let (mut logprob, mut entropy) = (0.0, 0.0);
        for at in row.from..60 {
            let logits = &logits[(at - 1) * 700..at * 700];
            let log_sum = logits.iter().map(|&l| (l as f64).exp()).sum::<f64>().ln();
            logprob += logits[tokens[at] as usize] as f64 - log_sum;
            let p = logits.iter().map(|&l| l as f64 - log_sum);
            entropy -= p.map(|p| p * p.exp()).sum::<f64>();
        }
        assert!((score.logprob - logprob).abs() < 1e-3, "{} {logprob}", score.logprob);
        assert!((score.entropy - entropy).abs() < 1e-3, "{} {entropy}", score.entropy);
        assert_eq!(score.token_logprobs.len(), 60 - row.from);
    }
}

#[test]
fn completions_end_where_they_should() {
    let engine = engine(tiny::spec(16, true));
    let sampling = Sampling {
        temperature: 1.0,
        top_p: 1.0,
        top_k: 0,
        repetition_penalty: 1.0,
        max_new_tokens: 60,
    };
    let jobs: Vec<Job> = (0..20).map(|seed| Job { prompt: vec![1, 2], sampling, seed }).collect();
    let settings = Settings { end_tokens: (0..100).collect(), ..settings(8, 512) };
    let mut ended = 0;
    for output in run(&engine, None, &jobs, &settings) {
        let (last, before) = output.tokens.split_last().unwrap();
        assert!(before.iter().all(|token| *token >= 100));
        assert_eq!(output.ended, *last < 100);
        assert!(output.ended || output.tokens.len() == 60);
        ended += usize::from(output.ended);
    }
    assert!(ended > 10, "{ended}");
}

#[test]
fn jobs_that_cannot_run_are_refused_before_the_first_pass() {
    let engine = engine(tiny::spec(16, true));
    let good = Job { prompt: vec![1; 20], ..jobs()[0].clone() };
    let refused = |job: Job, settings: &Settings| {
        let hooks = Hooks {
            stop: &|_, _| panic!("nothing should run"),
            on_done: &mut |_, _| panic!("nothing should run"),
            progress: &mut |_| panic!("nothing should run"),
        };
        let jobs = [good.clone(), job];
        generate(&engine, None, &jobs, settings, hooks).unwrap_err().to_string()
    };
    let with = |sampling: Sampling| Job { sampling, ..good.clone() };
    let plain = good.sampling;
    for (job, message) in [
        (Job { prompt: vec![], ..good.clone() }, "sequence 1 has no prompt"),
        (Job { prompt: vec![5, 300], ..good.clone() }, "token 300, but the model has 300"),
        (
            Job { prompt: vec![5; 512], ..good.clone() },
            "sequence 1 has 512 tokens and up to 1 new ones, but the model's context is 512",
        ),
        (
            with(Sampling { temperature: -1.0, ..plain }),
            "sequence 1 has `temperature` = -1, which must be",
        ),
        (with(Sampling { temperature: f64::NAN, ..plain }), "`temperature` = NaN"),
        (with(Sampling { top_p: 0.0, ..plain }), "`top_p` = 0, which must be over 0"),
        (with(Sampling { repetition_penalty: 0.0, ..plain }), "`repetition_penalty` = 0"),
        (with(Sampling { max_new_tokens: 0, ..plain }), "`max_new_tokens` = 0"),
        (
            with(Sampling { max_new_tokens: usize::MAX, ..plain }),
            "the model's context is 512 tokens",
        ),
    ] {
        let found = refused(job, &settings(8, 512));
        assert!(found.contains(message), "{found:?} instead of {message:?}");
    }
}

#[test]
fn a_sequence_has_the_cache_that_it_needs_by_itself() {
    let engine = engine(tiny::spec(16, true));
    let jobs = jobs();
    let all = run(&engine, None, &jobs, &settings(8, 512));
    let none = Settings { cache_bytes: 0, ..settings(8, 512) };
    assert_eq!(run(&engine, None, &jobs, &none), all);
}

#[test]
fn a_caller_can_stop_at_any_pass() {
    let engine = engine(tiny::spec(16, true));
    let mut passes = 0;
    let mut done = 0;
    let hooks = Hooks {
        stop: &|_, _| false,
        on_done: &mut |_, _| {
            done += 1;
            ControlFlow::Continue(())
        },
        progress: &mut |_| {
            passes += 1;
            if passes == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        },
    };
    let error = generate(&engine, None, &jobs(), &settings(8, 512), hooks).unwrap_err();
    assert!(matches!(error, SequenceError::Cancelled));
    assert!(passes == 3 && done >= 1, "{passes} {done}");
}
