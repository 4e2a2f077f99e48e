//! LoRA adapters as data: they can be on, off or scaled, and never touch the weights under them.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

mod config;
mod error;

pub use config::{
    LoraConfig, PairConfig, TargetModules, check_pattern, check_regex, module_path, names_a_linear,
};
pub use error::AdapterError;

use super::spec::{Linear, Spec};
use crate::run::seed;

/// The two matrices beside one linear layer: `y = W·x + scale · B·(A·x)`.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraPair {
    /// Rank.
    pub r: usize,
    /// What `B·A·x` is multiplied by.
    pub scale: f64,
    /// `[r, in]`, row-major.
    pub a: Vec<f32>,
    /// `[out, r]`, row-major; rows in Hugging Face's order.
    pub b: Vec<f32>,
}

/// A LoRA adapter over every block of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    /// Its hyper-parameters.
    pub config: LoraConfig,
    /// Keyed by block and layer, so every walk over it has the same order.
    pub pairs: BTreeMap<(usize, Linear), LoraPair>,
    /// The head of a reward model, `[1, hidden]`: the reward of a sequence is its product with the hidden
    /// row of the last token, after the last norm. An adapter that has one is no policy.
    pub score: Option<Vec<f32>>,
}

/// The name of a reward model's head, as transformers calls that of a sequence classifier.
pub const SCORE: &str = "score.weight";

/// Spread of a fresh head: `initializer_range` of transformers.
const SCORE_SPREAD: f64 = 0.02;

impl Adapter {
    /// Returns an adapter whose matrices are all zero, with the pairs that `config` asks for in a
    /// model of this shape ([`LoraConfig::pairs`]).
    pub fn zeros(spec: &Spec, config: LoraConfig) -> Result<Adapter, AdapterError> {
        let mut pairs = BTreeMap::new();
        for ((layer, linear), PairConfig { r, scale }) in config.pairs(spec.layers)? {
            let (outputs, inputs) = spec.linear_shape(linear);
            let pair = LoraPair { r, scale, a: vec![0.0; r * inputs], b: vec![0.0; outputs * r] };
            pairs.insert((layer, linear), pair);
        }
        Ok(Adapter { config, pairs, score: None })
    }

    /// Returns a fresh adapter as PEFT starts one: it changes nothing yet, because every `B` is zero,
    /// and every `A` is uniform in ±1/√in (Kaiming with a = √5).
    ///
    /// Each matrix draws from `seed` and its own name, so the same layer starts equally whichever
    /// other layers are trained.
    pub fn init(spec: &Spec, config: LoraConfig, seed: u64) -> Result<Adapter, AdapterError> {
        let mut adapter = Adapter::zeros(spec, config)?;
        for (&(layer, linear), pair) in &mut adapter.pairs {
            let (_, inputs) = spec.linear_shape(linear);
            let bound = 1.0 / (inputs as f64).sqrt();
            let name = tensor_name(layer, linear, Matrix::A);
            let key = seed::of([seed.into(), "adapter".into(), name.as_str().into()]);
            for (i, value) in pair.a.iter_mut().enumerate() {
                *value = ((2.0 * seed::uniform(key, i as u64) - 1.0) * bound) as f32;
            }
        }
        Ok(adapter)
    }

    /// Returns the same with a fresh head in the place of what it had, as transformers starts one: normal,
    /// with a standard deviation of 0.02. It draws from `seed` and its own name.
    pub fn with_score(mut self, spec: &Spec, seed: u64) -> Adapter {
        let key = seed::of([seed.into(), "adapter".into(), SCORE.into()]);
        let draw = |i| (SCORE_SPREAD * seed::normal(key, i)) as f32;
        self.score = Some((0..spec.hidden as u64).map(draw).collect());
        self
    }

    /// Returns whether it is a reward model's: it has a head, gives rewards and writes nothing.
    pub fn is_reward_model(&self) -> bool {
        self.score.is_some()
    }

    /// Returns the same matrices under `config`; none where it asks for other pairs, ranks or scales
    /// in a model of so many blocks. Dropout may differ, and so may the words in which targets are
    /// named.
    pub fn under(&self, config: LoraConfig, layers: usize) -> Option<Adapter> {
        let wanted = config.pairs(layers).ok()?;
        let own = self.pairs.iter().map(|(&key, pair)| (key, pair.config()));
        match wanted.into_iter().eq(own) {
            true => Some(Adapter { config, ..self.clone() }),
            false => None,
        }
    }

    /// Returns the adapter whose effect is `factor` times as large: every `B` is multiplied, in f64, and
    /// rounded to f32 once. A factor of 1 changes no bit. Fails where a number becomes too large, and of a
    /// reward model, whose head was trained for one strength.
    pub fn scaled(&self, factor: f64) -> Result<Adapter, AdapterError> {
        if self.score.is_some() {
            return Err(AdapterError::Scaled);
        }
        let mut adapter = self.clone();
        for (&(layer, linear), pair) in &mut adapter.pairs {
            if let Some(position) = scale(&mut pair.b, factor) {
                let name = tensor_name(layer, linear, Matrix::B);
                return Err(AdapterError::Overflow { name, factor, position });
            }
        }
        Ok(adapter)
    }

    /// Returns the largest rank of its pairs; 0 where there are none.
    pub fn rank(&self) -> usize {
        self.pairs.values().map(|pair| pair.r).max().unwrap_or(0)
    }

    /// Walks over the matrices in the order of their keys, `A` before `B`, and the head last.
    pub fn tensors(&self) -> impl Iterator<Item = Tensor<'_>> {
        let score = self.score.iter().map(|values| Tensor {
            name: SCORE.to_owned(),
            shape: [1, values.len()],
            values,
        });
        let pairs = self.pairs.iter().flat_map(|(&(layer, linear), LoraPair { r, a, b, .. })| {
            let tensor = |matrix, shape, values| Tensor {
                name: tensor_name(layer, linear, matrix),
                shape,
                values,
            };
            [
                tensor(Matrix::A, [*r, a.len() / r.max(&1)], &a[..]),
                tensor(Matrix::B, [b.len() / r.max(&1), *r], &b[..]),
            ]
        });
        pairs.chain(score)
    }

    /// Walks over the numbers of the matrices in the same order.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut Vec<f32>> {
        let pairs = self.pairs.values_mut().flat_map(|pair| [&mut pair.a, &mut pair.b]);
        pairs.chain(&mut self.score)
    }

    /// Returns a digest of all that decides what the adapter does: dropout, names, shapes, scales
    /// and every bit of the matrices, as 64 hexadecimal digits. How its targets are worded does not
    /// count.
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(self.config.dropout.to_le_bytes());
        for pair in self.pairs.values() {
            hash.update(pair.scale.to_le_bytes());
        }
        for Tensor { name, shape, values } in self.tensors() {
            hash.update(format!("{name} {shape:?}\n"));
            for value in values {
                hash.update(value.to_le_bytes());
            }
        }
        format!("{:x}", hash.finalize())
    }

    /// Checks that the adapter has the pairs that its configuration asks for in a model of this
    /// shape, and none besides, with their ranks and scales, all of the right size, as the head is.
    pub fn check(&self, spec: &Spec) -> Result<(), AdapterError> {
        let dropout = self.config.dropout;
        if !(0.0..1.0).contains(&dropout) {
            return Err(AdapterError::Dropout { dropout });
        }
        let wanted = self.config.pairs(spec.layers)?;
        for (&(layer, linear), &PairConfig { r, scale }) in &wanted {
            let (outputs, inputs) = spec.linear_shape(linear);
            let name = |matrix| tensor_name(layer, linear, matrix);
            let Some(pair) = self.pairs.get(&(layer, linear)) else {
                return Err(AdapterError::Missing { name: name(Matrix::A) });
            };
            if pair.config() != (PairConfig { r, scale }) {
                let found = pair.config();
                return Err(AdapterError::Config { name: name(Matrix::A), found, r, scale });
            }
            for (matrix, values, expected) in
                [(Matrix::A, &pair.a, r * inputs), (Matrix::B, &pair.b, outputs * r)]
            {
                if values.len() != expected {
                    let (name, found) = (name(matrix), values.len());
                    return Err(AdapterError::Length { name, found, expected });
                }
            }
        }
        if let Some(score) = self.score.as_ref().filter(|score| score.len() != spec.hidden) {
            let (name, found, expected) = (SCORE.to_owned(), score.len(), spec.hidden);
            return Err(AdapterError::Length { name, found, expected });
        }
        match self.pairs.keys().find(|key| !wanted.contains_key(key)) {
            Some(&(layer, linear)) => {
                Err(AdapterError::Stray { name: tensor_name(layer, linear, Matrix::A) })
            }
            None => Ok(()),
        }
    }
}

impl LoraPair {
    /// Returns its rank and scale.
    pub fn config(&self) -> PairConfig {
        PairConfig { r: self.r, scale: self.scale }
    }
}

/// One matrix of an adapter.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor<'a> {
    /// For example `model.layers.0.self_attn.q_proj.lora_A.weight`, or [`SCORE`].
    pub name: String,
    /// `[r, in]`, `[out, r]`, or `[1, hidden]` of the head.
    pub shape: [usize; 2],
    /// Row-major.
    pub values: &'a [f32],
}

/// Which matrix of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Matrix {
    /// `[r, in]`
    A,
    /// `[out, r]`
    B,
}

/// Multiplies numbers in f64 and rounds each to f32 once; returns the position of the first that is
/// then not finite.
pub(super) fn scale(values: &mut [f32], factor: f64) -> Option<usize> {
    for value in values.iter_mut() {
        *value = (f64::from(*value) * factor) as f32;
    }
    values.iter().position(|value| !value.is_finite())
}

/// Returns a matrix's name, for example `model.layers.0.self_attn.q_proj.lora_A.weight`.
pub fn tensor_name(layer: usize, linear: Linear, matrix: Matrix) -> String {
    let letter = match matrix {
        Matrix::A => 'A',
        Matrix::B => 'B',
    };
    format!("model.layers.{layer}.{}.lora_{letter}.weight", linear.path())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::spec::{Rope, RopeScaling};

    fn spec() -> Spec {
        Spec {
            layers: 2,
            hidden: 64,
            heads: 4,
            kv_heads: 2,
            head_dim: 16,
            intermediate: 96,
            vocab: 256,
            rms_norm_eps: 1e-5,
            rope: Rope { theta: 1e4, scaling: RopeScaling::None },
            attention_bias: false,
            qk_norm: false,
            sliding_windows: Vec::new(),
            tied_embeddings: true,
            context_length: 128,
        }
    }

    fn init(target_modules: &[Linear], seed: u64) -> Adapter {
        Adapter::init(&spec(), LoraConfig::new(4, 8.0, target_modules), seed).unwrap()
    }

    #[test]
    fn a_fresh_adapter_changes_nothing_and_fills_its_bound() {
        let adapter = init(&Linear::ALL, 17);
        assert_eq!(adapter.check(&spec()), Ok(()));
        assert_eq!(adapter.tensors().count(), 2 * 7 * 2);
        for (&(_, linear), pair) in &adapter.pairs {
            let bound = 1.0 / (spec().linear_shape(linear).1 as f32).sqrt();
            let largest = pair.a.iter().fold(0.0f32, |m, x| m.max(x.abs()));
            assert!((0.9 * bound..=bound).contains(&largest), "{linear:?} {largest}");
            let rms = (pair.a.iter().map(|x| x * x).sum::<f32>() / pair.a.len() as f32).sqrt();
            assert!((rms * 3f32.sqrt() / bound - 1.0).abs() < 0.15, "{linear:?} {rms}");
            assert!(pair.b.iter().all(|&x| x == 0.0));
        }
    }

    #[test]
    fn a_layer_starts_the_same_whatever_else_is_trained() {
        let all = init(&Linear::ALL, 17);
        let few = init(&[Linear::V], 17);
        assert!(few.pairs.iter().all(|(key, pair)| all.pairs[key] == *pair));
        assert_ne!(few.digest(), init(&[Linear::V], 18).digest());
    }

    #[test]
    fn a_fresh_head_is_normal_and_one_for_a_seed() {
        let adapter = init(&[Linear::V], 17).with_score(&spec(), 17);
        assert_eq!(adapter.check(&spec()), Ok(()));
        let last = adapter.tensors().last().unwrap();
        assert_eq!((last.name.as_str(), last.shape), (SCORE, [1, 64]));
        let wide = Spec { hidden: 40_000, ..spec() };
        let score = init(&[Linear::V], 17).with_score(&wide, 17).score.unwrap();
        let moment = |power| score.iter().map(|x| (x / 0.02).powi(power)).sum::<f32>() / 4e4;
        for (power, expected) in [(1, 0.0), (2, 1.0), (3, 0.0), (4, 3.0)] {
            assert!((moment(power) - expected).abs() < 0.2, "{power}: {}", moment(power));
        }
        assert_eq!(&score[..64], adapter.score.as_deref().unwrap());
        assert_ne!(adapter.score, init(&[Linear::V], 17).with_score(&spec(), 18).score);
        // It is no part of how a pair starts, and goes along under other words.
        assert_eq!(adapter.pairs, init(&[Linear::V], 17).pairs);
        let again = adapter.under(LoraConfig::new(4, 8.0, &[Linear::V]), 2);
        assert_eq!(again.as_ref(), Some(&adapter));
        assert_eq!(adapter.scaled(1.0), Err(AdapterError::Scaled));
    }

    #[test]
    fn the_digest_sees_every_part() {
        let adapter = init(&[Linear::Q], 1);
        let changed = |change: fn(&mut Adapter)| {
            let mut other = adapter.clone();
            change(&mut other);
            assert_ne!(other.digest(), adapter.digest());
        };
        changed(|a| a.pairs.get_mut(&(0, Linear::Q)).unwrap().scale = 3.0);
        changed(|a| a.config.dropout = 0.1);
        changed(|a| a.score = Some(vec![0.0; 64]));
        // Minus zero equals zero as a number, but not as bits.
        changed(|a| a.pairs.get_mut(&(1, Linear::Q)).unwrap().b[3] = -0.0);
        assert_eq!(adapter.digest(), adapter.clone().digest());
    }

    #[test]
    fn the_same_pairs_may_go_under_other_words() {
        let adapter = init(&[Linear::Q], 1);
        let config = |targets: &str, alpha| LoraConfig {
            target_modules: TargetModules::Regex(targets.to_owned()),
            dropout: 0.1,
            ..LoraConfig::new(4, alpha, &[])
        };
        let other = adapter.under(config(r".*\.q_proj", 8.0), 2).unwrap();
        assert_eq!((other.check(&spec()), &other.pairs), (Ok(()), &adapter.pairs));
        assert_eq!(adapter.under(config(r".*\.q_proj", 4.0), 2), None);
        assert_eq!(adapter.under(config(r".*\.[qk]_proj", 8.0), 2), None);
    }

    #[test]
    fn what_does_not_fit_the_model_is_named() {
        let check = |change: fn(&mut Adapter), expected: &str| {
            let mut adapter = init(&[Linear::Q], 1);
            change(&mut adapter);
            assert_eq!(adapter.check(&spec()).unwrap_err().to_string(), expected);
        };
        check(
            |a| drop(a.pairs.remove(&(1, Linear::Q))),
            "adapter has no tensor `model.layers.1.self_attn.q_proj.lora_A.weight`, which its \
             target modules and the model ask for",
        );
        check(
            |a| a.pairs.get_mut(&(0, Linear::Q)).unwrap().b.truncate(5),
            "adapter tensor `model.layers.0.self_attn.q_proj.lora_B.weight` has 5 numbers, the \
             model needs 256",
        );
        check(
            |a| {
                drop(
                    a.pairs.insert(
                        (2, Linear::Q),
                        LoraPair { r: 4, scale: 2.0, a: vec![], b: vec![] },
                    ),
                )
            },
            "adapter tensor `model.layers.2.self_attn.q_proj.lora_A.weight` belongs to no target \
             module of the model",
        );
        check(
            |a| a.score = Some(vec![0.0; 63]),
            "adapter tensor `score.weight` has 63 numbers, the model needs 64",
        );
        check(
            |a| a.config.use_rslora = true,
            "adapter tensor `model.layers.0.self_attn.q_proj.lora_A.weight` has rank 4 and scale 2, \
             its settings say 4 and 4",
        );
        check(
            |a| a.config.dropout = 1.0,
            "dropout of an adapter is 1, expected a number from 0 to below 1",
        );
    }
}
