//! Items for objectives without pairs: each completion with one of another prompt in its place.

use std::collections::HashMap;

use super::items::{Item, Sequence};

/// A completion that is wanted, or one that is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rated {
    /// Named in errors, and part of the key of its dropout draws.
    pub id: String,
    /// Prompt and completion, in a model's context.
    pub sequence: Sequence,
    /// Whether it is to become likelier.
    pub desirable: bool,
}

/// Returns an item for each completion, with the completion of another that is in the same step.
///
/// Within each `per_step` the completions are rotated over the prompts, as TRL does: by one place, or
/// as many more as give fewest prompts a completion of their own, as where the two of a pair stand side
/// by side. One that is alone in its step takes that of the item before. What would have more than
/// `longest` tokens then is cut.
///
/// A step has what belongs together where the items are trained on in this order.
pub fn unpaired(rated: Vec<Rated>, per_step: usize, longest: usize) -> Vec<Item> {
    let mut known: HashMap<&[u32], usize> = HashMap::new();
    let prompts: Vec<usize> = rated
        .iter()
        .map(|rated| {
            let next = known.len();
            *known.entry(rated.sequence.prompt()).or_insert(next)
        })
        .collect();
    let partners = partners(&prompts, per_step.max(1));
    let mismatched: Vec<Sequence> = rated
        .iter()
        .zip(partners)
        .map(|(own, partner)| mismatched(&own.sequence, &rated[partner].sequence, longest))
        .collect();
    let items = rated.into_iter().zip(mismatched);
    items
        .map(|(Rated { id, sequence, desirable }, mismatched)| Item {
            id,
            sequences: vec![sequence, mismatched],
            desirable,
        })
        .collect()
}

/// Returns whose completion each item takes, given which prompts are the same.
fn partners(prompts: &[usize], per_step: usize) -> Vec<usize> {
    let mut partners = Vec::with_capacity(prompts.len());
    for (step, group) in prompts.chunks(per_step).enumerate() {
        let (first, count) = (step * per_step, group.len());
        let before = |i: usize, shift: usize| (i + count - shift) % count;
        let own =
            |shift: usize| (0..count).filter(|&i| group[i] == group[before(i, shift)]).count();
        match (1..count).min_by_key(|&shift| own(shift)) {
            Some(shift) => partners.extend((0..count).map(|i| first + before(i, shift))),
            None => partners.push(first.checked_sub(1).unwrap_or(prompts.len() - 1)),
        }
    }
    partners
}

/// Puts the completion of one sequence after the prompt of another.
fn mismatched(prompt: &Sequence, completion: &Sequence, longest: usize) -> Sequence {
    let (prompt, from) = (prompt.prompt(), completion.prompt().len());
    let room = longest.saturating_sub(prompt.len()).max(1);
    let end = completion.tokens.len().min(from + room);
    let mut mismatched = Sequence::new(prompt, &completion.tokens[from..end]);
    mismatched.trained[prompt.len()..].copy_from_slice(&completion.trained[from..end]);
    mismatched
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completions_go_to_other_prompts_of_their_step() {
        let check = |prompts: &[usize], per_step: usize, expected: &[usize]| {
            assert_eq!(partners(prompts, per_step), expected, "{prompts:?} {per_step}");
        };
        check(&[0, 1, 2], 3, &[2, 0, 1]);
        check(&[0, 1, 2], 9, &[2, 0, 1]);
        check(&[0, 1, 2, 3], 2, &[1, 0, 3, 2]);
        // Pairs side by side.
        check(&[0, 0, 1, 1, 2, 2], 6, &[4, 5, 0, 1, 2, 3]);
        check(&[0, 0, 1, 1], 4, &[2, 3, 0, 1]);
        // The last step has one.
        check(&[0, 1, 2], 2, &[1, 0, 1]);
        check(&[0, 1], 1, &[1, 0]);
        // Nothing else is there.
        check(&[0, 0], 2, &[1, 0]);
        check(&[0], 2, &[0]);
        check(&[], 2, &[]);
    }

    #[test]
    fn what_is_too_long_is_cut_and_marks_are_kept() {
        let mut long = Sequence::new(&[1], &[2, 3, 4, 5]);
        long.trained[3] = false;
        let short = Sequence::new(&[7, 8, 9], &[6]);
        assert_eq!(mismatched(&short, &long, 64).tokens, [7, 8, 9, 2, 3, 4, 5]);
        let cut = mismatched(&short, &long, 6);
        assert_eq!(cut.tokens, [7, 8, 9, 2, 3, 4]);
        assert_eq!(cut.trained, [false, false, false, true, true, false]);
        assert_eq!(mismatched(&short, &long, 3).tokens, [7, 8, 9, 2]);
        let rated = |id: &str, sequence: &Sequence, desirable| Rated {
            id: id.into(),
            sequence: sequence.clone(),
            desirable,
        };
        let items = unpaired(vec![rated("a", &short, true), rated("b", &long, false)], 2, 64);
        assert_eq!(items[0].sequences, [short, mismatched(&items[0].sequences[0], &long, 64)]);
        assert_eq!(items[1].sequences[1].tokens, [1, 6]);
        assert_eq!([items[0].desirable, items[1].desirable], [true, false]);
    }
}
