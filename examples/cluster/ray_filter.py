"""Runs a stage of a plugin set over shards on a Ray cluster: one `aligner stage` a shard.

    split --lines 2000 --numeric-suffixes --suffix-length 4 --additional-suffix .jsonl rows.jsonl shards/part-
    python ray_filter.py --aligner ./aligner --shards shards --out out -- filter --plugins clean.toml
    cat out/part-*.jsonl > filtered.jsonl

What follows `--` is what `aligner stage` is called with. Shards and results lie where all nodes see them. A
task that is lost is done again: what was finished of it is not, so nothing is lost, and nothing counted twice.
"""

import argparse
import collections
import json
import os
import pathlib
import subprocess
import sys
import time

import ray

# Of `aligner`: what is wrong with the command line, a plugin or the data does not get better on another node.
HOPELESS = (2, 3, 4)
# Of its run directories, and of results: one that another process still works at, among others.
DIRECTORY = 5


class Failed(Exception):
    """A worker that may end well when it is started again."""


def stage(aligner: str, arguments: list[str], shard: str, result: str, cpus: int) -> str | None:
    """Takes one shard through the stage; returns why that is hopeless, if it is."""
    command = [aligner, "stage", *arguments, "--in", shard, "--out", result, "--quiet"]
    environment = os.environ | {"RAYON_NUM_THREADS": str(cpus)}
    while True:
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        # A worker of Ray that was killed may have left its `aligner` behind, which finishes the shard.
        if done.returncode == DIRECTORY and "is in use by another" in done.stderr:
            time.sleep(1)
            continue
        if done.returncode == 0:
            return None
        why = f"{shard}: exit code {done.returncode}\n{done.stderr}"
        if done.returncode in HOPELESS:
            return why
        raise Failed(why)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--aligner", default="aligner", help="the program, where all nodes see it")
    parser.add_argument("--shards", type=pathlib.Path, required=True, help="folder of *.jsonl")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder of results")
    parser.add_argument("--address", help="of the cluster; a job that was submitted knows it")
    parser.add_argument("--cpus", type=int, default=1, help="of each worker")
    parser.add_argument("--gpus", type=float, default=0, help="of each worker")
    parser.add_argument("--retries", type=int, default=5, help="of each shard")
    parser.add_argument("arguments", nargs="+", help="-- filter --plugins SET …")
    args = parser.parse_args()

    shards = sorted(args.shards.resolve().glob("*.jsonl"))
    if not shards:
        parser.error(f"no *.jsonl in {args.shards}")
    args.out.mkdir(parents=True, exist_ok=True)
    results = [args.out.resolve() / shard.name for shard in shards]

    ray.init(address=args.address)
    task = ray.remote(num_cpus=args.cpus, num_gpus=args.gpus, max_retries=args.retries, retry_exceptions=[Failed])(stage)
    waiting = [
        task.remote(args.aligner, args.arguments, str(shard), str(result), args.cpus)
        for shard, result in zip(shards, results)
    ]
    hopeless = []
    while waiting:
        ready, waiting = ray.wait(waiting)
        hopeless += filter(None, ray.get(ready))
        print(f"{len(shards) - len(waiting)} of {len(shards)} shards", file=sys.stderr)
        if hopeless:
            print(hopeless[0], file=sys.stderr)
            return 1

    # Of the summaries, which stand beside the results.
    counts: collections.Counter[str] = collections.Counter()
    for result in results:
        done = json.loads(pathlib.Path(f"{result}.done.json").read_text())
        counts.update({"rows": done["rows"], "kept": done["kept"]})
        counts.update({f"dropped: {reason}": count for reason, count in done["dropped"].items()})
    for what, count in counts.items():
        print(f"{what}\t{count}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
