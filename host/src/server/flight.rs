//! Many requests under way at once, and what is done where a server is busy, slow, broken or away.
//!
//! - Busy (429, 503): fewer at once, down to one, and the request again after a pause; answers bring the number
//!   back up.
//! - Broken (500, half an answer, `timeout_seconds` over): the same request again, a few times.
//! - Away (no connection, or one that ends): nothing new is sent; the server is asked for its models until it is
//!   back, and then whether it is still the same model. Longer than `patience_seconds` it may not be away.
//! - It refuses, or its answer cannot be right: the flight ends.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::protocol::Misfit;
use super::reach::{Called, Reach};
use super::{Reply, Request, Server, ServerError, Usage};
use crate::plugin_set::OnBudget;

/// Requests that are made before they are sent.
const AT_A_TIME: usize = 256;

/// How often a request is sent before it is broken.
pub(super) const TRIES: u32 = 5;
/// The first pause before a request goes again; each further one is twice as long.
const PAUSE: Duration = Duration::from_millis(500);
/// The longest.
const LONGEST: Duration = Duration::from_secs(30);
/// How often it is looked whether the user wants to stop.
const TICK: Duration = Duration::from_millis(100);

/// Requests, and who wants their answers.
pub struct Flight<'a> {
    /// What the server calls the model that is asked.
    pub model: &'a str,
    /// How many requests there are.
    pub count: usize,
    /// Makes a request, each time that it is sent; none where there is nothing to ask. Its name is for messages.
    pub make: &'a mut dyn FnMut(usize) -> Option<(String, Request)>,
    /// Takes an answer, in no particular order. Break ends the flight.
    pub said: &'a mut dyn FnMut(usize, Result<(Reply, Usage), Refusal>) -> ControlFlow<()>,
    /// Whether the tokens count for the run's budget.
    pub counted: bool,
    /// Set when the user wants to stop.
    pub cancel: &'a AtomicBool,
}

/// Why a request was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The run's budget of tokens would not have been enough for it.
    Budget,
}

/// A request that is to be sent.
struct Waiting {
    index: usize,
    /// How often it has been tried.
    tries: u32,
    /// How often the server was busy then: it was not looked at, so these are no tries.
    busy: u32,
    pause: Duration,
    /// When it was first to be sent.
    first: Instant,
}

/// A request that has come back.
struct Landed {
    index: usize,
    name: String,
    tries: u32,
    busy: u32,
    first: Instant,
    /// Tokens that were held back for it.
    held: u64,
    /// How often the server had been away when it was sent.
    era: u32,
    came: Came,
}

enum Came {
    Said(Reply, Usage),
    Wrong(String),
    Broken(String),
    Busy { after: Option<Duration>, why: String },
    Away(String),
    Refused { status: u16, message: String },
}

impl Server {
    /// Has requests answered. Returns early where `said` breaks off.
    ///
    /// Fails where the server cannot go on, or where the user wants to stop; what was answered by then was
    /// handed over.
    pub fn fly(&self, flight: Flight<'_>) -> Result<(), ServerError> {
        self.block_on(self.all(flight))
    }

    async fn all(&self, flight: Flight<'_>) -> Result<(), ServerError> {
        let most = f64::from(self.in_flight);
        let (mut window, mut narrowed) = (most, Instant::now());
        let mut tasks: JoinSet<Landed> = JoinSet::new();
        let mut again: VecDeque<Waiting> = VecDeque::new();
        let (mut next, mut held, mut era) = (0, 0, 0);
        let mut heard = Instant::now();
        loop {
            if flight.cancel.load(Ordering::Relaxed) {
                return Err(ServerError::Cancelled);
            }
            while tasks.len() < window as usize {
                let waiting = again.pop_front().or_else(|| {
                    (next < flight.count).then(|| {
                        next += 1;
                        Waiting {
                            index: next - 1,
                            tries: 0,
                            busy: 0,
                            pause: Duration::ZERO,
                            first: Instant::now(),
                        }
                    })
                });
                let Some(waiting) = waiting else { break };
                let Some((name, request)) = (flight.make)(waiting.index) else { continue };
                let needs = request.most_tokens();
                if flight.counted && !self.affords(held + needs) {
                    // What is under way may leave more than was held back for it.
                    if !tasks.is_empty() {
                        again.push_front(waiting);
                        break;
                    }
                    match self.settings.on_budget {
                        OnBudget::Stop => return Err(self.used_up()),
                        OnBudget::Drop => {
                            if (flight.said)(waiting.index, Err(Refusal::Budget)).is_break() {
                                return Ok(());
                            }
                            continue;
                        }
                    }
                }
                held += needs;
                let sent = self.send(flight.model, waiting, name, needs, era, &request);
                tasks.spawn(sent);
                // They leave before the next are made: thousands take seconds to make. One by one, what each
                // connection keeps would lie between what making the next one needs for a moment.
                if tasks.len().is_multiple_of(AT_A_TIME) {
                    tokio::task::yield_now().await;
                    if flight.cancel.load(Ordering::Relaxed) {
                        return Err(ServerError::Cancelled);
                    }
                }
            }
            let landed = match timeout(TICK, tasks.join_next()).await {
                Err(_) => continue,
                Ok(None) => return Ok(()),
                Ok(Some(landed)) => landed.map_err(|error| self.no_answer(error.to_string()))?,
            };
            held -= landed.held;
            let Landed { index, name, tries, busy, first, .. } = landed;
            match landed.came {
                Came::Said(reply, usage) => {
                    heard = Instant::now();
                    window = (window + 1.0 / window).min(most);
                    if flight.counted {
                        self.add_spent(usage.tokens());
                    }
                    if (flight.said)(index, Ok((reply, usage))).is_break() {
                        return Ok(());
                    }
                }
                Came::Busy { after, why } => {
                    let silent = heard.elapsed();
                    let Some(left) = self.patience().checked_sub(silent) else {
                        return Err(self.away(silent.as_secs(), why));
                    };
                    if narrowed.elapsed() > PAUSE {
                        (window, narrowed) = ((window / 2.0).max(1.0), Instant::now());
                    }
                    let (tries, busy) = (tries - 1, busy + 1);
                    // Whatever it wants, it is asked once more before patience ends.
                    let pause = after.unwrap_or_else(|| pause(busy)).min(LONGEST).min(left);
                    again.push_back(Waiting { index, tries, busy, pause, first });
                }
                Came::Away(_) if landed.era < era && tries < TRIES => {
                    again.push_back(Waiting { index, tries, busy, pause: Duration::ZERO, first });
                }
                // What stands before a server may list its models while that starts: so it is asked for as long as
                // one that lists none is waited for.
                Came::Away(why) if tries < TRIES || first.elapsed() < self.patience() => {
                    let pause = if tries == 1 { Duration::ZERO } else { pause(tries - 1) };
                    again.push_front(Waiting { index, tries, busy, pause, first });
                    self.wait_for(why, heard, flight.cancel).await?;
                    (era, heard) = (era + 1, Instant::now());
                }
                Came::Broken(_) if tries < TRIES => {
                    again.push_back(Waiting { index, tries, busy, pause: pause(tries), first });
                }
                Came::Broken(why) | Came::Away(why) => {
                    let server = self.settings.server.clone();
                    return Err(ServerError::Broken { server, what: name, tries, why });
                }
                Came::Wrong(why) => return Err(ServerError::wrong(&self.settings, &name, why)),
                Came::Refused { status, message } => {
                    let server = self.settings.server.clone();
                    return Err(ServerError::Refused { server, what: name, status, message });
                }
            }
        }
    }

    /// Returns a request under way.
    fn send(
        &self,
        model: &str,
        waiting: Waiting,
        name: String,
        held: u64,
        era: u32,
        request: &Request,
    ) -> impl Future<Output = Landed> + Send + 'static {
        let body = request.body(self.dialect, model).to_string().into_bytes();
        let (reach, expected) = (self.reach.clone(), request.expected());
        let model = model.to_owned();
        let Waiting { index, tries, busy, pause, first } = waiting;
        async move {
            if !pause.is_zero() {
                sleep(pause).await;
            }
            let came = match complete(&reach, body).await {
                Called::Answered(bytes) => match expected.read(&model, &bytes) {
                    Ok((reply, usage)) => Came::Said(reply, usage),
                    Err(Misfit::Broken(why)) => Came::Broken(why),
                    Err(Misfit::Wrong(why)) => Came::Wrong(why),
                },
                Called::Busy { after, why } => Came::Busy { after, why },
                Called::Away(why) => Came::Away(why),
                Called::Slow(why) | Called::Failed(why) => Came::Broken(why),
                Called::Refused { status, message } => Came::Refused { status, message },
            };
            Landed { index, name, tries: tries + 1, busy, first, held, era, came }
        }
    }

    /// Waits until the server is back, and fails where it is not the same model then.
    pub(super) async fn wait_for(
        &self,
        why: String,
        heard: Instant,
        cancel: &AtomicBool,
    ) -> Result<(), ServerError> {
        let (begun, mut tries) = (Instant::now(), 0);
        let mut last;
        tracing::info!("server `{}`: {why}", self.settings.server);
        loop {
            match unless_cancelled(self.reach.models(), cancel).await? {
                Ok(listed) => {
                    super::reach::choose(&self.settings, listed)?;
                    if tries > 0 {
                        tracing::warn!("server `{}` is back", self.settings.server);
                    }
                    unless_cancelled(self.known_again(), cancel).await??;
                    return unless_cancelled(self.load_again(), cancel).await?;
                }
                Err(ServerError::Away { why, .. }) => last = why,
                Err(error @ ServerError::Refused { .. }) => return Err(error),
                Err(error) => last = error.to_string(),
            }
            let away = heard.max(begun).elapsed().as_secs();
            if away >= u64::from(self.settings.patience_seconds) {
                return Err(self.away(away, last));
            }
            if tries == 0 {
                let server = &self.settings.server;
                tracing::warn!("server `{server}` is away ({last}); waiting for it");
            }
            tries += 1;
            let until = Instant::now() + pause(tries).min(LONGEST / 2);
            while Instant::now() < until {
                if cancel.load(Ordering::Relaxed) {
                    return Err(ServerError::Cancelled);
                }
                sleep(TICK).await;
            }
        }
    }

    /// Returns how long the server may answer nothing.
    fn patience(&self) -> Duration {
        Duration::from_secs(self.settings.patience_seconds.into())
    }

    /// Returns whether the run's budget has so many tokens left.
    fn affords(&self, tokens: u64) -> bool {
        self.settings.tokens.is_none_or(|budget| self.spent() + tokens <= budget)
    }

    fn used_up(&self) -> ServerError {
        let tokens = self.settings.tokens.unwrap_or_default();
        ServerError::Budget { server: self.settings.server.clone(), tokens }
    }

    fn away(&self, seconds: u64, why: String) -> ServerError {
        ServerError::Away { server: self.settings.server.clone(), seconds, why }
    }

    fn no_answer(&self, why: String) -> ServerError {
        ServerError::NoClient { server: self.settings.server.clone(), why }
    }
}

/// Waits for something as long as the user does not want to stop.
pub(super) async fn unless_cancelled<T>(
    work: impl Future<Output = T>,
    cancel: &AtomicBool,
) -> Result<T, ServerError> {
    let mut work = std::pin::pin!(work);
    loop {
        if cancel.load(Ordering::Relaxed) {
            return Err(ServerError::Cancelled);
        }
        if let Ok(done) = timeout(TICK, &mut work).await {
            return Ok(done);
        }
    }
}

async fn complete(reach: &Reach, body: Vec<u8>) -> Called {
    reach.post("/v1/completions", body).await
}

/// Returns how long to wait before a request goes again that has been sent so often.
pub(super) fn pause(tries: u32) -> Duration {
    (PAUSE * 2u32.saturating_pow(tries.saturating_sub(1).min(16))).min(LONGEST)
}
