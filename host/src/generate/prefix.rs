//! Which pages of the cache hold what: common prefixes are computed once and shared.
//!
//! A sequence's tokens are cut into pages. Pages in which sequences agree, and agree in all before,
//! are one node of a tree, which holds one page of the cache for all of them. A node is freed as
//! soon as no unfinished sequence passes through it, or, when memory is short, while none that
//! passes through it is running; then it is computed again.

use std::collections::HashMap;

use crate::model::backend::PAGE;

/// The pages of a cache and the tree of shared prefixes over them.
pub(crate) struct Pages {
    /// Page numbers nobody uses, lowest last.
    free: Vec<u32>,
    nodes: Vec<Node>,
    /// Each sequence's nodes, from the root down.
    paths: Vec<Vec<u32>>,
}

struct Node {
    /// Where its keys and values are, or are about to be.
    page: Option<u32>,
    /// They are there, or will be before any later row of the same pass attends.
    ready: bool,
    /// Unfinished sequences that pass through it.
    users: u32,
    /// Running sequences that pass through it.
    running: u32,
    /// Distance from the root; what is deeper is evicted first.
    depth: u32,
}

/// A running sequence's hold on its pages.
pub(crate) struct Lease {
    sequence: usize,
    /// From position 0 on: shared pages, then its own.
    pub(crate) pages: Vec<u32>,
    /// How many of the pages are shared.
    shared: usize,
    /// How many shared pages, from the first on, another sequence computes or has computed.
    pub(crate) found: usize,
}

impl Pages {
    /// Returns a tree over sequences, given as their tokens and how many of these, from the first
    /// on, may come from shared pages.
    pub(crate) fn new<'a>(
        pages: usize,
        sequences: impl IntoIterator<Item = (&'a [u32], usize)>,
    ) -> Pages {
        let mut nodes: Vec<Node> = Vec::new();
        let mut children: HashMap<(Option<u32>, &[u32]), u32> = HashMap::new();
        let mut paths = Vec::new();
        for (tokens, shareable) in sequences {
            let mut path: Vec<u32> = Vec::new();
            for chunk in tokens[..shareable].chunks_exact(PAGE) {
                let node = *children.entry((path.last().copied(), chunk)).or_insert_with(|| {
                    let depth = path.len() as u32;
                    nodes.push(Node { page: None, ready: false, users: 0, running: 0, depth });
                    nodes.len() as u32 - 1
                });
                nodes[node as usize].users += 1;
                path.push(node);
            }
            paths.push(path);
        }
        Pages { free: (0..pages as u32).rev().collect(), nodes, paths }
    }

    /// Returns how many of the tokens of all sequences need not be computed, as other sequences
    /// share them.
    #[cfg(test)]
    pub(crate) fn shared_tokens(&self) -> usize {
        self.nodes.iter().map(|node| (node.users as usize).saturating_sub(1) * PAGE).sum()
    }

    /// Gives a sequence pages for `positions` positions, or nothing where there are too few.
    pub(crate) fn lease(&mut self, sequence: usize, positions: usize) -> Option<Lease> {
        let path = &self.paths[sequence];
        let found =
            path.iter().take_while(|&&node| self.nodes[node as usize].page.is_some()).count();
        for &node in path {
            self.nodes[node as usize].running += 1;
        }
        let needed = positions.div_ceil(PAGE) - found;
        if !self.make_room(needed) {
            for &node in &self.paths[sequence] {
                self.nodes[node as usize].running -= 1;
            }
            return None;
        }
        let path = &self.paths[sequence];
        let mut pages = Vec::with_capacity(positions.div_ceil(PAGE));
        for &node in path {
            let node = &mut self.nodes[node as usize];
            let page = *node.page.get_or_insert_with(|| {
                self.free.pop().expect("room was made for every page that is missing")
            });
            pages.push(page);
        }
        let own = self.free.len() - (positions.div_ceil(PAGE) - path.len());
        pages.extend(self.free.drain(own..).rev());
        Some(Lease { sequence, pages, shared: path.len(), found })
    }

    /// Returns whether the pages that another sequence computes are ready to attend to.
    pub(crate) fn is_ready(&self, lease: &Lease) -> bool {
        let path = &self.paths[lease.sequence];
        lease.found == 0 || self.nodes[path[lease.found - 1] as usize].ready
    }

    /// Says that a sequence's first `positions` positions are in the cache, or will be before any
    /// later row of the same pass attends.
    pub(crate) fn computed(&mut self, lease: &Lease, positions: usize) {
        let whole = (positions / PAGE).min(lease.shared);
        for &node in self.paths[lease.sequence][..whole].iter().skip(lease.found) {
            self.nodes[node as usize].ready = true;
        }
    }

    /// Takes a finished sequence's pages back.
    pub(crate) fn release(&mut self, lease: Lease) {
        self.free.extend(lease.pages[lease.shared..].iter().rev());
        for &node in &self.paths[lease.sequence] {
            let node = &mut self.nodes[node as usize];
            node.running -= 1;
            node.users -= 1;
            if node.users == 0 {
                node.ready = false;
                self.free.extend(node.page.take());
            }
        }
    }

    /// Evicts nodes that no running sequence needs until so many pages are free; `false` where
    /// that is not enough.
    fn make_room(&mut self, needed: usize) -> bool {
        if self.free.len() >= needed {
            return true;
        }
        let mut idle: Vec<usize> = (0..self.nodes.len())
            .filter(|&i| self.nodes[i].page.is_some() && self.nodes[i].running == 0)
            .collect();
        if self.free.len() + idle.len() < needed {
            return false;
        }
        idle.sort_by_key(|&i| self.nodes[i].depth);
        while self.free.len() < needed {
            let node = &mut self.nodes[idle.pop().expect("counted above")];
            node.ready = false;
            self.free.extend(node.page.take());
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(prefix: &[u32], length: usize, fill: u32) -> Vec<u32> {
        let mut tokens = prefix.to_vec();
        tokens.resize(length, fill);
        tokens
    }

    fn pages(count: usize, sequences: &[Vec<u32>]) -> Pages {
        Pages::new(count, sequences.iter().map(|tokens| (&tokens[..], tokens.len() - 1)))
    }

    #[test]
    fn sequences_share_whole_pages_up_to_where_they_differ() {
        let common = vec![7; 40];
        let sequences = [tokens(&common, 60, 1), tokens(&common, 60, 2), tokens(&[9], 60, 7)];
        let mut pages = pages(100, &sequences);
        assert_eq!(pages.shared_tokens(), 32);
        let first = pages.lease(0, 70).unwrap();
        let second = pages.lease(1, 70).unwrap();
        let third = pages.lease(2, 70).unwrap();
        assert_eq!((first.found, second.found, third.found), (0, 2, 0));
        assert_eq!(first.pages[..2], second.pages[..2]);
        assert_eq!(first.pages.len(), 5);
        let mut all = [&first.pages[..], &second.pages[2..], &third.pages[..]].concat();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 13);
        assert!(pages.is_ready(&first) && !pages.is_ready(&second));
        pages.computed(&first, 31);
        assert!(!pages.is_ready(&second));
        pages.computed(&first, 32);
        assert!(pages.is_ready(&second));
        for lease in [first, second, third] {
            pages.release(lease);
        }
        assert_eq!(pages.free.len(), 100);
    }

    #[test]
    fn the_last_page_of_equal_sequences_is_not_shared() {
        // Each must compute the row before its first new token itself.
        let sequences = [vec![3; 32], vec![3; 32]];
        let mut pages = pages(8, &sequences);
        let (a, b) = (pages.lease(0, 40).unwrap(), pages.lease(1, 40).unwrap());
        assert_eq!(b.found, 1);
        assert_eq!(a.pages[0], b.pages[0]);
        assert_ne!(a.pages[1], b.pages[1]);
    }

    #[test]
    fn idle_prefixes_make_room_and_are_computed_again() {
        let common = vec![7; 32];
        let sequences = [tokens(&common, 40, 1), vec![5; 80], tokens(&common, 40, 2)];
        let mut pages = pages(6, &sequences);
        let first = pages.lease(0, 48).unwrap();
        pages.computed(&first, 40);
        assert!(pages.lease(1, 80).is_none(), "three pages are running");
        pages.release(first);
        assert_eq!(pages.free.len(), 4, "the prefix stays for the third");
        let second = pages.lease(1, 80).unwrap();
        pages.release(second);
        let third = pages.lease(2, 48).unwrap();
        assert_eq!(third.found, 1, "the deeper page was evicted");
        assert!(pages.is_ready(&third));
        pages.release(third);
        assert_eq!(pages.free.len(), 6);
    }
}
