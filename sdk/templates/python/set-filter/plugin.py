from dataclasses import dataclass, field

from aligner_sdk import ConfigError, Context, Drop, Keep, Record, SetFilter, Verdict


@dataclass
class MyPlugin(SetFilter, name="my-plugin", version="0.1.0"):
    """Keeps the first of the records whose answers begin with the same words."""

    #: How many words of an answer are compared.
    words: int = 8
    #: The first record with each beginning. One instance sees the whole stage.
    first: dict[str, str] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        if self.words < 1:
            raise ConfigError("`words` is under 1")

    def observe(self, context: Context, record: Record) -> None:
        for beginning in self.beginnings(record):
            self.first.setdefault(beginning, record.prompt.id)

    def decide(self, context: Context, record: Record) -> Verdict:
        same = any(self.first.get(it, record.prompt.id) != record.prompt.id for it in self.beginnings(record))
        return Drop("same-beginning") if same else Keep()

    def beginnings(self, record: Record) -> list[str]:
        return [" ".join(it.text.split()[: self.words]).lower() for _, it in record.completions()]
