//! Many requests under way: the host, which does one thing after the other, and servers behind a balancer.
//!
//! As `host/src/server/flight.rs` does it: requests are made, and sent some at a time, until so many are under way; then
//! an answer is waited for, taken and written down, and the next request made.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use super::assumptions::Assumptions;
use super::server::{Request, Server};

/// What a flight came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Flown {
    /// How long it took.
    pub seconds: f64,
    /// Requests that were answered.
    pub answered: usize,
    /// Seconds in which the host had something to do.
    pub host: f64,
    /// Seconds in which a server had nothing to do, of all servers together.
    pub idle: f64,
    /// How long it took from when 95 % of the answers were there.
    pub tail: f64,
    /// Until the first request was sent.
    pub first: f64,
    /// The longest that a request was under way.
    pub longest: f64,
    /// Tokens written.
    pub written: u64,
}

/// What a host spends on a request of a flight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// Whether prompts are chats.
    pub chats: f64,
    /// Whether it is a score: all tokens of its prompt come back.
    pub echoes: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A request reaches a server.
    Arrives(usize),
    /// A server has done a step.
    Stepped(usize),
    /// An answer reaches the host.
    Lands(usize),
    /// The host can do the next thing.
    Free,
}

/// Has requests answered.
pub fn fly(assumptions: &Assumptions, requests: &[Request], adapter: bool, cost: Cost) -> Flown {
    let mut sky = Sky {
        assumptions,
        cost,
        requests,
        servers: (0..assumptions.servers()).map(|_| Server::new(assumptions, adapter)).collect(),
        answers: vec![Vec::new(); assumptions.servers()],
        stepping: vec![false; assumptions.servers()],
        events: BinaryHeap::new(),
        count: 0,
        sent: vec![0.0; requests.len()],
        landed: VecDeque::new(),
        next: 0,
        under_way: 0,
        free: true,
        nearly: 0.0,
        flown: Flown::default(),
    };
    sky.host(0.0);
    while let Some(Reverse((time, _, event))) = sky.events.pop() {
        let now = f64::from_bits(time);
        match event {
            Event::Arrives(id) => sky.arrives(id, now),
            Event::Stepped(server) => sky.stepped(server, now),
            Event::Lands(id) => {
                sky.flown.longest = sky.flown.longest.max(now - sky.sent[id]);
                sky.landed.push_back(id);
                sky.host(now);
            }
            Event::Free => {
                sky.free = true;
                sky.host(now);
            }
        }
    }
    sky.flown.written = sky.servers.iter().map(|server| server.written).sum();
    let busy: f64 = sky.servers.iter().map(|server| server.busy).sum();
    sky.flown.idle = sky.servers.len() as f64 * sky.flown.seconds - busy;
    sky.flown
}

struct Sky<'a> {
    assumptions: &'a Assumptions,
    cost: Cost,
    requests: &'a [Request],
    servers: Vec<Server<'a>>,
    /// Whom the step under way of a server answers.
    answers: Vec<Vec<usize>>,
    stepping: Vec<bool>,
    /// By time, whose bits are in its order as it is never negative; then in the order in which they were told.
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    count: u64,
    sent: Vec<f64>,
    /// Answers that the host has not looked at.
    landed: VecDeque<usize>,
    next: usize,
    under_way: usize,
    free: bool,
    /// When 95 % of the answers were there.
    nearly: f64,
    flown: Flown,
}

impl Sky<'_> {
    fn at(&mut self, time: f64, event: Event) {
        self.count += 1;
        self.events.push(Reverse((time.to_bits(), self.count, event)));
    }

    /// Lets the host do the next thing, where it is free and there is one: an answer, and then requests until so many
    /// are under way as may be. All that it makes at once is sent when it is done with that.
    fn host(&mut self, now: f64) {
        if !self.free {
            return;
        }
        let mut spent = 0.0;
        let taken = self.landed.pop_front();
        if let Some(id) = taken {
            spent += self.taking(&self.requests[id]);
            self.under_way -= 1;
            self.flown.answered += 1;
            if self.flown.answered == self.requests.len() - self.requests.len() / 20 {
                self.nearly = now;
            }
        }
        let mut made = Vec::new();
        while (self.under_way as f64) < self.assumptions.in_flight
            && (made.len() as f64) < self.assumptions.burst
            && self.next < self.requests.len()
        {
            spent += self.making(&self.requests[self.next]);
            made.push(self.next);
            self.under_way += 1;
            self.next += 1;
        }
        if taken.is_none() && made.is_empty() {
            return;
        }
        let done = now + spent;
        if self.next == made.len() {
            self.flown.first = done;
        }
        for id in made {
            self.sent[id] = done;
            self.at(done + self.assumptions.network_ms / 1000.0, Event::Arrives(id));
        }
        self.flown.host += spent;
        self.free = false;
        self.at(done, Event::Free);
        if self.flown.answered == self.requests.len() {
            self.flown.seconds = done;
            self.flown.tail = done - self.nearly;
        }
    }

    /// The balancer gives a request to the server that has the fewest.
    fn arrives(&mut self, id: usize, now: f64) {
        let fewest = (0..self.servers.len()).min_by_key(|&server| self.servers[server].open);
        let server = fewest.expect("there is one");
        self.servers[server].take(id, self.requests[id]);
        self.steps_on(server, now);
    }

    fn steps_on(&mut self, server: usize, now: f64) {
        if self.stepping[server] {
            return;
        }
        if let Some((seconds, answers)) = self.servers[server].step() {
            self.stepping[server] = true;
            self.answers[server] = answers;
            self.at(now + seconds, Event::Stepped(server));
        }
    }

    fn stepped(&mut self, server: usize, now: f64) {
        self.stepping[server] = false;
        for id in std::mem::take(&mut self.answers[server]) {
            self.at(now + self.assumptions.network_ms / 1000.0, Event::Lands(id));
        }
        self.steps_on(server, now);
    }

    /// Returns how long the host takes to make a request. What is the same for each is half of it before it is sent.
    fn making(&self, request: &Request) -> f64 {
        let it = self.assumptions;
        let thousands = f64::from(request.common + request.own) / 1000.0;
        let chat = self.cost.chats * (it.chat_ms + it.chat_prompt_ms * thousands);
        (it.request_ms / 2.0 + it.prompt_ms * thousands + chat) / 1000.0
    }

    /// Returns how long it takes to read an answer and to have it on the disk.
    fn taking(&self, request: &Request) -> f64 {
        let it = self.assumptions;
        let tokens = match self.cost.echoes {
            true => request.common + request.own + request.answer,
            false => request.answer,
        };
        (it.request_ms / 2.0 + it.sync_ms + f64::from(tokens) / 1000.0 * it.answer_ms) / 1000.0
    }
}
