use crate::{
    Answer, Completion, Error, GenerateRequest, Request, RewardRequest, Rng, Score, ScoreRequest,
};

/// A record's conversation with the models, replayed from the answers it has had so far.
///
/// Every method that asks returns [`Error::Pending`] until the host has answered; hand it on with
/// `?`. Requests that do not depend on each other are best made together, with [`Ask::all`] or by
/// calling several times before the first `?`: the host then carries them out in one go.
#[derive(Debug)]
pub struct Ask {
    seed: u64,
    /// What the host has answered, in the order of the requests.
    answers: std::vec::IntoIter<Answer>,
    /// What is asked beyond that.
    pending: Vec<Request>,
}

impl Ask {
    pub(crate) fn new(seed: u64, answers: Vec<Answer>) -> Ask {
        Ask { seed, answers: answers.into_iter(), pending: Vec::new() }
    }

    /// Returns the record's seed, drawn from (run seed, round, stage, record).
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Returns a generator of random numbers that starts at the record's seed. Each call returns
    /// the same one.
    pub fn rng(&self) -> Rng {
        Rng::new(self.seed)
    }

    /// Asks for a completion.
    pub fn generate(&mut self, request: GenerateRequest) -> Result<Completion, Error> {
        self.one(Request::Generate(request))?.completion()
    }

    /// Asks how likely a completion is.
    pub fn score(&mut self, request: ScoreRequest) -> Result<Score, Error> {
        self.one(Request::Score(request))?.score()
    }

    /// Asks what a reward model gives a completion.
    pub fn reward(&mut self, request: RewardRequest) -> Result<f64, Error> {
        self.one(Request::Reward(request))?.reward()
    }

    /// Makes several requests at once. Returns one answer for each, in the same order; what could
    /// not be carried out is [`Answer::Unanswered`].
    pub fn all(
        &mut self,
        requests: impl IntoIterator<Item = Request>,
    ) -> Result<Vec<Answer>, Error> {
        // Every request is made before the first missing answer is reported.
        let answers: Vec<_> = requests.into_iter().map(|request| self.one(request)).collect();
        answers.into_iter().collect()
    }

    /// Returns the requests that have no answer yet.
    pub(crate) fn into_pending(self) -> Vec<Request> {
        self.pending
    }

    fn one(&mut self, request: Request) -> Result<Answer, Error> {
        self.answers.next().ok_or_else(|| {
            self.pending.push(request);
            Error::Pending
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Finish, Text};

    fn completion(text: &str) -> Answer {
        Answer::Completion(Completion {
            text: text.into(),
            tokens: 1,
            logprob: -0.5,
            finish: Finish::Stop,
        })
    }

    fn request(text: &str) -> GenerateRequest {
        GenerateRequest::of("policy", Text::user(text))
    }

    /// Asks one after the other: the second depends on the first.
    fn chain(ask: &mut Ask) -> Result<String, Error> {
        let first = ask.generate(request("a"))?;
        let second = ask.generate(request(&first.text))?;
        Ok(second.text)
    }

    #[test]
    fn a_chain_asks_one_request_at_a_time() {
        let mut ask = Ask::new(1, vec![]);
        assert_eq!(chain(&mut ask), Err(Error::Pending));
        assert_eq!(ask.into_pending(), [Request::Generate(request("a"))]);

        let mut ask = Ask::new(1, vec![completion("b")]);
        assert_eq!(chain(&mut ask), Err(Error::Pending));
        assert_eq!(ask.into_pending(), [Request::Generate(request("b"))]);

        let mut ask = Ask::new(1, vec![completion("b"), completion("c")]);
        assert_eq!(chain(&mut ask), Ok("c".into()));
        assert_eq!(ask.into_pending(), []);
    }

    #[test]
    fn requests_before_the_first_question_mark_go_together() {
        let mut ask = Ask::new(1, vec![]);
        let (a, b) = (ask.generate(request("a")), ask.generate(request("b")));
        assert_eq!((a, b), (Err(Error::Pending), Err(Error::Pending)));
        assert_eq!(ask.into_pending().len(), 2);
    }

    #[test]
    fn all_keeps_order_and_asks_only_what_is_missing() {
        let requests = || ["a", "b", "c"].map(|text| request(text).into());
        let mut ask = Ask::new(1, vec![completion("1")]);
        assert_eq!(ask.all(requests()), Err(Error::Pending));
        assert_eq!(ask.into_pending(), requests()[1..]);

        let unanswered = Answer::Unanswered("too long".into());
        let answers = vec![completion("1"), unanswered.clone(), completion("3")];
        assert_eq!(Ask::new(1, answers.clone()).all(requests()), Ok(answers));
        assert_eq!(Ask::new(1, vec![]).all([]), Ok(vec![]));
    }

    #[test]
    fn answers_of_the_wrong_sort_are_errors() {
        let mut ask = Ask::new(1, vec![Answer::Score(Score { logprob: -1.0, tokens: 1 })]);
        assert!(matches!(ask.generate(request("a")), Err(Error::Internal(_))));
        let mut ask = Ask::new(1, vec![completion("x"), Answer::Unanswered("no room".into())]);
        let score = || ScoreRequest::of("initial", Text::user("a"), "b");
        assert!(matches!(ask.score(score()), Err(Error::Internal(_))));
        assert_eq!(ask.score(score()), Err(Error::Unanswered("no room".into())));
        let reward = || RewardRequest::of("judge", Text::user("a"), "b");
        let mut ask = Ask::new(1, vec![Answer::Reward(-0.5), completion("x")]);
        assert_eq!(ask.reward(reward()), Ok(-0.5));
        assert!(matches!(ask.reward(reward()), Err(Error::Internal(_))));
        assert_eq!(ask.reward(reward()), Err(Error::Pending));
        assert_eq!(ask.into_pending(), [Request::Reward(reward())]);
    }
}
