//! Whether a server is the model that it should be: the same texts, scored there and here.
//!
//! Backends drift: another tokenizer, a template that is applied twice, weights that were rounded, an adapter that
//! was not loaded. All of these show in the logprobs of a few texts.

use std::ops::ControlFlow;
use std::sync::atomic::AtomicBool;

use super::protocol::Misfit;
use super::reach::Called;
use super::{Flight, Known, Reply, Request, Server, ServerError, Work};

/// Texts that a server is tried with: half of them as raw text, half as the user's message in a chat.
pub const PROBES: [&str; 16] = [
    "The capital of France is Paris, and the capital of Italy is Rome.",
    "What is the difference between a list and a tuple in Python?",
    "def add(a, b):\n    return a + b\n\nassert add(2, 3) == 5\n",
    "Once upon a time there was a miller who had three sons, his mill, a donkey and a cat.",
    "Please explain photosynthesis to a child of ten in three sentences.",
    "1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144",
    "{\"name\": \"Ada\", \"born\": 1815, \"fields\": [\"mathematics\", \"computing\"]}",
    "Der schnelle braune Fuchs springt über den faulen Hund.",
    "Les sanglots longs des violons de l'automne blessent mon cœur.",
    "¿Cuál es el río más largo de América del Sur?",
    "今日は天気がいいから、散歩しましょう。",
    "Привет! Как дела?",
    "SELECT name, COUNT(*) FROM users WHERE age > 30 GROUP BY name;",
    "Dear Sir or Madam,\n\nI am writing to complain about the noise.\n\nYours faithfully",
    "The integral of x^2 from 0 to 1 is 1/3, since x^3/3 is an antiderivative.",
    "Buy milk, eggs 🥚, bread 🍞 and two lemons; call the dentist before noon!",
];

/// Of these, so many are asked again after the server was away.
const KNOWN: usize = 4;

/// How far two sets of logprobs are apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gap {
    /// Mean over all tokens of the distance, in nats.
    pub mean: f64,
    /// The largest, in nats.
    pub largest: f64,
    /// How many tokens were compared.
    pub tokens: usize,
}

/// Returns how far the logprobs of some texts are apart.
pub fn gap<'a>(pairs: impl IntoIterator<Item = (&'a [f64], &'a [f64])>) -> Gap {
    let (mut sum, mut largest, mut tokens) = (0.0, 0.0f64, 0);
    for (ours, theirs) in pairs {
        for (ours, theirs) in ours.iter().zip(theirs) {
            // A token that cannot come: how much so is told apart by nobody.
            let distance = (ours.max(-50.0) - theirs.max(-50.0)).abs();
            sum += distance;
            largest = largest.max(distance);
            tokens += 1;
        }
    }
    Gap { mean: if tokens == 0 { 0.0 } else { sum / tokens as f64 }, largest, tokens }
}

impl Server {
    /// Scores requests by a model of the server, in their order.
    pub fn probe(
        &self,
        model: &str,
        requests: &[Request],
        cancel: &AtomicBool,
    ) -> Result<Vec<Vec<f64>>, ServerError> {
        let mut found = vec![Vec::new(); requests.len()];
        self.fly(Flight {
            model,
            count: requests.len(),
            make: &mut |index| Some((format!("probe {}", index + 1), requests[index].clone())),
            said: &mut |index, reply| {
                if let Ok((Reply::Scored(logprobs), _)) = reply {
                    found[index] = logprobs;
                }
                ControlFlow::Continue(())
            },
            counted: false,
            cancel,
        })?;
        Ok(found)
    }

    /// Remembers what the server says of some requests, to know it again.
    pub fn remember(&self, requests: &[Request], said: &[Vec<f64>]) {
        let known = requests.iter().cloned().zip(said.iter().cloned());
        let known = known.map(|(request, said)| Known { request, said });
        // From the whole of them: raw texts come first.
        let step = requests.len().div_ceil(KNOWN).max(1);
        *self.known.lock().expect("nothing panics while it is held") =
            known.step_by(step).collect();
    }

    /// Fails where the server says something else of what it was asked before.
    pub(super) async fn known_again(&self) -> Result<(), ServerError> {
        let known = self.known.lock().expect("nothing panics while it is held").clone();
        let mut pairs = Vec::new();
        for Known { request, said: before } in known {
            debug_assert!(
                matches!(request.work, Work::Score { .. }),
                "what was remembered is a score"
            );
            let body = request.body(self.dialect, &self.model).to_string().into_bytes();
            // Busy or away again: the flight will see.
            let Called::Answered(bytes) = self.reach.post("/v1/completions", body).await else {
                return Ok(());
            };
            match request.expected().read(&self.model, &bytes) {
                Ok((Reply::Scored(now), _)) => pairs.push((before, now)),
                Ok(_) | Err(Misfit::Broken(_)) => {}
                Err(Misfit::Wrong(why)) => {
                    return Err(ServerError::wrong(&self.settings, "a probe", why));
                }
            }
        }
        let pairs = pairs.iter().map(|(before, now)| (before.as_slice(), now.as_slice()));
        let gap = gap(pairs);
        match gap.mean <= self.settings.probe_bound {
            true => Ok(()),
            false => Err(ServerError::Differs {
                server: self.settings.server.clone(),
                why: format!(
                    "it was away, and what it says of a token now is {:.2} nats from what it said before, on \
                     average over {} tokens",
                    gap.mean, gap.tokens
                ),
                hint: "start it again with the model that it had; `aligner resume` with the run directory then \
                       goes on"
                    .into(),
            }),
        }
    }
}
