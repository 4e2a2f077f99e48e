"""Compares the self-steering loss of a job's `train.py`, and its slopes, with the numbers that the native loss is
tested with (tests/fixtures/preference/losses.json).

usage: sso.py JOB LOSSES.json
"""

import importlib.util
import json
import sys
from pathlib import Path

import torch


def main(job, losses):
    spec = importlib.util.spec_from_file_location("train", Path(job) / "train.py")
    train = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(train)
    steered = json.loads(Path(losses).read_text())["steered"]
    items = torch.tensor(steered["items"], dtype=torch.float64)  # [items, 6, (policy, reference, tokens)]
    policy, reference, lengths = items.unbind(-1)
    worst, count = 0.0, 0
    for row in steered["losses"]:
        if row["settings"]["objective"] != "sso":
            continue
        policy = policy.detach().requires_grad_()
        loss = train.sso_loss(policy, reference, lengths, row["settings"])
        (slopes,) = torch.autograd.grad(loss.sum(), policy)
        expected = torch.tensor(row["loss"], dtype=torch.float64), torch.tensor(row["slopes"], dtype=torch.float64)
        for found, wanted in zip((loss, slopes), expected):
            worst = max(worst, ((found - wanted).abs() / wanted.abs().clamp_min(1)).max().item())
        count += 1
    print(f"sso: {count} settings, loss and slopes {worst:.1e} apart from those of the native loss")
    assert count == 5 and worst < 1e-9, (count, worst)


if __name__ == "__main__":
    main(*sys.argv[1:])
