import unittest

from aligner_sdk import ConfigError, Drop, Keep, testing
from plugin import MyPlugin


class MyPluginTest(unittest.TestCase):
    def test_short_answers_are_dropped(self) -> None:
        plugin = testing.plugin(MyPlugin, words=3)
        for text, expected in [("Yes, it is.", Keep()), ("Yes.", Drop("too-short"))]:
            record = testing.answered("p-1", "Is it?", text)
            self.assertEqual(testing.filter(plugin, record), expected)

    def test_a_bound_of_no_words_is_refused(self) -> None:
        with self.assertRaisesRegex(ConfigError, "`words`"):
            testing.plugin(MyPlugin, words=0)

    def test_awkward_records_get_a_verdict(self) -> None:
        for record in testing.awkward():
            self.assertIn(type(testing.filter(testing.plugin(MyPlugin), record)), [Keep, Drop])
