"""Runs of `aligner` over the stand-ins of a folder, and what they leave."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import libraries

ALIGNER = Path(os.environ.get("ALIGNER", libraries.ROOT / "target/release/aligner")).resolve()
SET = str(libraries.ROOT / "tests/sets/tiny.toml")
# Of two equal runs these may differ.
OWN = {"timings.jsonl", "log.txt", ".lock"}

USAGE, MODEL_OR_DATA, RUN_DIRECTORY = 2, 4, 5


def has(library):
    """Returns whether this machine has a library itself."""
    command = [sys.executable, "-c", f"import ctypes; ctypes.CDLL('{library}')"]
    found = subprocess.run(command, env=os.environ | {"LD_LIBRARY_PATH": ""}, capture_output=True)
    return found.returncode == 0


# What cannot be missing here.
MACHINES = {name for name in ["libcuda.so.1", "libcublasLt.so.13", "libnccl.so.2"] if has(name)}


class Place:
    """A folder for the runs of one case."""

    def __init__(self, work, name):
        self.work, self.folder = work, work / "runs" / name
        self.folder.mkdir(parents=True)

    def aligner(self, libraries, *arguments, **fake):
        """Runs `aligner` with these libraries; `fake` are settings of the stand-ins."""
        environment = self.environment(libraries, fake)
        said = subprocess.run(
            [ALIGNER, *arguments], cwd=self.folder, env=environment, capture_output=True, text=True, timeout=300
        )
        return orderly(said)

    def environment(self, libraries, settings):
        """Returns what a process has in its environment."""
        others = ("ALIGNER", "FAKE", "RUST", "NCCL", "RANK", "LOCAL_", "WORLD_SIZE", "MASTER_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(others)}
        settings = {name.upper(): str(value) for name, value in settings.items()}
        # Without what the caller has, so that no real library is found there first.
        settings |= {"LD_LIBRARY_PATH": str(self.work / libraries), "NO_COLOR": "1"}
        return kept | settings | {"ALIGNER_CACHE": str(self.work / "cache")}

    def run(self, libraries, device, *more, out="run", **fake):
        return self.aligner(libraries, "--plugins", SET, "--out", out, "--device", device, "-q", *more, **fake)

    def whole(self):
        """Runs to the end on a card; returns the run's files, and what the stand-in for the driver counted."""
        count = self.folder / "count"
        expect(self.run("good", "cuda", out="whole", fake_cuda_count=count), 0)
        return self.files("whole"), json.loads(count.read_text())

    def files(self, out="run"):
        """Returns the files of a run but for what may differ between equal runs."""
        root, files = self.folder / out, {}
        for file in root.rglob("*"):
            if file.is_file() and file.name not in OWN:
                files[str(file.relative_to(root))] = file.read_bytes()
        page = files.get("report.html")
        if page is not None:
            files["report.html"] = re.sub(rb'<section id="times">.*?</section>', b"", page, flags=re.DOTALL)
        return files


def orderly(said):
    """Fails where a command did not end by itself."""
    assert "panicked" not in said.stderr and said.returncode not in [101, -6, -11], f"{said.args}\n{said.stderr}"
    return said


def expect(said, code, *sentences):
    """Fails unless a command ended with this code and said all of these."""
    assert said.returncode == code, f"{said.returncode} and not {code}:\n{said.stdout}{said.stderr}"
    for sentence in sentences:
        assert sentence in said.stderr, f"no `{sentence}` in:\n{said.stderr}"
    return said


def same(ours, theirs):
    """Fails unless two runs have the same files."""
    differing = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    assert not differing, f"these differ: {', '.join(differing)}"
