#!/usr/bin/env python3
"""Stands in for a Python with TRL: called as `python train.py ATTEMPT`, it plays a job in no time, and ends
badly where $FAKE says so. It imports nothing but the standard library."""

import hashlib
import json
import os
import struct
import sys
import time
from pathlib import Path


def tensors(path):
    """Returns the tensors of a safetensors file of f32 as lists of numbers, by name."""
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__", None)
    said = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        part = data[8 + size + begin : 8 + size + end]
        said[name] = (entry["shape"], list(struct.unpack(f"<{len(part) // 4}f", part)))
    return said


def write(path, said):
    header, body = {"__metadata__": {"format": "pt"}}, b""
    for name, (shape, numbers) in said.items():
        part = struct.pack(f"<{len(numbers)}f", *numbers)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(body), len(body) + len(part)]}
        body += part
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def main():
    if sys.argv[1] == "-c":
        # What the modules are asked for: all are there.
        return
    arguments = sys.argv[1:]
    if arguments[:2] == ["-m", "torch.distributed.run"]:
        arguments = [argument for argument in arguments[2:] if not argument.startswith("--")]
    attempt = arguments[1]
    here = Path.cwd()
    with (here / "starts.txt").open("a") as file:
        file.write(f"{attempt} {' '.join(sys.argv[1:])}\n")
    fake = os.environ.get("FAKE", "")
    # A fault may be that of some attempts alone: `die:1`.
    fake, _, only = fake.partition(":")
    fake = fake if only in ("", attempt) else ""
    folder = here / attempt
    config = json.loads((here / "config.json").read_text())
    orders = (here / "order.jsonl").read_text().splitlines()
    rows = (here / "data.jsonl").read_text().splitlines()
    batch = config["training_arguments"]["per_device_train_batch_size"]
    steps = -(-len(rows) // batch)

    if fake == "die":
        print("Traceback (most recent call last):\n  out of \x1b[31mluck\n" + os.environ.get("HF_TOKEN", ""))
        sys.exit(7)
    if fake == "loud":
        for _ in range(40):
            print("x" * 1_000_000)
        print("the end of a long log")
        sys.exit(3)
    if fake == "slow-start":
        time.sleep(2)
    if fake == "never":
        time.sleep(600)
    with (folder / "progress.jsonl").open("a") as progress:
        for step in range(1, steps + 1):
            if fake == "hang" and step == 2:
                time.sleep(600)
            if fake == "wait" and step == 2:
                # Until somebody says go on; who asks may be another process than who started this.
                while not (here / "go").exists():
                    time.sleep(0.05)
            if fake == "garbage":
                progress.write("{\n\x00\xff\nnull\n" + "9" * 200_000 + "\n")
            row = {"attempt": attempt, "step": step, "max_steps": steps, "epoch": step / steps}
            row |= {"loss": 2.0 / step, "grad_norm": 1.0, "learning_rate": 1e-3, "num_tokens": 9.0}
            progress.write(json.dumps(row) + "\n")
            progress.flush()
    if fake == "no-adapter":
        return
    adapter = folder / "adapter"
    adapter.mkdir(exist_ok=True)
    settings = json.loads((here / "start" / "adapter_config.json").read_text())
    said = tensors(here / "start" / "adapter_model.safetensors")
    for name, (shape, numbers) in said.items():
        if "lora_B" in name and fake != "unchanged":
            said[name] = (shape, [number + 1e-3 for number in numbers])
        if fake == "nan":
            said[name] = (shape, [float("nan")] * len(numbers))
        if fake == "shape" and "lora_A" in name:
            said[name] = ([shape[0] * 2, shape[1]], numbers * 2)
        if fake == "shape" and "lora_B" in name:
            said[name] = ([shape[0], shape[1] * 2], numbers * 2)
    if fake == "shape":
        settings["r"] *= 2
    write(adapter / "adapter_model.safetensors", said)
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    names = ["adapter_config.json", "adapter_model.safetensors"]
    files = {name: hashlib.sha256((adapter / name).read_bytes()).hexdigest() for name in names}
    if fake == "cut":
        whole = (adapter / names[1]).read_bytes()
        (adapter / names[1]).write_bytes(whole[: len(whole) // 2])
    probe = config["probe"]["mean_logprobs"]
    done = {
        "attempt": attempt,
        "steps": steps,
        "files": files,
        "probe": [number - 5 for number in probe] if fake == "other-model" else probe,
        "diverged": {"what": "loss", "value": "nan", "step": 2} if fake == "diverged" else None,
        "processes": 1,
        "device": "cpu",
        "versions": {"python": "3", "trl": "fake"},
    }
    text = json.dumps(done)
    (folder / "done.json.tmp").write_text(text[:20] if fake == "half-done" else text)
    (folder / "done.json.tmp").rename(folder / "done.json")
    if fake == "stays":
        time.sleep(600)


main()
