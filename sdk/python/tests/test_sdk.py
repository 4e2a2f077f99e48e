"""`python -m unittest discover -s tests`, in the folder above."""

from __future__ import annotations

import json
import unittest
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

from aligner_sdk import (
    Ask,
    Chat,
    Completion,
    ConfigError,
    Context,
    Drop,
    Filter,
    InputError,
    InternalError,
    Keep,
    Raw,
    Record,
    Request,
    Rng,
    Score,
    ScoreRequest,
    Text,
    Unanswered,
    UnansweredError,
    Verdict,
    testing,
)
from aligner_sdk.ask import Done, converse
from aligner_sdk.config import schema


class Mode(Enum):
    SOFT = "soft"
    VERY_HARD = "very-hard"


@dataclass
class Inner:
    depth: int


@dataclass
class Settings(Filter, name="settings", version="1.2.3", needs=["perplexity(good)"]):
    """For tests.

    And more of it.
    """

    words: int = 3
    share: float = 0.5
    mode: Mode = Mode.SOFT
    way: Literal["a", "b"] = "a"
    list: list[str] = field(default_factory=lambda: [])
    limit: int | None = None
    inner: Inner | None = None


class Nothing(Filter, name="nothing", version="0.1.0", summary="For tests."):
    pass


@dataclass
class Required(Filter, name="required", version="0.1.0"):
    words: int

    def __post_init__(self) -> None:
        if self.words > 9:
            raise ConfigError("`words` is over 9")


class Configurations(unittest.TestCase):
    def test_keys_that_are_absent_take_their_default(self) -> None:
        self.assertEqual(testing.plugin(Settings), Settings())
        self.assertEqual(testing.plugin(Settings, mode="very-hard").mode, Mode.VERY_HARD)
        self.assertEqual(testing.plugin(Settings, inner={"depth": 2}).inner, Inner(2))
        share = testing.plugin(Settings, share=1).share
        self.assertEqual((share, type(share)), (1.0, float))
        self.assertIsInstance(testing.plugin(Nothing), Nothing)

    def test_wrong_configurations_name_the_key(self) -> None:
        def check(kind: type[Filter], expected: str, **given: Any) -> None:
            with self.assertRaises(ConfigError) as caught:
                testing.plugin(kind, **given)
            self.assertEqual(str(caught.exception), expected)

        keys = "`words`, `share`, `mode`, `way`, `list`, `limit`, `inner`"
        check(Settings, f"unknown key `wrods`, expected one of {keys}", wrods=7)
        check(Nothing, "unknown key `x`; this plugin has no configuration", x=1)
        check(Settings, 'key `words`: expected a whole number, found "seven"', words="seven")
        check(Settings, "key `words`: expected a whole number, found true", words=True)
        check(Settings, "key `words`: expected a whole number, found null", words=None)
        check(Settings, 'key `mode`: expected one of `soft`, `very-hard`, found "hard"', mode="hard")
        check(Settings, 'key `way`: expected one of `a`, `b`, found "c"', way="c")
        check(Settings, "key `list[1]`: expected a text, found 1", list=["a", 1])
        check(Settings, "missing key `inner.depth`, expected a whole number", inner={})
        check(Settings, "unknown key `inner.x`, expected `depth`", inner={"x": 1})
        check(Settings, 'key `inner.depth`: expected a whole number, found "a"', inner={"depth": "a"})
        check(Required, "missing key `words`, expected a whole number")
        check(Required, "`words` is over 9", words=10)
        check(Settings, "key `share`: the number is too large", share=10**400)
        check(Settings, "the configuration is not JSON: NaN is no number", share=float("nan"))

    def test_the_schema_is_that_of_the_fields(self) -> None:
        self.assertEqual(schema(Nothing), "")
        found = json.loads(schema(Settings))
        self.assertEqual((found["additionalProperties"], found.get("required")), (False, None))
        properties = found["properties"]
        self.assertEqual(properties["words"], {"type": "integer", "default": 3})
        self.assertEqual(properties["mode"], {"enum": ["soft", "very-hard"], "default": "soft"})
        self.assertEqual(
            properties["list"], {"type": "array", "items": {"type": "string"}, "default": []}
        )
        self.assertEqual(properties["limit"], {"type": "integer"})
        self.assertEqual(properties["inner"]["required"], ["depth"])
        self.assertEqual(json.loads(schema(Required))["required"], ["words"])

    def test_the_head_of_the_class_describes_it(self) -> None:
        described = (Settings.NAME, Settings.VERSION, Settings.SUMMARY, Settings.NEEDS)
        self.assertEqual(described, ("settings", "1.2.3", "For tests.", ("perplexity(good)",)))


class Asking(unittest.TestCase):
    def test_a_chain_asks_one_request_at_a_time(self) -> None:
        asked: list[str] = []

        def answer(request: Request) -> Completion:
            asked.append(request.prompt.gist())
            return testing.completion("b" if len(asked) == 1 else "c")

        def chain(ask: Ask) -> str:
            first = ask.generate("policy", Text.user("a"))
            return ask.generate("policy", Text.user(first.text)).text

        self.assertEqual(testing.run(17, answer, chain), "c")
        self.assertEqual(asked, ["a", "b"])

    def test_what_is_caught_in_between_does_not_count(self) -> None:
        def careless(ask: Ask) -> str:
            try:
                return ask.generate("policy", Text.user("a")).text
            except:  # noqa: E722
                return ask.generate("policy", Text.user("guess")).text

        outcome = converse(1, [], careless)
        assert isinstance(outcome, list)
        self.assertEqual([request.prompt for request in outcome], [Text.user("a")])
        swallowed = converse(1, [], lambda ask: _swallow(ask))
        self.assertIsInstance(swallowed, list)

    def test_all_keeps_order_and_asks_only_what_is_missing(self) -> None:
        requests = [ScoreRequest("policy", Raw(text), "x") for text in "abc"]
        outcome = converse(1, [Score(-2.0, 1)], lambda ask: ask.all(requests))
        self.assertEqual(outcome, requests[1:])
        nothing = converse(1, [], lambda ask: ask.all([]))
        assert isinstance(nothing, Done)
        self.assertEqual(nothing.value, [])

    def test_answers_of_the_wrong_sort_are_errors(self) -> None:
        ask = Ask(1, [Score(-1.0, 1), Unanswered("no room")])
        with self.assertRaises(InternalError):
            ask.reward("judge", Text.user("a"), "b")
        with self.assertRaisesRegex(UnansweredError, "no room"):
            ask.generate("policy", Text.user("a"))
        with self.assertRaises(TypeError):
            ask.all(["policy"])  # type: ignore[list-item]

    def test_one_drives_a_filter_through_its_answers(self) -> None:
        class Polite(Filter):
            def filter(self, context: Context, record: Record, ask: Ask) -> Verdict:
                said = ask.generate("policy", Text.user(record.prompt.text.gist())).text
                return Drop("impolite") if said == "bad" else Keep()

        record = testing.record("p-1", "Hello?")
        verdict = testing.filter(Polite(), record, lambda _: testing.completion("bad"))
        self.assertEqual(verdict, Drop("impolite"))
        with self.assertRaisesRegex(AssertionError, "asked a model"):
            testing.filter(Polite(), record)


def _swallow(ask: Ask) -> str:
    try:
        ask.reward("judge", Text.user("a"), "b")
    except BaseException:
        pass
    return "a guess"


class Texts(unittest.TestCase):
    def test_a_task_parts_at_its_first_blank_line(self) -> None:
        def check(text: str, *expected: str) -> None:
            self.assertEqual(Text.user(text).instruction_and_input(), expected)

        check("Why?", "Why?", "")
        check("Sum up.\n\nOne.\n\nTwo.", "Sum up.", "One.\n\nTwo.")
        check("Sum up\nthis.\r\n \t\r\n\n One. \n", "Sum up\nthis.", "One.")
        check("\n\nWhy?\n\n", "Why?", "")
        check("", "", "")
        self.assertEqual(Text.task("a", "b\n\nc").instruction_and_input(), ("a", "b\n\nc"))
        self.assertEqual(Text.task(" Why? ", " \n"), Text.user("Why?"))

    def test_instructions_join_the_system_message(self) -> None:
        history = testing.awkward()[-1].prompt.text
        under = history.under("Be good.")
        self.assertEqual(under.messages[0].content, "You are terse.\n\nBe good.")
        self.assertEqual(len(under.messages), 4)
        self.assertEqual(len(Text.user("Why?").under("Be good.").messages), 2)
        self.assertEqual(Chat([]).under("Be good.").messages[0].content, "Be good.")
        with self.assertRaises(InputError):
            Raw("Why?").under("Be good.")

    def test_a_transcript_names_speakers_where_there_are_several_messages(self) -> None:
        self.assertEqual(Text.user(" Why?").transcript(), " Why?")
        transcript = testing.awkward()[-1].prompt.text.transcript()
        self.assertTrue(transcript.startswith("System: You are terse.\n\nUser: What"))

    def test_there_are_twenty_awkward_records(self) -> None:
        self.assertEqual(len(testing.awkward()), 20)


class Chance(unittest.TestCase):
    def test_random_numbers_are_those_of_the_other_sdks(self) -> None:
        rng = Rng(17)
        self.assertEqual([rng.bits(), rng.bits()], [0x808475F02EE37363, 0x6434FF62B4E8EDD1])
        rng = Rng(0xF1234567FEDCBA99)  # More bits than a float holds.
        self.assertEqual([rng.bits(), rng.below(1000)], [0xE55470E76BFB22E9, 764])
        self.assertEqual(sorted(Rng(3).choose(9, 4)), [0, 1, 2, 3])
        self.assertEqual(Rng(1).below(0), 0)
        items = list(range(100))
        Rng(1).shuffle(items)
        self.assertNotEqual(items, sorted(items))
        self.assertTrue(all(0 <= rng.uniform() < 1 for _ in range(100)))


if __name__ == "__main__":
    unittest.main()
