"""Takes shards through a stage on a Ray cluster of two nodes on this machine, with examples/cluster/ray_filter.py.

In the middle of it an `aligner` is killed, then a worker of Ray, then a whole node is taken away.

    cluster.py ALIGNER SHARDS OUT ARGUMENTS…
"""

import pathlib
import subprocess
import sys
import time

import psutil
from ray.cluster_utils import Cluster

ROOT = pathlib.Path(__file__).parents[2]


def below(process: psutil.Process, name: str) -> list[psutil.Process]:
    """Returns what runs below a process under a name, of those that it started."""
    found = []
    for child in process.children(recursive=True):
        try:
            if child.name().startswith(name):
                found.append(child)
        except psutil.NoSuchProcess:
            pass
    return found


def at_work(out: pathlib.Path) -> int:
    """Returns how many shards are under way."""
    return len(list(out.glob("*.work")))


def kill(out: pathlib.Path, name: str, deadline: float) -> None:
    """Kills the first process of a name that is in the middle of a shard."""
    while time.monotonic() < deadline:
        for process in below(psutil.Process(), "aligner"):
            try:
                shard = process.cmdline()[process.cmdline().index("--out") + 1]
                work = pathlib.Path(f"{shard}.work")
                if not (work / "work.json").exists():
                    continue
                victim = process if name == "aligner" else process.parent()
                victim.kill()
                print(f"killed {name} {victim.pid} at {pathlib.Path(shard).name}, {at_work(out)} under way", flush=True)
                return
            except (psutil.NoSuchProcess, ValueError, IndexError):
                continue
        time.sleep(0.002)
    sys.exit(f"no {name} was seen at work")


def main() -> None:
    aligner, shards, out, *arguments = sys.argv[1:]
    results = pathlib.Path(out)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    command = [sys.executable, str(ROOT / "examples/cluster/ray_filter.py"), "--address", cluster.address]
    command += ["--aligner", aligner, "--shards", shards, "--out", out, "--", *arguments]
    driver = subprocess.Popen(command)
    deadline = time.monotonic() + 300
    total = len(list(pathlib.Path(shards).glob("*.jsonl")))

    def wait(share: float) -> None:
        while len(list(results.glob("*.done.json"))) < share * total and time.monotonic() < deadline:
            if driver.poll() is not None:
                sys.exit(f"it ended with {driver.returncode} before it could be disturbed")
            time.sleep(0.01)

    wait(0.1)
    kill(results, "aligner", deadline)
    wait(0.3)
    kill(results, "worker", deadline)
    wait(0.6)
    cluster.remove_node(second, allow_graceful=False)
    print(f"took a node away after {len(list(results.glob('*.done.json')))} of {total} shards", flush=True)
    code = driver.wait(timeout=600)
    cluster.shutdown()
    sys.exit(code)


if __name__ == "__main__":
    main()
