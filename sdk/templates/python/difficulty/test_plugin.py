import unittest

from aligner_sdk import Completion, Finish, Request, UnansweredError, Unanswered, testing
from plugin import MyPlugin


class MyPluginTest(unittest.TestCase):
    def test_an_unsure_answer_is_harder(self) -> None:
        def scored(logprob: float) -> float:
            def model(request: Request) -> Completion:
                return Completion("Because.", 4, logprob, Finish.STOP)

            return testing.score(testing.plugin(MyPlugin), testing.record("p-1", "Why?"), model)

        self.assertEqual((scored(-2.0), scored(-8.0)), (0.5, 2.0))

    def test_a_prompt_that_the_model_cannot_read_is_an_error(self) -> None:
        with self.assertRaises(UnansweredError):
            record = testing.record("p-1", "Why?")
            testing.score(testing.plugin(MyPlugin), record, lambda _: Unanswered("too long"))

    def test_awkward_records_get_a_score(self) -> None:
        for record in testing.awkward():
            model = lambda _: testing.completion("Because.")
            self.assertGreaterEqual(testing.score(testing.plugin(MyPlugin), record, model), 0.0)
