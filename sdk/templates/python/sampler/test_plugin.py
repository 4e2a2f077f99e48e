import unittest

from aligner_sdk import Candidate, Card, Slot, testing
from plugin import MyPlugin


class MyPluginTest(unittest.TestCase):
    def test_what_was_selected_least_comes_first(self) -> None:
        pool = [Candidate(f"p-{i}", selected=i % 2) for i in range(20)]
        plugin = testing.plugin(MyPlugin, prompts=10)
        chosen = plugin.select(testing.context(), pool, 5)
        self.assertEqual(set(chosen), {it.id for it in pool if it.selected == 0})
        self.assertNotEqual(chosen, sorted(chosen))
        self.assertEqual(chosen, plugin.select(testing.context(), pool, 5))

    def test_zero_stands_for_all(self) -> None:
        pool = [Candidate(f"p-{i}") for i in range(3)]
        chosen = testing.plugin(MyPlugin).select(testing.context(), pool, 5)
        self.assertEqual(sorted(chosen), ["p-0", "p-1", "p-2"])

    def test_each_prompt_draws_its_own_examples(self) -> None:
        plugin = testing.plugin(MyPlugin, examples=2)
        catalogue = [Card(f"ex-{i}") for i in range(9)]
        drawn = [
            plugin.equip(testing.context(), Slot("p-1", seed), catalogue).exemplars for seed in range(9)
        ]
        self.assertTrue(all(len(set(it)) == 2 for it in drawn))
        self.assertGreater(len({tuple(it) for it in drawn}), 1)
