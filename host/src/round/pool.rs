//! The prompt pool, and what is known of it for the whole run.

use std::collections::{BTreeMap, HashMap};

use crate::plugin_set::Order;
use crate::record::{Prompt, Record};
use crate::run::seed;

/// The prompts of a run, in the order in which samplers see them.
#[derive(Clone, Debug)]
pub struct Pool {
    prompts: Vec<Prompt>,
    by_id: HashMap<String, usize>,
    difficulty: BTreeMap<String, f64>,
    order: Vec<usize>,
    selected: BTreeMap<String, u32>,
}

impl Pool {
    /// Returns a pool in the order of the file, with nothing known of it. Ids are unique.
    pub fn new(prompts: Vec<Prompt>) -> Pool {
        let by_id = prompts.iter().enumerate().map(|(i, prompt)| (prompt.id.clone(), i)).collect();
        let order = (0..prompts.len()).collect();
        let (difficulty, selected) = (BTreeMap::new(), BTreeMap::new());
        Pool { prompts, by_id, difficulty, order, selected }
    }

    /// Adds prompts at the end; their ids are new.
    pub fn join(&mut self, prompts: impl IntoIterator<Item = Prompt>) {
        for prompt in prompts {
            self.by_id.insert(prompt.id.clone(), self.prompts.len());
            self.order.push(self.prompts.len());
            self.prompts.push(prompt);
        }
    }

    /// Takes the difficulties and puts the pool into order. Prompts without one are left out: they
    /// could not be completed. Ties keep the order of the file.
    pub fn arrange(&mut self, difficulty: BTreeMap<String, f64>, order: Order, seed: u64) {
        self.difficulty = difficulty;
        let known = |&i: &usize| self.difficulty.contains_key(&self.prompts[i].id);
        let mut indices: Vec<usize> = (0..self.prompts.len()).filter(known).collect();
        let score = |&i: &usize| self.difficulty[&self.prompts[i].id];
        match order {
            Order::EasyToHard => indices.sort_by(|a, b| score(a).total_cmp(&score(b))),
            Order::HardToEasy => indices.sort_by(|a, b| score(b).total_cmp(&score(a))),
            Order::Random => seed::shuffle(seed, &mut indices),
            Order::AsGiven => {}
        }
        self.order = indices;
    }

    /// Notes which prompts a round selected.
    pub fn note_selected<'a>(&mut self, ids: impl IntoIterator<Item = &'a str>) {
        for id in ids {
            *self.selected.entry(id.to_owned()).or_default() += 1;
        }
    }

    /// Returns the prompts in order.
    pub fn iter(&self) -> impl Iterator<Item = &Prompt> {
        self.order.iter().map(|&i| &self.prompts[i])
    }

    /// Returns whether no prompt can be selected.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Returns a prompt's difficulty, where it is known.
    pub fn difficulty(&self, id: &str) -> Option<f64> {
        self.difficulty.get(id).copied()
    }

    /// Returns in how many rounds a prompt was selected.
    pub fn selected(&self, id: &str) -> u32 {
        self.selected.get(id).copied().unwrap_or(0)
    }

    /// Returns a fresh record for a prompt of the pool.
    pub fn record(&self, id: &str) -> Option<Record> {
        let prompt = self.prompts[*self.by_id.get(id)?].clone();
        let difficulty = self.difficulty(id);
        Some(Record { difficulty, ..Record::new(prompt) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Text;

    fn pool() -> Pool {
        let prompt = |id: &str| Prompt { id: id.into(), text: Text::user(id), tags: vec![] };
        Pool::new(["a", "b", "c", "d"].map(prompt).to_vec())
    }

    fn ids(pool: &Pool) -> String {
        pool.iter().map(|prompt| prompt.id.as_str()).collect()
    }

    #[test]
    fn a_pool_is_put_into_order() {
        let check = |order: Order, expected: &str| {
            let mut pool = pool();
            let scores = [("a", 3.0), ("b", 1.0), ("c", 3.0), ("d", 2.0)];
            pool.arrange(scores.map(|(id, d)| (id.to_owned(), d)).into(), order, 5);
            assert_eq!(ids(&pool), expected, "{order:?}");
        };
        check(Order::AsGiven, "abcd");
        check(Order::EasyToHard, "bdac");
        check(Order::HardToEasy, "acdb");
    }

    #[test]
    fn prompts_that_join_come_last_and_have_records() {
        let mut pool = pool();
        pool.join(["x", "y"].map(|id| Prompt {
            id: id.into(),
            text: Text::user(id),
            tags: vec![],
        }));
        assert_eq!(ids(&pool), "abcdxy");
        assert_eq!(pool.record("y").unwrap().prompt.text, Text::user("y"));
        assert_eq!(pool.record("a").unwrap().id(), "a");
    }

    #[test]
    fn a_prompt_without_difficulty_is_left_out_but_still_has_a_record() {
        let mut pool = pool();
        pool.arrange([("a".to_owned(), 1.0)].into(), Order::EasyToHard, 5);
        assert_eq!(ids(&pool), "a");
        assert_eq!(pool.record("a").unwrap().difficulty, Some(1.0));
        assert_eq!(pool.record("b").unwrap().difficulty, None);
        assert!(pool.record("z").is_none());
    }
}
