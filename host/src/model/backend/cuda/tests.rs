//! Every operation against the processor's, on random inputs that are new each time. Where there is no
//! card, the tests say so and pass.

use std::sync::OnceLock;

mod attention;
mod beside;
mod passes;
mod products;

use super::Cuda;
use crate::model::backend::cpu::Cpu;
use crate::model::backend::training::{AdamWStep, AdamWTensor, Draw, TrainingBackend};
use crate::model::backend::{Backend, Rotary, Segment, TokenDraw, TokenLogprob, WeightType, Write};
use crate::model::tiny::normal;
use crate::run::seed;

/// Opens the card for weights of this type, where there is one.
pub(crate) fn open(weight_type: WeightType) -> Option<Cuda> {
    match Cuda::open(0, weight_type) {
        Ok(card) => Some(card),
        Err(error) => {
            // Where there must be one, nothing is skipped.
            assert!(std::env::var_os("ALIGNER_TEST_CUDA").is_none(), "{error}");
            eprintln!("skipped, as {error}");
            None
        }
    }
}

/// Returns the card for weights in f32, where there is one.
fn card() -> Option<&'static Cuda> {
    static CARD: OnceLock<Option<Cuda>> = OnceLock::new();
    CARD.get_or_init(|| open(WeightType::F32)).as_ref()
}

/// Returns the card for weights in bf16, where there is one.
fn rounding_card() -> Option<&'static Cuda> {
    static CARD: OnceLock<Option<Cuda>> = OnceLock::new();
    CARD.get_or_init(|| open(WeightType::Bf16)).as_ref()
}

/// Returns what random numbers of this run are keyed by; `ALIGNER_TEST_SEED` gives it again.
pub(crate) fn fresh() -> u64 {
    static SEED: OnceLock<u64> = OnceLock::new();
    *SEED.get_or_init(|| {
        let given = std::env::var("ALIGNER_TEST_SEED").ok().and_then(|text| text.parse().ok());
        let now = || {
            let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            since.map_or(0, |since| since.as_nanos() as u64)
        };
        let seed = given.unwrap_or_else(now);
        eprintln!("ALIGNER_TEST_SEED={seed}");
        seed
    })
}

/// Numbers of a normal distribution that are this run's own.
fn random(name: &str, len: usize, scale: f64) -> Vec<f32> {
    normal(seed::of([fresh().into(), name.into(), (len as u64).into()]), len, scale)
}

fn below(name: &str, len: usize, limit: u64) -> Vec<u32> {
    let seed = seed::of([fresh().into(), name.into()]);
    (0..len as u64).map(|i| (seed::bits(seed, i) % limit) as u32).collect()
}

/// Returns the norm of the difference, relative to that of what is wanted.
#[track_caller]
pub(crate) fn difference(name: &str, found: &[f32], wanted: &[f32]) -> f64 {
    assert_eq!(found.len(), wanted.len(), "{name}");
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let pairs = || found.iter().zip(wanted);
    let size = norm(&mut wanted.iter().map(|&x| f64::from(x)));
    let error = norm(&mut pairs().map(|(&a, &b)| f64::from(a) - f64::from(b)));
    let worst = pairs().map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    let error = if size > 0.0 { error / size } else { error };
    eprintln!("{name:<40} {error:.2e} (most {worst:.2e})");
    error
}

/// Compares in that norm.
#[track_caller]
pub(crate) fn compare(name: &str, found: &[f32], wanted: &[f32], bound: f64) {
    let error = difference(name, found, wanted);
    // A NaN must not pass.
    assert!(error <= bound, "{name}: {error:e} is over {bound:e}");
}

/// Runs the same body with both devices; it returns named outputs, which are compared.
macro_rules! check {
    ($bound:expr, $b:ident => $body:expr) => {
        check!(card(), $bound, $b => $body)
    };
    ($card:expr, $bound:expr, $b:ident => $body:expr) => {{
        let Some(card) = $card else { return };
        let wanted: Vec<(String, Vec<f32>)> = {
            let $b = &Cpu::new();
            $body
        };
        let found: Vec<(String, Vec<f32>)> = {
            let $b = card;
            $body
        };
        for ((name, wanted), (_, found)) in wanted.iter().zip(&found) {
            compare(name, found, wanted, $bound);
        }
    }};
}

use check;

fn all<B: Backend>(backend: &B, buffer: &B::Buffer) -> Vec<f32> {
    backend.view(buffer, 0..backend.len(buffer)).unwrap().into_owned()
}

/// A buffer whose every number must be overwritten.
fn poisoned<B: Backend>(backend: &B, len: usize) -> B::Buffer {
    backend.upload(&vec![f32::NAN; len]).unwrap()
}

/// A buffer that is overwritten, or added to.
fn output<B: Backend>(backend: &B, len: usize, write: Write) -> B::Buffer {
    match write {
        Write::Set => poisoned(backend, len),
        Write::Add => backend.upload(&random("before", len, 1.0)).unwrap(),
    }
}

const F32: f64 = 3e-6;
const BF16: f64 = 6e-3;
const WRITES: [Write; 2] = [Write::Set, Write::Add];

#[test]
fn products() {
    for (rows, outputs, inputs) in [
        (1, 48, 88),
        (7, 300, 48),
        (12, 72, 200),
        (33, 16, 576),
        (256, 576, 1536),
        (700, 200, 40),
        (3000, 192, 576),
        (5, 49, 31),
    ] {
        for (weight_type, bound) in [(WeightType::F32, F32), (WeightType::Bf16, BF16)] {
            check!(bound, b => {
                let w = random("w", outputs * inputs, 0.1);
                let w = b.pack(&w, outputs, inputs, weight_type).unwrap();
                let x = b.upload(&random("x", rows * inputs, 1.0)).unwrap();
                let dy = b.upload(&random("dy", rows * outputs, 1.0)).unwrap();
                let mut outputs_of = vec![];
                for write in WRITES {
                    let mut y = output(b, rows * outputs, write);
                    b.linear(&x, rows, &w, &mut y, write);
                    let mut dx = output(b, rows * inputs, write);
                    b.linear_backward(&dy, rows, &w, &mut dx, write);
                    let what = format!("{weight_type} {rows} {outputs} {inputs} {write:?}");
                    outputs_of.push((format!("linear {what}"), all(b, &y)));
                    outputs_of.push((format!("linear_backward {what}"), all(b, &dx)));
                }
                outputs_of.push((format!("unpack {weight_type}"), b.unpack(&w).unwrap()));
                outputs_of
            });
        }
        check!(F32, b => {
            let x = b.upload(&random("x", rows * inputs, 1.0)).unwrap();
            let dy = b.upload(&random("dy", rows * outputs, 1.0)).unwrap();
            let mut dw = output(b, outputs * inputs, Write::Add);
            b.weight_gradient(&dy, &x, rows, outputs, inputs, 0.3, &mut dw);
            let w = b.pack(&random("w", outputs * inputs, 0.1), outputs, inputs, WeightType::F32);
            let mut packed = b.zeros(b.packed_len(outputs, inputs)).unwrap();
            b.packed_weight_gradient(&dy, &x, rows, &w.unwrap(), &mut packed);
            vec![
                (format!("weight_gradient {rows} {outputs} {inputs}"), all(b, &dw)),
                ("packed_weight_gradient".into(), b.unpack_buffer(&packed, outputs, inputs).unwrap()),
            ]
        });
    }
}

/// The order of additions of a row depends on nothing but the row.
#[test]
fn rows_do_not_depend_on_how_many_there_are() {
    let Some(b) = card() else { return };
    for (outputs, inputs) in [
        (576, 1536),
        (1536, 576),
        (192, 576),
        (4104, 136),
        (49152, 576),
        (300, 48),
        (130, 8),
        (77, 1000),
    ] {
        for weight_type in [WeightType::F32, WeightType::Bf16] {
            let w = b.pack(&random("w", outputs * inputs, 0.1), outputs, inputs, weight_type);
            let w = w.unwrap();
            // Large ones take the processor long, which `make check-cuda` has instead of a card.
            let most = match outputs * inputs {
                10_000_000.. => 70,
                500_000.. => 600,
                _ => 2048,
            };
            let x = random("x", most * inputs, 1.0);
            let mut whole = poisoned(b, most * outputs);
            b.linear(&b.upload(&x).unwrap(), most, &w, &mut whole, Write::Set);
            let whole = all(b, &whole);
            let counts = [1, 2, 7, 9, 16, 17, 33, 64, 100, 256, 1025, most];
            for rows in counts.into_iter().filter(|&rows| rows <= most) {
                let first = (most - rows) / 2;
                let x = b.upload(&x[first * inputs..][..rows * inputs]).unwrap();
                let mut y = poisoned(b, rows * outputs);
                b.linear(&x, rows, &w, &mut y, Write::Set);
                let same = all(b, &y) == whole[first * outputs..][..rows * outputs];
                eprintln!("{weight_type} {outputs} {inputs} {rows} rows: {same}");
                assert!(same, "{weight_type} {outputs} {inputs}: {rows} rows of {most}");
            }
        }
    }
}

#[test]
fn rows_and_numbers() {
    for (rows, width) in [(1, 48), (37, 64), (130, 576), (9, 2048), (3, 31)] {
        let len = rows * width;
        check!(F32, b => {
            let x = b.upload(&random("x", len, 1.0)).unwrap();
            let dy = b.upload(&random("dy", len, 1.0)).unwrap();
            let w = b.upload(&random("w", width, 1.0)).unwrap();
            let mut found = vec![];
            let mut y = poisoned(b, len);
            b.rms_norm(&x, rows, &w, 1e-5, &mut y);
            found.push((format!("rms_norm {rows} {width}"), all(b, &y)));
            for write in WRITES {
                let mut dx = output(b, len, write);
                b.rms_norm_backward(&dy, &x, rows, &w, 1e-5, &mut dx, write);
                found.push((format!("rms_norm_backward {write:?}"), all(b, &dx)));
                let mut y = output(b, len, write);
                b.add_scaled(&x, 0.7, len, &mut y, write);
                found.push((format!("add_scaled {write:?}"), all(b, &y)));
                let draws = [Draw { rows: rows / 2, seed: 5 }, Draw { rows: rows - rows / 2, seed: 6 }];
                let mut y = output(b, len, write);
                b.dropout(&x, width, &draws, 0.3, &mut y, write);
                found.push((format!("dropout {write:?}"), all(b, &y)));
            }
            let mut dw = output(b, width, Write::Add);
            b.rms_norm_weight_gradient(&dy, &x, rows, width, 1e-5, &mut dw);
            found.push(("rms_norm_weight_gradient".into(), all(b, &dw)));
            let mut db = output(b, width, Write::Add);
            b.bias_gradient(&dy, rows, width, &mut db);
            found.push(("bias_gradient".into(), all(b, &db)));
            let mut y = output(b, len, Write::Add);
            b.add_bias(&w, rows, &mut y);
            found.push(("add_bias".into(), all(b, &y)));
            let factors = random("factors", rows, 1.0);
            b.scale_rows(&mut y, width, &factors);
            found.push(("scale_rows".into(), all(b, &y)));
            let mut y = poisoned(b, len);
            b.swiglu(&x, &dy, len, &mut y);
            found.push(("swiglu".into(), all(b, &y)));
            let (mut dgate, mut dup) = (poisoned(b, len), poisoned(b, len));
            b.swiglu_backward(&y, &x, &dy, len, &mut dgate, &mut dup);
            found.push(("swiglu_backward gate".into(), all(b, &dgate)));
            found.push(("swiglu_backward up".into(), all(b, &dup)));
            let picked: Vec<usize> = (0..rows).rev().step_by(2).collect();
            let mut y = poisoned(b, picked.len() * width);
            b.gather(&x, width, &picked, &mut y);
            found.push(("gather".into(), all(b, &y)));
            let mut z = poisoned(b, len);
            b.scatter(&y, width, &picked, rows, &mut z);
            found.push(("scatter".into(), all(b, &z)));
            b.write(&[1.0, 2.0], &mut z, 3);
            found.push(("write".into(), b.view(&z, 1..8).unwrap().into_owned()));
            b.clear(&mut z);
            found.push(("clear".into(), all(b, &z)));
            found
        });
    }
}

#[test]
fn embeddings() {
    let (vocab, width) = (300, 48);
    let tokens = below("tokens", 70, 20);
    for weight_type in [WeightType::F32, WeightType::Bf16] {
        check!(1e-7, b => {
            let e = b.pack(&random("e", vocab * width, 1.0), vocab, width, weight_type).unwrap();
            let mut y = poisoned(b, tokens.len() * width);
            b.embed(&e, &tokens, &mut y);
            vec![(format!("embed {weight_type}"), all(b, &y))]
        });
    }
    check!(F32, b => {
        let e = b.pack(&random("e", vocab * width, 1.0), vocab, width, WeightType::F32).unwrap();
        let dy = b.upload(&random("dy", tokens.len() * width, 1.0)).unwrap();
        let mut dw = b.pack_buffer(&random("before", vocab * width, 1.0), vocab, width).unwrap();
        b.embed_backward(&dy, &tokens, &e, &mut dw);
        vec![("embed_backward".into(), b.unpack_buffer(&dw, vocab, width).unwrap())]
    });
}

#[test]
fn the_optimiser() {
    // Some end where a block's piece ends, and some just before or after.
    let lens = [5000, 1, 16384, 16383, 16385, 40000, 33];
    check!(F32, b => {
        let values = |name: &str, i: usize| random(&format!("{name} {i}"), lens[i], 1.0);
        let squares = |i: usize| values("v", i).iter().map(|v| v * v).collect::<Vec<_>>();
        let of = |name: &str| -> Vec<_> {
            (0..lens.len()).map(|i| b.upload(&values(name, i)).unwrap()).collect()
        };
        let (mut p, g, mut m) = (of("p"), of("g"), of("m"));
        let mut v: Vec<_> = (0..lens.len()).map(|i| b.upload(&squares(i)).unwrap()).collect();
        let mut w = b.pack(&values("p", 0), 50, 100, WeightType::F32).unwrap();
        let packed = |values: Vec<f32>| b.pack_buffer(&values, 50, 100).unwrap();
        let (packed_g, mut packed_m) = (packed(values("g", 0)), packed(values("m", 0)));
        let mut packed_v = packed(squares(0));
        for step in 1..4 {
            let step = AdamWStep {
                step, learning_rate: 1e-2, beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.1,
                gradient_scale: 0.5,
            };
            let gradients_and_moments = g.iter().zip(&mut m).zip(&mut v);
            let tensor = |(parameters, ((gradient, first), second))| {
                AdamWTensor { parameters, gradient, first, second }
            };
            let mut tensors: Vec<_> = p.iter_mut().zip(gradients_and_moments).map(tensor).collect();
            b.adamw(&mut tensors, &step);
            b.adamw_packed(&mut w, &packed_g, &mut packed_m, &mut packed_v, &step);
        }
        b.adamw(&mut [], &AdamWStep { step: 1, learning_rate: 1.0, beta1: 0.9, beta2: 0.99, eps: 1.0,
            weight_decay: 0.0, gradient_scale: 1.0 });
        let mut found = vec![("adamw_packed".into(), b.unpack(&w).unwrap())];
        for (i, len) in lens.into_iter().enumerate() {
            found.push((format!("adamw {len}"), all(b, &p[i])));
            found.push(("adamw first".into(), all(b, &m[i])));
            found.push(("adamw second".into(), all(b, &v[i])));
        }
        found
    });
}

#[test]
fn squares() {
    let lens = [16384, 7, 1, 100_000, 0, 16385];
    check!(1e-7, b => {
        let buffers: Vec<_> = lens
            .iter()
            .map(|&len| b.upload(&random("x", len, 1.0)).unwrap())
            .collect();
        let norm = |buffers: &[&_]| b.squared_norm(buffers).unwrap();
        let whole: Vec<_> = buffers.iter().collect();
        assert_eq!(norm(&whole), norm(&whole));
        let mut found = vec![("squared_norm".into(), vec![norm(&whole) as f32, norm(&[]) as f32])];
        for buffer in &buffers {
            found.push((format!("squared_norm {}", b.len(buffer)), vec![norm(&[buffer]) as f32]));
        }
        found
    });
}

fn flat(said: &[TokenLogprob]) -> Vec<f32> {
    let numbers = |said: &TokenLogprob| [said.logprob, said.log_sum, said.entropy, said.mean_logit];
    said.iter().flat_map(numbers).collect()
}

#[test]
fn the_head() {
    for (rows, vocab, inputs) in [(5, 300, 48), (1500, 1000, 64), (20, 49152, 576)] {
        for (weight_type, bound) in [(WeightType::F32, 2e-5), (WeightType::Bf16, 1e-2)] {
            let targets = below("targets", rows, vocab as u64);
            let weights = random("weights", rows, 1.0);
            check!(bound, b => {
                let head = b.pack(&random("head", vocab * inputs, 0.1), vocab, inputs, weight_type);
                let head = head.unwrap();
                let hidden = b.upload(&random("hidden", rows * inputs, 1.0)).unwrap();
                let said = b.logprobs(&hidden, &head, &targets).unwrap();
                let mut dhidden = poisoned(b, rows * inputs);
                let again = b.logprobs_backward(&hidden, &head, &targets, &weights, &mut dhidden, None);
                let again = again.unwrap();
                // In bf16 a product of training takes what is fastest.
                assert!(said == again || weight_type == WeightType::Bf16);
                let mut logits = poisoned(b, rows * vocab);
                b.linear(&hidden, rows, &head, &mut logits, Write::Set);
                assert_eq!(said, b.logprobs_of_logits(&logits, vocab, &targets).unwrap());
                let mut found = vec![
                    (format!("logprobs {weight_type} {rows} {vocab}"), flat(&said)),
                    ("logprobs_backward".into(), all(b, &dhidden)),
                    ("logprobs_backward says".into(), flat(&again)),
                ];
                if weight_type == WeightType::F32 {
                    let mut dhead = b.zeros(b.packed_len(vocab, inputs)).unwrap();
                    b.logprobs_backward(
                        &hidden, &head, &targets, &weights, &mut dhidden, Some(&mut dhead),
                    ).unwrap();
                    let dhead = b.unpack_buffer(&dhead, vocab, inputs).unwrap();
                    found.push(("logprobs_backward head".into(), dhead));
                }
                found
            });
        }
    }
}

/// What is drawn follows the same rules as on the processor.
#[test]
fn draws() {
    let Some(b) = card() else { return };
    let (rows, vocab) = (40, 5000);
    let logits = random("logits", rows * vocab, 3.0);
    let buffer = b.upload(&logits).unwrap();
    for (temperature, top_p, top_k) in [
        (0.0, 1.0, 0),
        (1.0, 1.0, 0),
        (0.7, 0.95, 0),
        (1.3, 1.0, 50),
        (0.9, 0.8, 20),
        (1e-9, 0.5, 3),
    ] {
        let seed = seed::of([fresh().into(), "draws".into()]);
        let draw = |i| TokenDraw { temperature, top_p, top_k, uniform: seed::uniform(seed, i) };
        let draws: Vec<TokenDraw> = (0..rows as u64).map(draw).collect();
        let drawn = b.draw(&buffer, vocab, &draws).unwrap().expect("this device draws");
        assert_eq!(b.draw(&buffer, vocab, &draws).unwrap().as_ref(), Some(&drawn));
        let (tokens, said): (Vec<u32>, Vec<TokenLogprob>) = drawn.into_iter().unzip();
        assert_eq!(b.logprobs_of_logits(&buffer, vocab, &tokens).unwrap(), said);
        for ((logits, draw), token) in logits.chunks(vocab).zip(&draws).zip(tokens) {
            let wanted = wanted(logits, draw);
            let (before, own) = (wanted[token as usize].0, wanted[token as usize].1);
            let what = format!("{draw:?}: {token} after {before}, with {own}");
            let slack = 1e-4;
            assert!(own > 0.0 && before - slack <= draw.uniform, "{what}");
            assert!(draw.uniform <= before + own + slack, "{what}");
        }
    }
}

/// Returns, in f64, each token's probability after the rules, and the sum of those before it.
fn wanted(logits: &[f32], draw: &TokenDraw) -> Vec<(f64, f64)> {
    let max = logits.iter().copied().fold(f32::MIN, f32::max);
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    let weight = |token: usize| match draw.temperature {
        0.0 => f64::from(u8::from(token == order[0])),
        temperature => (f64::from(logits[token] - max) / temperature).exp(),
    };
    let keep = if draw.top_k == 0 { logits.len() } else { draw.top_k as usize };
    let all: f64 = order[..keep].iter().map(|&token| weight(token)).sum();
    let (mut mass, mut probabilities) = (0.0, vec![0.0; logits.len()]);
    for &token in &order[..keep] {
        // One that the bound just leaves out may have come in by rounding.
        if mass >= (draw.top_p + 1e-6) * all {
            break;
        }
        mass += weight(token);
        probabilities[token] = weight(token);
    }
    let mut before = 0.0;
    let sum = |own: f64| {
        let at = before / mass;
        before += own;
        (at, own / mass)
    };
    probabilities.into_iter().map(sum).collect()
}

#[test]
fn rotation() {
    for head_dim in [10, 64] {
        let segments = [Segment::cached(20, 3, vec![0, 1]), Segment::cached(1, 40, vec![2, 3, 4])];
        check!(F32, b => {
            let frequencies: Vec<f64> = (0..head_dim / 2).map(|i| 0.3f64.powi(i as i32)).collect();
            let rotary = Rotary::new(b, &frequencies, 64).unwrap();
            let plan = b.plan(&segments).unwrap();
            let mut x = b.upload(&random("x", 21 * 3 * head_dim, 1.0)).unwrap();
            b.rope(&mut x, 3, rotary.as_ref(), &plan, false);
            let forward = all(b, &x);
            b.rope(&mut x, 3, rotary.as_ref(), &plan, true);
            vec![("rope".into(), forward), ("rope back".into(), all(b, &x))]
        });
    }
}

/// A failure in between is reported by the next call that returns a result, and then is over.
#[test]
fn a_failure_is_reported_once() {
    if card().is_none() {
        return;
    }
    // Not the one that the other tests share.
    let b = Cuda::open(0, WeightType::F32).unwrap();
    let huge = b.zeros(1 << 45);
    assert!(huge.err().unwrap().to_string().contains("no room for"), "more than any card has");
    b.device.remember("a trial".into());
    let error = b.zeros(1).err().unwrap().to_string();
    assert_eq!(error, "cuda:0 failed: a trial");
    assert!(b.zeros(1).is_ok());
    // One card is `numbered 0`, several are `numbered from 0`.
    let error = Cuda::open(1000, WeightType::F32).err().unwrap().to_string();
    assert!(error.contains("numbered"), "{error}");
}
