"""Compares aligner's token logprobs with those of transformers and PEFT.

usage: compare.py MODEL.gguf ADAPTER BASE.jsonl ADAPTED.jsonl
"""

import json
import os
import sys

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

TOLERANCE = 1e-3  # nats


def rows(path):
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def compare(name, model, scored):
    worst = 0.0
    for row in scored:
        ids = torch.tensor([row["token_ids"]])
        with torch.no_grad():
            logprobs = model(ids).logits[0].log_softmax(-1)
        first = row["first_scored"]
        theirs = [logprobs[t - 1, ids[0, t]].item() for t in range(first, ids.shape[1])]
        assert len(theirs) == row["tokens"] == len(row["token_logprobs"]), row
        worst = max(worst, *(abs(a - b) for a, b in zip(theirs, row["token_logprobs"])))
    print(f"{name}: largest difference of a token's logprob {worst:.2e} over {len(scored)} rows")
    assert worst < TOLERANCE, f"{name} differs by {worst}"


def main(gguf, adapter, base_rows, adapted_rows):
    torch.manual_seed(0)
    folder, name = os.path.split(gguf)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32).eval()
    base, adapted = rows(base_rows), rows(adapted_rows)
    compare("base", model, base)
    tuned = PeftModel.from_pretrained(model, adapter).eval()
    compare("adapter", tuned, adapted)
    moved = max(abs(a["logprob"] - b["logprob"]) for a, b in zip(base, adapted))
    print(f"the adapter moves a row's logprob by up to {moved:.3f}")
    assert moved > 1e-2, "the adapter changes nothing"


if __name__ == "__main__":
    main(*sys.argv[1:])
