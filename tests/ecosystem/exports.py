"""Reads what a run leaves for other tools with those tools, and compares it with the run's own files.

usage: exports.py RUN
"""

import json
import math
import os
import sys

import pyarrow.parquet as parquet
from datasets import load_dataset
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import TrainerState


def rows(*path):
    with open(os.path.join(*path), encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def close(a, b):
    return math.isclose(a, b, rel_tol=1e-6)


def rounds(run):
    folder = os.path.join(run, "rounds")
    return [os.path.join(folder, name) for name in sorted(os.listdir(folder))]


def check_curves(run, report):
    events = EventAccumulator(os.path.join(run, "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    tags = events.Tags()["scalars"]
    done = 0
    for number, folder in enumerate(rounds(run), 1):
        steps = rows(folder, "metrics.jsonl")
        for step in steps:
            for name in set(step) - {"step", "max_steps", "num_tokens"}:
                found = [e for e in events.Scalars(f"train/{name}") if e.step == done + step["step"]]
                assert len(found) == 1 and close(found[0].value, step[name]), (name, step, found)
                assert found[0].wall_time == found[0].step
        done += len(steps)
        for measured in report["rounds"][number - 1]["held_out"]:
            found = [e for e in events.Scalars(f"eval/{measured['measure']}") if e.step == done]
            assert close(found[-1].value, measured["value"]), (measured, found)
    for measured in report["before"]:
        first = events.Scalars(f"eval/{measured['measure']}")[0]
        assert first.step == 0 and close(first.value, measured["value"])
    print(f"TensorBoard reads {len(tags)} scalars over {done} steps: {', '.join(sorted(tags))}")


def check_state(run, report):
    best = os.path.join(run, "rounds", f"{report['best_round']:02}")
    result = next(f for f in ("adapter", "model") if os.path.isdir(os.path.join(run, "final", f)))
    state = TrainerState.load_from_json(os.path.join(run, "final", result, "trainer_state.json"))
    steps = rows(best, "metrics.jsonl")
    assert state.global_step == state.max_steps == len(steps)
    logged = [row for row in state.log_history if "loss" in row]
    for row, step in zip(logged, steps, strict=True):
        for name in ("loss", "grad_norm", "learning_rate", "epoch", "step"):
            assert row[name] == step[name], (row, step)
    print(f"transformers reads a trainer's state after {state.global_step} steps")


def check_data(run):
    folder = os.path.join(run, "final", "data")
    with open(os.path.join(folder, "README.md"), encoding="utf-8") as card:
        assert card.read().startswith("---\nlicense: unknown\n")
    trained = [row for path in rounds(run) for row in rows(path, "train.jsonl")]
    trained = {(row["round"], row["record_id"]): row for row in trained if "dropped" not in row}
    names = sorted(name[:-6] for name in os.listdir(folder) if name.endswith(".jsonl"))
    for name in names:
        lines = rows(folder, f"{name}.jsonl")
        for line in lines:
            row = trained[line["round"], line["record_id"]]
            for column in {"prompt", "completion", "chosen", "rejected"} & set(line):
                assert line[column] == row[column], line
        without = [{key: value for key, value in row.items() if value is not None}
                   for row in parquet.read_table(os.path.join(folder, f"{name}.parquet")).to_pylist()]
        assert without == lines, f"{name}.parquet and {name}.jsonl differ"
        for kind, ending in (("json", "jsonl"), ("parquet", "parquet")):
            path = os.path.join(folder, f"{name}.{ending}")
            data = load_dataset(kind, data_files=path, split="train")
            assert len(data) == len(lines)
            assert data[0]["prompt"] == lines[0]["prompt"], data[0]
        print(f"datasets reads {len(lines)} rows of {name} as JSONL and as Parquet: {data.features}")
    assert names


def main(run):
    with open(os.path.join(run, "report.json"), encoding="utf-8") as file:
        report = json.load(file)
    check_curves(run, report)
    check_state(run, report)
    check_data(run)


if __name__ == "__main__":
    main(*sys.argv[1:])
