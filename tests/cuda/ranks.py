"""Several processes that train together, each with a card of its own, with NCCL between these cards and without."""

import json
import re
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from place import ALIGNER, MACHINES, MODEL_OR_DATA, SET, Place, expect, orderly, same

# A run whose training several ranks share: steps with several micro-batches, and enough steps to be disturbed in.
EPOCHS = 5
SHARED = ["--plugins", SET, "--device", "cuda", "-q", "--set", "train.micro_batch_tokens=40"]
SHARED += ["--set", "train.per_device_train_batch_size=8", "--set", f"train.num_train_epochs={EPOCHS}"]

# What rank 0 says where there is no other way.
BY_HOST = "ranks pass gradients through the host's memory: "

# What keeps ranks from passing gradients by NCCL at once: libraries, settings of the stand-ins, those of rank 1 alone,
# and what is said.
UNLINKED = {
    "no NCCL": ("good", {}, {}, ["libnccl.so.2"]),
    "an NCCL that lacks a function": ("nccl-lacks", {}, {}, ["libnccl.so.2", "lacks the function `ncclRecv`"]),
    "an old NCCL": ("nccl", {"fake_nccl_version": 21304}, {}, ["2.13.4"]),
    "an NCCL that refuses rank 0": ("nccl", {"fake_nccl_refuse": 0}, {}, []),
    "an NCCL that refuses rank 1": ("nccl", {"fake_nccl_refuse": 1}, {}, []),
    "a card for two ranks": ("nccl", {}, {"local_rank": 0}, []),
}


class Ranks:
    """The processes of one run, which have ended when a `with` has.

    `fake` are settings of all of them, `own` further ones of some.
    """

    def __init__(self, place, libraries, size, *arguments, own={}, **fake):
        # What they leave in it is theirs alone.
        self.folder = Path(tempfile.mkdtemp(dir=place.folder))
        fake = {"fake_cuda_devices": 3, "world_size": size, "tmpdir": self.folder} | fake
        self.processes = []
        for rank in range(size):
            settings = place.environment(libraries, fake | {"rank": rank} | own.get(rank, {}))
            with open(self.folder / f"stdout-{rank}", "w") as out, open(self.folder / f"stderr-{rank}", "w") as err:
                command = [ALIGNER, *arguments]
                process = subprocess.Popen(command, cwd=place.folder, env=settings, stdout=out, stderr=err)
            self.processes.append(process)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.wait()

    def stderr(self, rank):
        return (self.folder / f"stderr-{rank}").read_text()

    def ended(self, seconds=120):
        """Waits for all, and returns what they said, rank 0 first."""
        end, said = time.monotonic() + seconds, []
        for rank, process in enumerate(self.processes):
            try:
                process.wait(max(end - time.monotonic(), 0))
            except subprocess.TimeoutExpired:
                raise AssertionError(f"rank {rank} has not ended after {seconds} s:\n{self.stderr(rank)}") from None
            out = (self.folder / f"stdout-{rank}").read_text()
            said.append(orderly(subprocess.CompletedProcess(process.args, process.returncode, out, self.stderr(rank))))
        return said


class Shared:
    """What one process leaves of the run that ranks share."""

    def __init__(self, work):
        self.work, place = work, Place(work, "ranks")
        expect(place.aligner("good", *SHARED, "--out", "run", fake_cuda_devices=3), 0)
        self.files = place.files()
        rounds = [name.split("/")[1] for name in self.files if re.fullmatch(r"rounds/\d+/metrics.jsonl", name)]
        # Bytes of the adapter's numbers in each step of the run.
        self.steps = []
        for number in rounds:
            metrics = self.files[f"rounds/{number}/metrics.jsonl"]
            weights = self.files[f"rounds/{number}/adapter/adapter_model.safetensors"]
            self.steps += [len(weights) - 8 - int.from_bytes(weights[:8], "little")] * len(metrics.splitlines())
        assert len(self.steps) == 2 * EPOCHS, self.steps

    def ends(self, place, ranks):
        """All ranks end well, with what one process leaves; returns what rank 0 has said."""
        said = ranks.ended()
        for of_rank in said:
            expect(of_rank, 0)
        same(place.files(), self.files)
        return said[0].stderr

    def goes_on(self, place):
        """What has stopped goes on with one process, or begins where nothing was written."""
        begun = (place.folder / "run").exists()
        arguments = ["resume", "run", "--device", "cuda", "-q"] if begun else [*SHARED, "--out", "run"]
        expect(place.aligner("good", *arguments, fake_cuda_devices=3), 0)
        same(place.files(), self.files)


def ranks(work):
    """Ranks train what one process does, with and without NCCL, and whatever ends on the way."""
    shared = Shared(work)
    counted = linked(shared)
    unlinked(shared)
    stuck(shared)
    killed(shared, counted)
    without_memory(shared)


def linked(shared):
    """Gradients and values go by NCCL; returns what the stand-ins counted for each of three ranks."""
    for size in [2, 3]:
        place = Place(shared.work, f"ranks-{size}")
        with Ranks(place, "nccl", size, *SHARED, "--out", "run", fake_nccl_count=place.folder / "nccl") as ranks:
            said = shared.ends(place, ranks)
        assert BY_HOST not in said, said
        counted = counts(place, size)
        assert counted[0]["bytes"] == sum(of_rank["bytes"] for of_rank in counted[1:]), counted
        print(f"ok  {size} ranks: one process's bytes, {counted[0]['bytes']} of them by NCCL")
    # In an epoch less each rank gets the adapter, and gives its gradients, less often.
    place = Place(shared.work, "ranks-fewer")
    fewer = ["--set", f"train.num_train_epochs={EPOCHS - 1}"]
    with Ranks(place, "nccl", size, *SHARED, *fewer, "--out", "run", fake_nccl_count=place.folder / "nccl") as ranks:
        for of_rank in ranks.ended():
            expect(of_rank, 0)
    for more, less in list(zip(counted, counts(place, size)))[1:]:
        assert more["transfers"] - less["transfers"] >= 2 * len(shared.steps) // EPOCHS, (more, less)
        assert more["bytes"] - less["bytes"] >= 2 * sum(shared.steps) // EPOCHS, (more, less)
    return counted


def counts(place, size):
    """Returns what the stand-in for NCCL counted for each rank."""
    return [json.loads((place.folder / f"nccl-{rank}").read_text()) for rank in range(size)]


def unlinked(shared):
    """Without NCCL, for whatever reason, gradients go through the host's memory, which is said once."""
    for number, (name, (folder, fake, own, sentences)) in enumerate(UNLINKED.items()):
        if folder == "good" and "libnccl.so.2" in MACHINES:
            print(f"skipped, as this machine has a libnccl.so.2: {name}")
            continue
        place = Place(shared.work, f"unlinked-{number}")
        with Ranks(place, folder, 2, *SHARED, "--out", "run", own={1: own}, **fake) as ranks:
            through_host(shared.ends(place, ranks), *sentences)
        print(f"ok  {name}: one process's bytes, through the host's memory")


def through_host(said, *sentences):
    """Fails unless rank 0 says in one line why it is the host's memory."""
    lines = [line for line in said.splitlines() if BY_HOST in line]
    assert len(lines) == 1 and all(sentence in lines[0] for sentence in sentences), f"{sentences} in:\n{said}"


def stuck(shared):
    """An NCCL that never begins, or never passes the first numbers, is not waited for beyond a minute."""
    states = {"begins": {"fake_nccl_stall": 1}, "passes anything": {"fake_nccl_stop": 1}}
    with ExitStack() as stack:
        begun = {}
        # At once, as each takes its minute.
        for number, (state, own) in enumerate(states.items()):
            place = Place(shared.work, f"stuck-{number}")
            ranks = Ranks(place, "nccl", 2, *SHARED, "--out", "run", own={1: own})
            begun[state] = place, stack.enter_context(ranks)
        for state, (place, ranks) in begun.items():
            through_host(shared.ends(place, ranks))
            print(f"ok  an NCCL that never {state}: one process's bytes, through the host's memory")


def killed(shared, counted):
    """A rank that dies in the middle of a transfer ends the run within seconds, and the run goes on."""
    for victim in [1, 2, 0]:
        place = Place(shared.work, f"killed-{victim}")
        own = {victim: {"fake_nccl_stop": counted[victim]["transfers"] // 2}}
        with Ranks(place, "nccl", 3, *SHARED, "--out", "run", own=own) as ranks:
            since = time.monotonic()
            while "is never over" not in ranks.stderr(victim):
                assert ranks.processes[victim].poll() is None, ranks.stderr(victim)
                assert time.monotonic() - since < 60, "no transfer was stopped"
                time.sleep(0.02)
            # Long enough for the others to wait for what does not come.
            time.sleep(0.5)
            ranks.processes[victim].kill()
            said = ranks.ended(10)
        for rank, of_rank in enumerate(said):
            if rank == victim:
                continue
            if rank == 0:
                expect(of_rank, MODEL_OR_DATA, f"error: rank {victim} ", "hint: `aligner resume`")
            else:
                expect(of_rank, 0, *([f"rank {rank}: rank 0 has ended"] if victim == 0 else []))
        assert not (place.folder / "run/report.json").exists(), "the run has ended"
        shared.goes_on(place)
        print(f"ok  rank {victim} dies in a transfer: the others end within seconds, and the run goes on")


def without_memory(shared):
    """Memory that ends on one rank's card has training go on with less, or ends the run, which goes on later."""
    place = Place(shared.work, "short")
    count = {rank: {"fake_cuda_count": place.folder / f"count-{rank}"} for rank in [0, 1]}
    with Ranks(place, "nccl", 2, *SHARED, "--out", "run", own=count) as ranks:
        shared.ends(place, ranks)
    stopped, went_on = 0, {0: 0, 1: 0}
    for rank in [0, 1]:
        allocations = json.loads(count[rank]["fake_cuda_count"].read_text())["allocations"]
        # Where the model is loaded, and on the way; rank 0 has more of it, and others that wait for it.
        for number in [5, *range(allocations // 3, allocations, allocations // (9 if rank == 0 else 3))]:
            for how in ["", "-"]:
                place = Place(shared.work, f"short-{rank}-{number}{how}")
                own = {rank: {"fake_cuda_fail": f"{number}{how}"}}
                with Ranks(place, "nccl", 2, *SHARED, "--out", "run", own=own) as ranks:
                    said = ranks.ended(60)
                if said[0].returncode == 0:
                    went_on[rank] += 1
                    expect(said[1], 0)
                    same(place.files(), shared.files)
                else:
                    stopped += 1
                    expect(said[0], MODEL_OR_DATA, f"cuda:{rank} has no room for", "hint: ")
                    shared.goes_on(place)
    assert stopped >= 8 and min(went_on.values()) >= 1, (stopped, went_on)
    print(f"ok  memory that ends on one rank's card: {sum(went_on.values())} runs went on, {stopped} stopped and went on later")
