"""Writes a small finished run whose texts try to be markup: `python hostile.py FOLDER RUN`, where RUN is a run whose
manifest it borrows.

Every stage that there is has a file: prompts that were written, a judge, pairs, filters at each place, an extrapolation,
a thousand updates in two rounds. Names, reasons and texts are markup, overrides of the writing direction, stacks of
accents, lines of a megabyte, and other scripts.
"""

import json
import math
import sys
from pathlib import Path

MARKUP = "</script><script>document.title='broken'</script><img src=x onerror=alert(1)><style>*{display:none}</style>"
TEXTS = [
    MARKUP,
    "‮gnp.exe the rest of the page turned around",
    "Z" + "̖̗̘̙̀́̂̃̄̅" * 30 + " algo",
    "x" * (1 << 20),
    "w" * 200 + " " + "long " * 400,
    "日本語の答え。\nالجواب بالعربية\n🙂\tend",
    "",
    "\x1b[2J\x00\x07 controls",
]


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def completion(text, tokens):
    return {"text": text, "tokens": tokens, "logprob": -float(tokens), "entropy": 1.5, "finish": "stop"}


def round_of(folder, number):
    ids = [f"{number}-{i:03}" for i in range(60)]
    text = lambda i: TEXTS[i % len(TEXTS)]
    write(folder / "write.jsonl", [
        {"id": id, "slot": i, "prompt": {"raw": text(i)}, **({"dropped": MARKUP} if i % 7 == 0 else {})}
        for i, id in enumerate(ids)])
    write(folder / "sample.jsonl", [{"id": id} for i, id in enumerate(ids) if i % 7])
    ids = [id for i, id in enumerate(ids) if i % 7]
    write(folder / "generate.jsonl", [
        {"id": id, "keys": [], "variants": [
            {"name": name, "role": role, "prompt": {"raw": text(i)}, "completion": completion(text(i + k), 5 + 3 * ((i * 7 + k) % 40))}
            for k, (name, role) in enumerate([("good", "good"), ("bad", "bad")])],
         **({"dropped": "too-long"} if i % 25 == 3 else {})}
        for i, id in enumerate(ids)])
    reasons = [MARKUP, "‮desrever", "a-reason-" + "of-many-words-" * 20, "r3", "r4", "r5", "r6", "r7", "r8", "r9"]
    write(folder / "filter-generate.jsonl", [
        {"id": id, "plugin": MARKUP, "version": "1", "verdict": {"drop": reasons[i % 10]} if i % 3 == 0 else "keep"}
        for i, id in enumerate(ids)])
    left = [id for i, id in enumerate(ids) if i % 3 and i % 25 != 3]
    write(folder / "judge.jsonl", [
        {"id": id, "opinion": {"unparsable": MARKUP} if i % 9 == 8 else {"rewards": [
            {"variant": "good", "name": "r", "value": (i % 11) / 2}, {"variant": "bad", "name": "r", "value": 1.0}]}}
        for i, id in enumerate(left)])
    left = [id for i, id in enumerate(left) if i % 9 != 8]
    write(folder / "pair.jsonl", [{"id": id, "pair": {"chosen": "good", "rejected": "bad"}} for id in left])
    write(folder / "difficulty.jsonl", [{"id": id, "difficulty": 2.0 + i / 7} for i, id in enumerate(left)])
    write(folder / "train.jsonl", [
        {"record_id": id, "round": number, "prompt": text(i), "chosen": text(i), "chosen_finish": "stop",
         "rejected": text(i + 1), "rejected_finish": "length", "difficulty": 2.0 + i / 7}
        for i, id in enumerate(left)])
    write(folder / "metrics.jsonl", [
        {"step": step, "max_steps": 500, "epoch": step / 500, "loss": 0.7 - step / 1000 + 0.05 * (step % 7),
         "grad_norm": 1 + step % 5, "learning_rate": 1e-6 * (500 - step), "num_tokens": 100,
         "rewards/chosen": step / 900, "rewards/rejected": -step / 400, "rewards/margins": step / 300,
         "rewards/accuracies": min(1.0, 0.4 + step / 700), "logps/chosen": -80.0 - step / 50, "logps/rejected": -90.0 - step / 20}
        for step in range(1, 501)])
    answers(folder, number)
    return len(left)


def answers(folder, number):
    prompts = {f"h{i}": TEXTS[i % len(TEXTS)] for i in range(16)}
    rows = []
    for i, (id, prompt) in enumerate(prompts.items()):
        rows.append({"record": id, "index": 0, "request": {"score": {"model": "policy", "prompt": {"raw": prompt}, "completion": "a"}},
                     "answer": {"score": {"logprob": -20.0 - i + number, "tokens": 8}}})
        rows.append({"record": id, "index": 1, "request": {"generate": {"model": "policy", "prompt": {"raw": prompt}, "decoding": {}, "seed": 0}},
                     "answer": {"completion": completion(TEXTS[(i + number) % len(TEXTS)], 10 + i + number)}})
    write(folder / "evaluate-asks.jsonl", rows)


def main():
    run, borrowed = Path(sys.argv[1]), Path(sys.argv[2])
    manifest = json.loads((borrowed / "run.json").read_text())
    manifest["plugin_set"]["method"]["summary"] = MARKUP
    manifest["plugin_set"]["method"]["paper"] = "javascript:alert(1)"
    manifest["plugins"][0]["name"] = MARKUP
    run.mkdir(parents=True, exist_ok=True)
    (run / "run.json").write_text(json.dumps(manifest))
    answers(run / "pool", 0)
    kept = [round_of(run / f"rounds/{number:02}", number) for number in (1, 2)]
    measured = lambda number: [
        {"measure": "perplexity", "value": math.exp(sum(20.0 + i - number for i in range(16)) / 128)},
        {"measure": "length", "value": 17.5 + number}]
    candidates = [
        {"alpha": alpha, "found": {"objective": 3 - (alpha - 0.3) ** 2 * 9, "answers": 16, "length": 20.0, "ended": 0.9, "repeated": 0.01},
         "chosen": alpha == 0.3, **({"refused": MARKUP} if alpha == 0.5 else {})}
        for alpha in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)]
    rounds = [
        {"round": number, "written": 60, "prompts": 51, "completions": 102, "kept": kept[number - 1],
         "dropped": {MARKUP: 3, "too-long": 2}, "difficulty": [2.0, 6.0], "mean_length": 60.0, "distinct_2": 0.5,
         "entropy": 1.5, "loss_first": 0.75, "loss_last": 0.25, "training": {"rewards/margins": 0.8},
         "extrapolated": {"alpha": 0.3, "from": "initial", "objective": "judge", "candidates": candidates} if number == 2 else None,
         "held_out": measured(number)}
        for number in (1, 2)]
    report = {"method": "hostile", "model": MARKUP, "before": measured(0), "rounds": rounds, "best_round": 2,
              "warning": MARKUP, "ended": "rounds"}
    (run / "report.json").write_text(json.dumps(report))
    stages = ["write", "sample", "generate", "filter-generate", "judge", "pair", "train", "evaluate"]
    write(run / "journal.jsonl", [
        {"event": "finished", "round": number, "stage": stage, "key": "k", "files": {},
         "counts": {"tokens": 123456 * i, "fuel": 10 ** 12 + i} if i % 2 == 0 else {}}
        for number in (0, 1, 2) for i, stage in enumerate(stages)] + [{"event": "done", "reason": "rounds", "best_round": 2}])
    write(run / "timings.jsonl", [
        {"round": number, "stage": stage, "seconds": 3.7 ** i, "peak_memory_bytes": 10 ** 9}
        for number in (0, 1, 2) for i, stage in enumerate(stages)])


main()
