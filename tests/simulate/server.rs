//! A server with continuous batching: steps in which every sequence under way gets a token, and what is left of a step
//! reads prompts.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use super::assumptions::Assumptions;

/// What is asked of a server.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Request {
    /// Tokens of the prompt that all requests share.
    pub common: u32,
    /// Its other tokens.
    pub own: u32,
    /// Tokens of the answer; at least one.
    pub answer: u32,
}

impl Request {
    fn context(&self) -> f64 {
        f64::from(self.common) + f64::from(self.own)
    }
}

/// A request whose prompt is being read, or waits for that.
struct Waiting {
    id: usize,
    request: Request,
    unread: u32,
}

/// One copy of the model.
pub struct Server<'a> {
    assumptions: &'a Assumptions,
    slowdown: f64,
    /// In the order in which they came.
    waiting: VecDeque<Waiting>,
    /// Sequences under way by the step in which they end.
    running: BinaryHeap<Reverse<(u64, usize)>>,
    requests: Vec<Option<Request>>,
    /// Tokens that the sequences under way look back on.
    context: f64,
    /// Tokens that have a place in the cache, and how many have one at most.
    cached: f64,
    room: f64,
    /// Whether the front of the queue has its place.
    admitted: bool,
    common_is_cached: bool,
    steps: u64,
    /// Seconds in which it had something to do.
    pub busy: f64,
    /// Tokens written.
    pub written: u64,
    /// Requests that have not been answered.
    pub open: usize,
}

impl<'a> Server<'a> {
    /// Returns a server with nothing to do. With `adapter` each step takes as much longer.
    pub fn new(assumptions: &'a Assumptions, adapter: bool) -> Server<'a> {
        Server {
            assumptions,
            slowdown: if adapter { assumptions.lora_slowdown } else { 1.0 },
            waiting: VecDeque::new(),
            running: BinaryHeap::new(),
            requests: Vec::new(),
            context: 0.0,
            cached: 0.0,
            room: assumptions.cache_tokens().unwrap_or(0.0),
            admitted: false,
            common_is_cached: false,
            steps: 0,
            busy: 0.0,
            written: 0,
            open: 0,
        }
    }

    /// Takes a request.
    pub fn take(&mut self, id: usize, request: Request) {
        self.requests.resize(self.requests.len().max(id + 1), None);
        self.requests[id] = Some(request);
        self.open += 1;
        self.waiting.push_back(Waiting { id, request, unread: 0 });
    }

    /// Does a step; returns how many seconds it takes and who is answered at its end. None where there is nothing to do.
    pub fn step(&mut self) -> Option<(f64, Vec<usize>)> {
        let (writing, context) = (self.running.len() as f64, self.context);
        let (read, looked_back) = self.read_prompts(self.assumptions.tokens_per_step - writing);
        if self.running.is_empty() && read == 0.0 {
            return None;
        }
        let seconds = self.seconds(writing + read, context + looked_back);
        // Every sequence has its next token, and whose prompt is read its first.
        self.context += self.running.len() as f64;
        self.written += self.running.len() as u64;
        let mut answered = Vec::new();
        while let Some(&Reverse((step, id))) = self.running.peek() {
            if step > self.steps {
                break;
            }
            self.running.pop();
            let request = self.requests[id].take().expect("it is under way");
            self.context -= request.context() + f64::from(request.answer);
            self.cached -= place(&request);
            answered.push(id);
        }
        self.open -= answered.len();
        self.steps += 1;
        self.busy += seconds;
        Some((seconds, answered))
    }

    /// Reads prompts with what a step has left; returns how many tokens, and how many they look back on.
    fn read_prompts(&mut self, mut left: f64) -> (f64, f64) {
        let (mut read, mut looked_back) = (0.0, 0.0);
        while left >= 1.0 {
            let Some(front) = self.waiting.front_mut() else { break };
            if !self.admitted {
                let full = self.running.len() as f64 >= self.assumptions.most_running;
                // One alone may have what is there, or it would wait for ever.
                let fits = self.cached + place(&front.request) <= self.room || self.cached == 0.0;
                if full || !fits {
                    break;
                }
                self.cached += place(&front.request);
                self.admitted = true;
                front.unread = front.request.own.max(1);
                if !self.common_is_cached {
                    front.unread += front.request.common;
                    self.room -= f64::from(front.request.common);
                    self.common_is_cached = true;
                }
            }
            let chunk = f64::from(front.unread).min(left.floor());
            front.unread -= chunk as u32;
            (read, left) = (read + chunk, left - chunk);
            // The keys and values before a chunk are read once for all of it.
            looked_back += front.request.context() - f64::from(front.unread);
            if front.unread > 0 {
                break;
            }
            let ends = self.steps + u64::from(front.request.answer.max(1)) - 1;
            self.context += front.request.context();
            self.running.push(Reverse((ends, front.id)));
            self.waiting.pop_front();
            self.admitted = false;
        }
        (read, looked_back)
    }

    /// Returns how long a step takes over so many tokens that look back on so many: what takes longer of products and
    /// memory, and what cannot be done meanwhile.
    fn seconds(&self, tokens: f64, looked_back: f64) -> f64 {
        let it = self.assumptions;
        let bytes = it.weight_bytes() + it.cache_bytes() * looked_back;
        let memory =
            bytes / (it.gpus_per_server * it.gpu_tb_per_second * 1e12 * it.bandwidth_share);
        let operations = 2.0 * it.billions * 1e9 * tokens;
        let compute = operations / (it.gpus_per_server * it.gpu_tflops * 1e12 * it.compute_share);
        let peers = it.gpus_per_server - 1.0;
        let reduced = match peers > 0.0 {
            true => {
                let sent =
                    tokens * it.hidden * it.bytes_per_number * 2.0 * peers / it.gpus_per_server;
                let seconds = sent / (it.link_gb_per_second * 1e9 * it.link_share);
                2.0 * it.layers * seconds.max(it.all_reduce_us * 1e-6)
            }
            false => 0.0,
        };
        memory.max(compute) * self.slowdown + reduced + it.step_ms / 1000.0
    }
}

/// Returns how many tokens of the cache a request has for itself. Its whole answer has a place from the beginning.
fn place(request: &Request) -> f64 {
    f64::from(request.own) + f64::from(request.answer)
}
