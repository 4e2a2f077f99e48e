from dataclasses import dataclass

from aligner_sdk import Ask, ConfigError, Context, Drop, Filter, Keep, Record, Verdict


@dataclass
class MyPlugin(Filter, name="my-plugin", version="0.1.0"):
    """Drops records with a completion of too few words."""

    words: int = 3

    def __post_init__(self) -> None:
        if self.words < 1:
            raise ConfigError("`words` is under 1")

    def filter(self, context: Context, record: Record, ask: Ask) -> Verdict:
        short = any(len(it.text.split()) < self.words for _, it in record.completions())
        return Drop("too-short") if short else Keep()
