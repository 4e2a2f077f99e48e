import unittest

from aligner_sdk import Answer, Candidate, Prompt, Request, Text, Unanswered, testing
from plugin import MyPlugin


def written(answer: Answer) -> list[Prompt]:
    """Lets a model that always gives this answer write."""

    def model(request: Request) -> Answer:
        assert request.prompt.gist().count("Why ") == 3
        return answer

    pool = [testing.record(f"p-{i}", f"Why {i}?").prompt for i in range(9)]
    return testing.write(testing.plugin(MyPlugin), pool, model)


class MyPluginTest(unittest.TestCase):
    def test_the_first_line_is_a_prompt_of_this_round(self) -> None:
        prompts = written(testing.completion("\n How so? \nOr not?"))
        self.assertEqual(prompts, [Prompt("", Text.user("How so?"), ["round:1"])])

    def test_silence_and_examples_that_do_not_fit_give_no_prompt(self) -> None:
        self.assertEqual(written(testing.completion(" \n")), [])
        self.assertEqual(written(Unanswered("too long")), [])

    def test_a_round_works_on_what_it_wrote(self) -> None:
        pool = [Candidate("p-1"), Candidate("w-1", ["round:1"])]
        chosen = testing.plugin(MyPlugin).select(testing.context(), pool, 5)
        self.assertEqual(chosen, ["w-1"])
