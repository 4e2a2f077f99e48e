import unittest

from aligner_sdk import (
    Answer,
    InputError,
    Opinion,
    Request,
    Reward,
    Rewards,
    Unanswered,
    Unparsable,
    testing,
)
from plugin import MyPlugin


def judged(answer: Answer) -> Opinion:
    """Lets a model that always gives this answer judge."""

    def model(request: Request) -> Answer:
        return answer

    record = testing.answered("p-1", "Why?", "Because.")
    return testing.judge(testing.plugin(MyPlugin), record, model)


class MyPluginTest(unittest.TestCase):
    def test_a_grade_becomes_a_reward(self) -> None:
        for said, grade in [("7", 7.0), ("The grade is 10.", 10.0)]:
            opinion = judged(testing.completion(said))
            self.assertEqual(opinion, Rewards([Reward("few-shot", "quality", grade)]))

    def test_what_is_no_grade_is_unparsable(self) -> None:
        for answer in (testing.completion("Good!"), testing.completion("100"), Unanswered("too long")):
            self.assertIsInstance(judged(answer), Unparsable)

    def test_awkward_records_get_an_opinion(self) -> None:
        plugin = testing.plugin(MyPlugin)
        for record in testing.awkward():
            if any(record.completions()):
                opinion = testing.judge(plugin, record, lambda _: testing.completion("5"))
                self.assertIsInstance(opinion, Rewards)
            else:
                with self.assertRaises(InputError):
                    testing.judge(plugin, record)
