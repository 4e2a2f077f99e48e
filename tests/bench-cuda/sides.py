"""The two programs of a row, which load, warm up and work when they are told to."""

import json
import os
import select
import subprocess
import sys
import tempfile
import time


# So that CUDA and the driver's program number cards alike.
os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")


class Failed(Exception):
    """A side did not do its work, and why."""

    def __init__(self, message, missing=False):
        super().__init__(message)
        self.missing = missing


class Side:
    """A process that answers each line with a line of JSON."""

    def __init__(self, command, patience):
        self.command, self.patience, self.rest = command, patience, b""
        self.errors = tempfile.TemporaryFile()
        try:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors)
        except OSError as error:
            raise Failed(f"`{command[0]}` does not start: {error.strerror}", missing=True) from None

    def ask(self, order):
        try:
            self.process.stdin.write(f"{order}\n".encode())
            self.process.stdin.flush()
        except OSError:
            pass  # It is gone; what it said before shows below.
        return self.hear()

    def hear(self):
        """Waits for the next answer, past what libraries print."""
        end = time.monotonic() + self.patience
        while True:
            line, found, rest = self.rest.partition(b"\n")
            if found:
                self.rest = rest
                if line.startswith(b"{"):
                    return self.checked(json.loads(line))
                continue
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                raise Failed(f"no answer within {self.patience:g} s")
            more = os.read(self.process.stdout.fileno(), 1 << 16)
            if not more:
                raise Failed(self.last_words())
            self.rest += more

    @staticmethod
    def checked(answer):
        if "failed" in answer:
            raise Failed(answer["failed"], answer.get("missing", False))
        return answer

    def last_words(self):
        code = self.process.wait()
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").strip().splitlines()
        how = f"ended with code {code}" if code >= 0 else f"was killed by signal {-code}"
        return f"{how}: {lines[-1][:300] if lines else 'without a word'}"

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        self.errors.close()


# Turns that there are in any case, and seconds after which there are no more.
FEWEST, ENOUGH = 3, 45


def measure(commands, repeat, patience, one_by_one=False):
    """Does a row with each side, in `repeat` turns, or fewer where these take long.

    `commands`: a command for each side, by name. Both load at the same time, unless `one_by_one`, where it is seen
    what each takes of the card. Returns for each side what it said, its `runs` in order, or why it `failed`.
    """
    sides, said = {}, {name: dict(runs=[]) for name in commands}

    def attempt(name, work):
        if "failed" in said[name]:
            return
        try:
            work()
        except Failed as error:
            said[name].update(failed=str(error), missing=error.missing)
            if name in sides:
                sides.pop(name).stop()

    def start(name):
        sides[name] = Side(commands[name], patience)

    def warm(name):
        if name not in sides:
            start(name)
        said[name]["about"] = sides[name].hear()["loaded"]
        said[name].update(sides[name].ask("warm"))

    try:
        for name in commands:
            if not one_by_one:
                attempt(name, lambda: start(name))
        for name in commands:
            before = card("memory.used")
            attempt(name, lambda: warm(name))
            after, held = card("memory.used"), said[name].get("held")
            if one_by_one and before and after and held:
                said[name]["context"] = (float(after) - float(before)) * 2**20 - held
        begun = time.monotonic()
        for turn in range(repeat):
            if turn >= FEWEST and time.monotonic() - begun > ENOUGH:
                break
            for name in list(commands)[:: -1 if turn % 2 else 1]:
                attempt(name, lambda: said[name]["runs"].append(sides[name].ask("run")))
        for name in commands:
            attempt(name, lambda: said[name].update(sides[name].ask("done")))
    finally:
        for side in sides.values():
            side.stop()
    return said


def card(what):
    """Asks the driver about the card that both sides get; none where there is no such program."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0] or "0"
    command = ["nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader,nounits", "-i", first]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return said.stdout.strip() if said.returncode == 0 else None


def tell(text):
    print(text, file=sys.stderr, flush=True)
