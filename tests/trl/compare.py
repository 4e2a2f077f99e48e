"""Compares a run of aligner's own trainer with one of TRL's: updates, and what the adapters say.

usage: compare.py NAME NATIVE TRL
"""

import json
import sys
from pathlib import Path

from safetensors.numpy import load_file

# Both are f32; what is left is the order of sums, which a few updates of Adam make larger.
LOSS, NORM, LOGPROB = 5e-5, 1e-4, 1e-4


def lines(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def main(name, native, trl):
    worst = {"loss": 0.0, "grad_norm": 0.0, "rewards/margins": 0.0}
    steps = 0
    for round in ("01", "02"):
        ours, theirs = (lines(Path(run) / f"rounds/{round}/metrics.jsonl") for run in (native, trl))
        assert len(ours) == len(theirs) > 2, (name, len(ours), len(theirs))
        for a, b in zip(ours, theirs):
            steps += 1
            for key in worst:
                if key in a:
                    worst[key] = max(worst[key], abs(a[key] - b[key]) / max(1.0, abs(a[key])))
            for key in ("step", "max_steps", "num_tokens"):
                assert a[key] == b[key], (name, key, a, b)
            assert abs(a["learning_rate"] - b["learning_rate"]) < 1e-12, (name, a, b)
            assert set(a) - {"logits/chosen", "logits/rejected"} <= set(b), (name, set(a) - set(b))
    ours, theirs = (lines(f"{run}.jsonl") for run in (native, trl))
    tokens = [
        abs(a - b) for x, y in zip(ours, theirs) for a, b in zip(x["token_logprobs"], y["token_logprobs"])
    ]
    files = [load_file(Path(run) / "final/adapter/adapter_model.safetensors") for run in (native, trl)]
    weights = max(abs(files[0][key] - files[1][key]).max() for key in files[0])
    moved = max(abs(files[0][key]).max() for key in files[0] if "lora_B" in key)
    print(
        f"{name}: {steps} updates, losses {worst['loss']:.1e} apart, gradient norms {worst['grad_norm']:.1e}, "
        f"margins {worst['rewards/margins']:.1e}; adapters {weights:.1e} of {moved:.2f}; "
        f"{len(tokens)} held-out tokens {max(tokens):.1e} nats"
    )
    bounds = (LOSS, NORM, LOGPROB)
    found = (worst["loss"], worst["grad_norm"], max(tokens))
    assert all(a <= b for a, b in zip(found, bounds)), f"{name}: {found}, at most {bounds}"


if __name__ == "__main__":
    main(*sys.argv[1:])
