"""One side of one row of `make bench`: loads once, then works whenever it is told to.

The bench starts `python PEER.py ORDER`, where ORDER is a JSON object (`Order` in tests/bench/row.rs).
The worker answers on its stdout, one JSON object a line: first `{"ready": …}`, then for each line
`run` on its stdin what that run came to. Whatever libraries print goes to stderr.
"""

import json
import os
import resource
import sys
import time


class Stopwatch:
    """Measures the part of a run between `start` and `stop`; without them, all of it."""

    def __init__(self):
        self.wall = self.cpu = None
        self.start()

    def start(self):
        self.began = time.perf_counter(), cpu_seconds()

    def stop(self):
        self.wall = time.perf_counter() - self.began[0]
        self.cpu = cpu_seconds() - self.began[1]


def cpu_seconds():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def peak_bytes():
    """The most memory that this process ever held."""
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def serve(load):
    """Serves `load(order)`, which returns a function that takes a stopwatch and returns a dict
    with at least `tokens`, and the versions of what it uses."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(answer):
        print(json.dumps(answer), file=answers, flush=True)

    try:
        order = json.loads(sys.argv[1])
        with open(order["input"]) as file:
            order["input"] = json.load(file)
        run, about = load(order)
        say({"ready": about})
        for line in sys.stdin:
            if line.strip() != "run":
                break
            watch = Stopwatch()
            result = run(watch)
            if watch.wall is None:
                watch.stop()
            measured = {"wall_seconds": watch.wall, "cpu_seconds": watch.cpu}
            say(measured | {"peak_bytes": peak_bytes()} | result)
    except Exception as error:
        say({"error": f"{type(error).__name__}: {error}".splitlines()[0]})
        raise
