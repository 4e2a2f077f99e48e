"""Writes labelled rows in every form that `aligner evaluate` reads, and the plugins that judge them.

    python rows.py FOLDER

What is good or bad here is made up by a small generator of its own, so the files are the same everywhere.
"""

import gzip
import json
import sys
from pathlib import Path

WORDS = ("the river was wide and the people of the town had built a bridge that nobody used after dark because of "
         "its noise so they met on the other bank and spoke about what they had seen").split()
LANGUAGES = {
    "en": "Because water is heavier than oil.",
    "ru": "Потому что вода тяжелее масла.",
    "zh": "因为水比油重。",
}


def draws(seed):
    state = seed
    while True:
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        yield (state >> 33) / 2**31


def text(draw, words):
    return " ".join(WORDS[int(next(draw) * len(WORDS))] for _ in range(words))


def completions(draw, n):
    """Bad ones are longer, most of the time."""
    for place in range(n):
        good = next(draw) < 0.6
        words = int(next(draw) * (40 if good else 90)) + 1
        language = list(LANGUAGES)[place % 3]
        score = round(min(1, max(0, (0.75 if good else 0.25) + 0.4 * (next(draw) - 0.5))), 2)
        yield {"prompt": text(draw, 8) + "?", "completion": LANGUAGES[language] + " " + text(draw, words), "label": good,
               "score": score, "source": "abcd"[int(next(draw) * 4)], "language": language}


def pairs(draw, n):
    for place in range(n):
        chosen, rejected = (text(draw, int(next(draw) * 25) + 1) for _ in range(2))
        yield {"prompt": text(draw, 6) + "?", "chosen": chosen, "chosen_model": "one", "rejected": rejected,
               "rejected_model": "two", "subset": ["chat", "chat-hard", "safety", "reasoning"][place % 4], "id": place}


def main():
    folder = Path(sys.argv[1])
    lines = lambda rows: "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    draw = draws(1)
    (folder / "completions.jsonl").write_text(lines(completions(draw, 6000)))
    rows = list(pairs(draw, 80))
    (folder / "rewardbench.jsonl").write_text(lines(rows))
    several = [{"prompt": row["prompt"], "chosen": [row["chosen"]], "rejected": [text(draw, 5) for _ in range(3)],
                "num_correct": 1, "num_incorrect": 3, "total_completions": 4, "models": ["one"], "subset": row["subset"],
                "id": str(row["id"]), "additional_metadata": None} for row in rows]
    (folder / "rewardbench-2.jsonl").write_text(lines(several))
    (folder / "llmbar.json").write_text(json.dumps(
        [{"input": row["prompt"], "output_1": row["rejected"], "output_2": row["chosen"], "label": 2} for row in rows]))
    (folder / "pandalm.json").write_text(json.dumps(
        [{"motivation_app": "", "instruction": row["prompt"], "input": "", "idx": place, "annotator1": 1, "annotator2": 1,
          "annotator3": place % 3, "response1": row["chosen"], "response2": row["rejected"]}
         for place, row in enumerate(rows)]))
    with gzip.open(folder / "hh.jsonl.gz", "wt") as file:
        for row in rows:
            dialogue = lambda answer: f"\n\nHuman: {row['prompt']}\n\nAssistant: {answer}"
            file.write(json.dumps({"chosen": dialogue(row["chosen"]), "rejected": dialogue(row["rejected"])}) + "\n")
    (folder / "judges.toml").write_text("""
[[plugin]]
name = "letters"
source = "builtin:pairwise"
config = { read = "logprob", rewards = true }
ask = true

[[plugin]]
name = "grade each by itself"
source = "builtin:grade"
ask = true
each = true

[[plugin]]
name = "words"
source = "builtin:pairwise"
ask = true
""")


main()
