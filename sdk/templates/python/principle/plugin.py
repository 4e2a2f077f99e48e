from dataclasses import dataclass

from aligner_sdk import Ask, Chat, Context, Principle, Raw, Record, Text, Variant, VariantRole


@dataclass
class MyPlugin(Principle, name="my-plugin", version="0.1.0"):
    """Puts each prompt under instructions, and beside it the prompt as it is."""

    instructions: str = "Answer truthfully and in a few clear sentences. Say so where you do not know."

    def render(self, context: Context, record: Record, ask: Ask) -> list[Variant]:
        prompt = record.prompt.text
        return [
            Variant("good", VariantRole.GOOD, self.under_instructions(prompt)),
            Variant("plain", VariantRole.PLAIN, prompt),
        ]

    def under_instructions(self, prompt: Text) -> Text:
        if isinstance(prompt, Chat):
            return prompt.under(self.instructions)
        return Raw(f"{self.instructions}\n\n{prompt.gist()}")
