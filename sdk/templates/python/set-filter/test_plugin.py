import unittest

from aligner_sdk import ConfigError, Drop, Keep, testing
from plugin import MyPlugin


class MyPluginTest(unittest.TestCase):
    def test_the_first_of_the_same_beginning_stays(self) -> None:
        answers = ["As an AI, no.", "Yes.", "as an  elephant, yes.", "As a rule."]
        records = [testing.answered(f"p-{i}", "Why?", text) for i, text in enumerate(answers)]
        verdicts = testing.decide(testing.plugin(MyPlugin, words=2), [], records)
        self.assertEqual(verdicts, [Keep(), Keep(), Drop("same-beginning"), Keep()])
        verdicts = testing.decide(testing.plugin(MyPlugin, words=2), records[:1], records[2:])
        self.assertEqual(verdicts, [Drop("same-beginning"), Keep()])

    def test_a_beginning_of_no_words_is_refused(self) -> None:
        with self.assertRaisesRegex(ConfigError, "`words`"):
            testing.plugin(MyPlugin, words=0)

    def test_awkward_records_get_a_verdict(self) -> None:
        records = testing.awkward()
        verdicts = testing.decide(testing.plugin(MyPlugin), [], records)
        self.assertEqual(len(verdicts), len(records))
