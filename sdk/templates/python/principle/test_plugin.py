import unittest

from aligner_sdk import Chat, Raw, Speaker, VariantRole, testing
from plugin import MyPlugin


class MyPluginTest(unittest.TestCase):
    def test_the_good_variant_is_under_the_instructions(self) -> None:
        plugin = testing.plugin(MyPlugin, instructions="Be good.")
        good, plain = testing.render(plugin, testing.record("p-1", "Why?"))
        self.assertEqual((good.role, plain.role), (VariantRole.GOOD, VariantRole.PLAIN))
        assert isinstance(good.prompt, Chat)
        said = [(it.speaker, it.content) for it in good.prompt.messages]
        self.assertEqual(said, [(Speaker.SYSTEM, "Be good."), (Speaker.USER, "Why?")])

    def test_raw_text_begins_with_the_instructions(self) -> None:
        record = testing.record("p-1", "Why?")
        record.prompt.text = Raw("Why?")
        good, _ = testing.render(testing.plugin(MyPlugin, instructions="Be good."), record)
        self.assertEqual(good.prompt, Raw("Be good.\n\nWhy?"))

    def test_awkward_records_are_rendered(self) -> None:
        for record in testing.awkward():
            self.assertEqual(len(testing.render(testing.plugin(MyPlugin), record)), 2)
