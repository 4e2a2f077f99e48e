//! Where completions lie: the mean of a model's last hidden rows over each.

use std::ops::ControlFlow;

use crate::generate::batch::{Batch, Made, Start};
use crate::generate::read::read;
use crate::generate::{Progress, SequenceError, Settings, Unfit, check_tokens};
use crate::logprob::Row;
use crate::model::backend::Backend;
use crate::model::forward::Engine;
use crate::model::weights::LoadedAdapter;

/// Returns the mean hidden row of each row's completion, after the last norm: `[hidden]`, f32, summed in
/// f64 in the order of the tokens. Empty where a row has no completion.
///
/// The arguments are those of [`score`](crate::logprob::score); of `settings`, the size of the cache and
/// of a pass are used, and neither changes a number.
pub fn embed<B: Backend>(
    engine: &Engine<B>,
    adapter: Option<&LoadedAdapter<B>>,
    rows: &[Row],
    settings: &Settings,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Vec<Vec<f32>>, SequenceError> {
    for (index, row) in rows.iter().enumerate() {
        check_tokens(engine, &row.tokens, 0).map_err(SequenceError::of(index))?;
    }
    let places: Vec<usize> =
        (0..rows.len()).filter(|&i| rows[i].from < rows[i].tokens.len()).collect();
    let start = |&i: &usize| {
        let Row { tokens, from } = &rows[i];
        Start { tokens, wanted_from: *from, positions: tokens.len() }
    };
    let starts: Vec<Start> = places.iter().map(start).collect();
    let width = engine.weights.spec.hidden;
    let mut sums: Vec<Vec<f64>> = vec![Vec::new(); rows.len()];
    let mut note = |batch: &Batch<'_, B>, made: &[Made]| {
        let hidden = engine.backend.view(batch.hidden(), 0..made.len() * width)?;
        for (&Made { index, position }, hidden) in made.iter().zip(hidden.chunks(width)) {
            let index = places[index];
            if hidden.iter().any(|value| !value.is_finite()) {
                return Err(SequenceError::of(index)(Unfit::NotFinite { position }));
            }
            let sum = &mut sums[index];
            if position == rows[index].from {
                *sum = vec![0.0; width];
            }
            sum.iter_mut().zip(hidden).for_each(|(sum, &value)| *sum += f64::from(value));
        }
        Ok(())
    };
    let done = rows.len() - places.len();
    read(engine, adapter, &starts, settings, done, &mut note, progress)?;
    let mean = |(sum, row): (Vec<f64>, &Row)| {
        let tokens = row.tokens.len().saturating_sub(row.from) as f64;
        sum.into_iter().map(|sum| (sum / tokens) as f32).collect()
    };
    Ok(sums.into_iter().zip(rows).map(mean).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::backend::cpu::Cpu;
    use crate::model::tiny;
    use crate::model::weights::Weights;
    use crate::progress::go_on;

    #[test]
    fn a_completion_lies_where_its_rows_do_on_average_in_any_company() {
        let checkpoint = tiny::checkpoint(tiny::spec(16, true), 1);
        let weights = Weights::load(&Cpu::new(), &checkpoint, &mut |_, _| ()).unwrap();
        let engine = Engine::new(Cpu::new(), weights);
        let row = |tokens: &[u32], from| Row { tokens: tokens.to_vec(), from };
        let embed = |rows: &[Row], prefill_rows| {
            let settings = Settings { prefill_rows, ..Settings::default() };
            let cancel = std::sync::atomic::AtomicBool::new(false);
            super::embed(&engine, None, rows, &settings, &mut |_| go_on(&cancel)).unwrap()
        };
        let long = [3, 1, 4, 1, 5, 9, 2, 6];
        let rows = [row(&long, 5), row(&long, 8), row(&long[..6], 5), row(&[7, 8, 3], 1)];
        let all = embed(&rows, 3);
        assert!(all[1].is_empty());
        for (index, row) in rows.iter().enumerate() {
            assert_eq!(embed(std::slice::from_ref(row), 512)[0], all[index]);
        }
        // One token at a time: the mean of three rows.
        let single =
            |end: usize| embed(&[Row { tokens: long[..end].to_vec(), from: end - 1 }], 512);
        let [a, b, c] = [6, 7, 8].map(|end| single(end).remove(0));
        for (i, &mean) in all[0].iter().enumerate() {
            let expected = (f64::from(a[i]) + f64::from(b[i]) + f64::from(c[i])) / 3.0;
            assert_eq!(mean, expected as f32);
        }
        assert_eq!(all[2], a);
    }
}
