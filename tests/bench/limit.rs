//! What the machine could do: its peak rates, measured, and what a piece of work costs at least.

use std::hint::black_box;
use std::time::Instant;

use aligner::model::spec::{Linear, Spec};
use serde::Serialize;

use aligner::model::backend::WeightType;
#[cfg(target_arch = "x86_64")]
use aligner::model::backend::cpu::Cpu;

use crate::row::{Isa, Method, Work, bytes};

/// Peak rates of some threads together.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Machine {
    /// How many.
    pub threads: usize,
    /// Multiplications and additions of f32 in a second, with the best instructions.
    pub f32_rate: f64,
    /// The same with bf16 factors; that of f32 where there is no instruction for it.
    pub bf16_rate: f64,
    /// The same with 8-bit factors; that of f32 where there is no instruction for it.
    pub int8_rate: f64,
    /// The same with what every processor has, for f32.
    pub portable_rate: f64,
    /// Bytes read from memory in a second.
    pub bandwidth: f64,
}

impl Machine {
    /// Measures: the best of several tries, as a peak is one.
    pub fn measure(threads: usize) -> Machine {
        let rate = |kernel: Kernel| {
            best(5, || together(threads, |_| kernel.seconds())).recip()
                * kernel.operations()
                * threads as f64
        };
        let f32_rate = rate(Kernel::f32());
        let typed = |kernel: Option<Kernel>| kernel.map_or(f32_rate, |k| rate(k).max(f32_rate));
        Machine {
            threads,
            f32_rate,
            bf16_rate: typed(Kernel::bf16()),
            int8_rate: typed(Kernel::int8()),
            portable_rate: rate(Kernel::Portable),
            bandwidth: bandwidth(threads),
        }
    }

    /// Measures once more and keeps the better: a busy machine hides its peaks.
    pub fn measure_again(&mut self) {
        let again = Machine::measure(self.threads);
        self.f32_rate = self.f32_rate.max(again.f32_rate);
        self.bf16_rate = self.bf16_rate.max(again.bf16_rate);
        self.int8_rate = self.int8_rate.max(again.int8_rate);
        self.portable_rate = self.portable_rate.max(again.portable_rate);
        self.bandwidth = self.bandwidth.max(again.bandwidth);
    }

    /// Returns the least time that work can take on this machine, in seconds.
    pub fn seconds(&self, cost: &[Phase], weights: WeightType, isa: Isa) -> f64 {
        let (rate, exact) = match (isa, weights) {
            (Isa::Portable, _) => (self.portable_rate, self.portable_rate),
            (_, WeightType::F32) => (self.f32_rate, self.f32_rate),
            (_, WeightType::Bf16) => (self.bf16_rate, self.f32_rate),
            (_, WeightType::Int8) => (self.int8_rate, self.f32_rate),
        };
        let phase = |phase: &Phase| {
            let compute = phase.weight_operations / rate + phase.operations / exact;
            phase.times * compute.max(phase.bytes / self.bandwidth)
        };
        cost.iter().map(phase).sum()
    }
}

/// A loop of multiplications and additions in registers.
#[derive(Clone, Copy)]
enum Kernel {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    #[cfg(target_arch = "x86_64")]
    AmxBf16,
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
}

const TURNS: u64 = 4_000_000;
/// Independent sums: enough to hide what one instruction takes.
const SUMS: usize = 12;

impl Kernel {
    fn f32() -> Kernel {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                return Kernel::Avx512;
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                return Kernel::Avx2;
            }
        }
        Kernel::Portable
    }

    fn bf16() -> Option<Kernel> {
        // Whoever has the backend has asked the system for the tile registers.
        #[cfg(target_arch = "x86_64")]
        if Cpu::new().isa().class(WeightType::Bf16) == "amx-bf16" {
            return Some(Kernel::AmxBf16);
        }
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512bf16") {
            return Some(Kernel::Avx512Bf16);
        }
        None
    }

    fn int8() -> Option<Kernel> {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512vnni") {
            return Some(Kernel::Avx512Vnni);
        }
        None
    }

    /// Multiplications and additions of one call.
    fn operations(self) -> f64 {
        let lanes = match self {
            Kernel::Portable => 4,
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2 => 8,
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512 => 16,
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512Bf16 => 32,
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512Vnni => 64,
            #[cfg(target_arch = "x86_64")]
            Kernel::AmxBf16 => return (2 * 16 * 16 * 32 * x86::TILES * x86::TILE_TURNS) as f64,
        };
        (2 * lanes * SUMS as u64 * TURNS) as f64
    }

    fn seconds(self) -> f64 {
        let start = Instant::now();
        match self {
            Kernel::Portable => portable(),
            // SAFETY: made only where the features were found.
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2 => unsafe { x86::avx2() },
            // SAFETY: made only where the features were found.
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512 => unsafe { x86::avx512() },
            // SAFETY: made only where the features were found.
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512Bf16 => unsafe { x86::avx512_bf16() },
            // SAFETY: made only where the backend uses the tile registers.
            #[cfg(target_arch = "x86_64")]
            Kernel::AmxBf16 => unsafe { x86::amx_bf16() },
            // SAFETY: made only where the features were found.
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512Vnni => unsafe { x86::avx512_vnni() },
        }
        start.elapsed().as_secs_f64()
    }
}

fn portable() {
    let (factor, term) = (black_box([0.999f32; 4]), black_box([0.001f32; 4]));
    let mut sums = black_box([[1.0f32; 4]; SUMS]);
    for _ in 0..TURNS {
        for sum in &mut sums {
            for lane in 0..4 {
                sum[lane] = sum[lane] * factor[lane] + term[lane];
            }
        }
    }
    black_box(sums);
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::asm;
    use std::arch::x86_64::*;
    use std::hint::black_box;

    use super::{SUMS, TURNS};

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn avx2() {
        let (factor, term) = (_mm256_set1_ps(black_box(0.999)), _mm256_set1_ps(black_box(0.001)));
        let mut sums = black_box([term; SUMS]);
        for _ in 0..TURNS {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, factor, term);
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx512f")]
    pub(super) fn avx512() {
        let (factor, term) = (_mm512_set1_ps(black_box(0.999)), _mm512_set1_ps(black_box(0.001)));
        let mut sums = black_box([term; SUMS]);
        for _ in 0..TURNS {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, factor, term);
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) fn avx512_bf16() {
        let part = _mm512_set1_ps(black_box(0.001));
        let factor = _mm512_cvtne2ps_pbh(part, part);
        let mut sums = black_box([part; SUMS]);
        for _ in 0..TURNS {
            for sum in &mut sums {
                *sum = _mm512_dpbf16_ps(*sum, factor, factor);
            }
        }
        black_box(sums);
    }

    /// Tile registers with sums.
    pub(super) const TILES: u64 = 4;
    pub(super) const TILE_TURNS: u64 = 100_000;

    /// # Safety
    ///
    /// The process may use the tile registers, and the thread does not.
    pub(super) unsafe fn amx_bf16() {
        #[repr(align(64))]
        struct Configuration([u8; 64]);

        // Palette 1: eight registers of 16 lines of 64 bytes.
        let mut configuration = Configuration([0; 64]);
        configuration.0[0] = 1;
        for register in 0..8 {
            configuration.0[16 + 2 * register] = 64;
            configuration.0[48 + register] = 16;
        }
        // SAFETY: the configuration is valid, and the registers are given back.
        unsafe {
            asm!(
                "ldtilecfg [{configuration}]",
                "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                "tilezero tmm4", "tilezero tmm5", "tilezero tmm6", "tilezero tmm7",
                "2:",
                "tdpbf16ps tmm0, tmm4, tmm6", "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6", "tdpbf16ps tmm3, tmm5, tmm7",
                "dec {turns}",
                "jnz 2b",
                "tilerelease",
                configuration = in(reg) &configuration,
                turns = inout(reg) TILE_TURNS => _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, readonly),
            );
        }
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    pub(super) fn avx512_vnni() {
        let factor = _mm512_set1_epi32(black_box(0x0101_0101));
        let mut sums = black_box([factor; SUMS]);
        for _ in 0..TURNS {
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, factor, factor);
            }
        }
        black_box(sums);
    }
}

/// Runs something on several threads at once and returns what the slowest took.
fn together(threads: usize, work: impl Fn(usize) -> f64 + Sync) -> f64 {
    std::thread::scope(|scope| {
        let work = &work;
        let handles: Vec<_> = (0..threads).map(|i| scope.spawn(move || work(i))).collect();
        handles.into_iter().map(|h| h.join().unwrap_or(f64::INFINITY)).fold(0.0, f64::max)
    })
}

fn best(tries: usize, mut seconds: impl FnMut() -> f64) -> f64 {
    (0..tries).map(|_| seconds()).fold(f64::INFINITY, f64::min)
}

/// Reads much more memory than caches hold.
fn bandwidth(threads: usize) -> f64 {
    const WORDS: usize = 32 << 20;
    let words: Vec<u64> = (0..WORDS as u64).collect();
    let share = WORDS.div_ceil(threads);
    let seconds = best(5, || {
        together(threads, |i| {
            let start = Instant::now();
            let part = &words[(i * share).min(WORDS)..((i + 1) * share).min(WORDS)];
            let mut sums = [0u64; 16];
            for chunk in part.chunks_exact(16) {
                for (sum, &word) in sums.iter_mut().zip(chunk) {
                    *sum = sum.wrapping_add(word);
                }
            }
            black_box(sums);
            start.elapsed().as_secs_f64()
        })
    });
    (8 * WORDS) as f64 / seconds
}

/// Part of a piece of work: what it computes and reads at least, and how many times.
#[derive(Clone, Copy, Debug)]
pub struct Phase {
    /// How often this happens.
    pub times: f64,
    /// Multiplications and additions in the numbers of the weights: with them, and in attention over a
    /// cache in bf16.
    pub weight_operations: f64,
    /// All others that count: other attention, adapters, gradients of weights.
    pub operations: f64,
    /// Bytes that come from memory.
    pub bytes: f64,
}

/// The sizes that costs are made of.
struct Sizes {
    /// Weights of the linear layers of all blocks.
    linear: f64,
    /// Weights of the head.
    head: f64,
    /// Multiplications and additions of attention for a row and a position before it.
    attention: f64,
    /// Bytes of keys and values of a position.
    cached: f64,
    /// Whether attention is in bf16, as its cache is.
    narrow: bool,
    /// Weights of an adapter of rank 1 on all linear layers.
    adapter: f64,
}

impl Sizes {
    fn of(spec: &Spec, narrow: bool) -> Sizes {
        let shapes = || Linear::ALL.into_iter().map(|linear| spec.linear_shape(linear));
        let layers = spec.layers as f64;
        Sizes {
            linear: layers * shapes().map(|(o, i)| (o * i) as f64).sum::<f64>(),
            head: (spec.vocab * spec.hidden) as f64,
            attention: layers * 4.0 * (spec.heads * spec.head_dim) as f64,
            cached: layers
                * if narrow { 4.0 } else { 8.0 }
                * (spec.kv_heads * spec.head_dim) as f64,
            narrow,
            adapter: layers * shapes().map(|(o, i)| (o + i) as f64).sum::<f64>(),
        }
    }

    /// A pass over `rows` that begin `before` positions into sequences of which there are
    /// `sequences`, with logits of `wanted` rows.
    fn pass(&self, rows: f64, sequences: f64, before: f64, wanted: f64, bytes: f64) -> Phase {
        let mean_context = before + (rows / sequences + 1.0) / 2.0;
        let read = self.linear + if wanted > 0.0 { self.head } else { 0.0 };
        let attention = rows * mean_context * self.attention;
        let (narrow, exact) = if self.narrow { (attention, 0.0) } else { (0.0, attention) };
        Phase {
            times: 1.0,
            weight_operations: 2.0 * (rows * self.linear + wanted * self.head) + narrow,
            operations: exact,
            bytes: read * bytes + sequences * before * self.cached,
        }
    }

    /// Steps of one token for each of `batch` sequences. What sequences share is read once.
    fn steps(&self, batch: f64, from: f64, shared: f64, steps: f64, bytes: f64) -> Phase {
        let context = from + steps / 2.0;
        let step = self.pass(batch, batch, context, batch, bytes);
        let saved = (batch - 1.0) * shared * self.cached;
        Phase { times: steps, bytes: step.bytes - saved, ..step }
    }
}

/// Returns what a piece of work costs at least; none where that is not computed.
///
/// Weights are read once in a pass, and activations never leave the caches.
pub fn cost(work: Work, weights: WeightType, spec: &Spec) -> Option<Vec<Phase>> {
    // In training attention is f32.
    let trains = matches!(work, Work::Train { .. });
    let sizes = Sizes::of(spec, weights == WeightType::Bf16 && !trains);
    let bytes = bytes(weights);
    let phases = match work {
        // The prompts are about 40 tokens.
        Work::Decode { batch, new } => {
            vec![sizes.steps(batch as f64, 40.0, 0.0, new as f64 - 1.0, bytes)]
        }
        Work::Prefill { sequences, length } => {
            let sequences = sequences as f64;
            vec![sizes.pass(sequences * length as f64, sequences, 0.0, sequences, bytes)]
        }
        Work::Score { sequences, prompt, completion } => {
            let (sequences, prompt) = (sequences as f64, prompt as f64);
            let rows = sequences * (prompt + completion as f64 - 1.0);
            vec![sizes.pass(rows, sequences, 0.0, sequences * completion as f64, bytes)]
        }
        Work::Stage { prompts, common, own, new } => {
            let (prompts, common, own) = (prompts as f64, common as f64, own as f64);
            let suffixes = sizes.pass(prompts * own, prompts, common, prompts, bytes);
            vec![
                sizes.pass(common, 1.0, 0.0, 0.0, bytes),
                // The common part is read once for all.
                Phase {
                    bytes: suffixes.bytes - (prompts - 1.0) * common * sizes.cached,
                    ..suffixes
                },
                sizes.steps(prompts, common + own, common, new as f64 - 1.0, bytes),
            ]
        }
        Work::Train { method, examples, length, prompt, rank } => {
            let (examples, length) = (examples as f64, length as f64);
            let sequences = if method == Method::Dpo { 2.0 * examples } else { examples };
            let (rows, trained) = (sequences * length, sequences * (length - prompt as f64));
            let forward = sizes.pass(rows, sequences, 0.0, trained, bytes);
            let adapter = 2.0 * rows * rank as f64 * sizes.adapter;
            let weight_gradients = forward.weight_operations;
            let parameters = sizes.linear + sizes.head;
            // Backward costs attention 2.5 times what forward does: scores are made again.
            let both = Phase {
                times: 1.0,
                weight_operations: 2.0 * forward.weight_operations,
                operations: 3.5 * forward.operations,
                bytes: 2.0 * forward.bytes,
            };
            match method {
                Method::Lora => vec![Phase { operations: both.operations + 3.0 * adapter, ..both }],
                Method::Dpo => {
                    vec![forward, Phase { operations: both.operations + 3.0 * adapter, ..both }]
                }
                Method::Full => vec![
                    Phase { operations: both.operations + weight_gradients, ..both },
                    // Weight, gradient and two moments are read, three of them written.
                    Phase {
                        times: 1.0,
                        weight_operations: 0.0,
                        operations: 0.0,
                        bytes: 28.0 * parameters,
                    },
                ],
            }
        }
        Work::Round => return None,
    };
    Some(phases)
}
