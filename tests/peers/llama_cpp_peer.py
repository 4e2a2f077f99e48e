"""llama.cpp through the C interface that llama-cpp-python carries: batches, sequences, caches.

Each token is put into a batch by hand, as llama.cpp's own tools do, so that nothing of Python's runs
between two passes but a short loop.
"""

import ctypes
import os

import llama_cpp as llama
import numpy as np

import worker

FILES = {"f32": "f32.gguf", "bf16": "bf16.gguf", "int8": "q8_0.gguf"}
# Tokens of a pass, as llama.cpp sets it by default.
PASS = 512


class Context:
    """A context with room for `sequences` sequences of `length` tokens each."""

    def __init__(self, order, sequences, length, shared=False):
        @llama.llama_log_callback
        def quiet(level, text, data):
            pass

        self.quiet = quiet
        llama.llama_log_set(quiet, None)
        llama.llama_backend_init()
        path = os.path.join(order["models"], FILES[order["weights"]])
        params = llama.llama_model_default_params()
        # With weights of 8 bits, its kernels for AMX end the process with a segmentation fault.
        params.use_extra_bufts = order["weights"] != "int8"
        self.model = llama.llama_model_load_from_file(path.encode(), params)
        if not self.model:
            raise RuntimeError(f"llama.cpp cannot load {path}")
        params = llama.llama_context_default_params()
        params.n_ctx = sequences * length
        params.n_seq_max = sequences
        params.n_batch = 1 << 16
        params.n_ubatch = PASS
        params.n_threads = params.n_threads_batch = order["threads"]
        params.kv_unified = shared
        params.no_perf = True
        self.context = llama.llama_init_from_model(self.model, params)
        if not self.context:
            raise RuntimeError("llama.cpp cannot make a context")
        self.memory = llama.llama_get_memory(self.context)
        vocabulary = llama.llama_model_get_vocab(self.model)
        self.words = llama.llama_vocab_n_tokens(vocabulary)

    def clear(self):
        llama.llama_memory_clear(self.memory, True)

    def batch(self, entries):
        """A batch of (token, position, sequence, whether logits are wanted)."""
        batch = llama.llama_batch_init(len(entries), 0, 1)
        for i, (token, position, sequence, wanted) in enumerate(entries):
            batch.token[i] = token
            batch.pos[i] = position
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = sequence
            batch.logits[i] = wanted
        batch.n_tokens = len(entries)
        return batch

    def decode(self, batch):
        code = llama.llama_decode(self.context, batch)
        if code != 0:
            raise RuntimeError(f"llama_decode says {code}")

    def wait(self):
        """Waits for the last pass."""
        llama.llama_synchronize(self.context)

    def logits(self, rows):
        pointer = llama.llama_get_logits(self.context)
        address = ctypes.addressof(pointer.contents)
        buffer = (ctypes.c_float * (rows * self.words)).from_address(address)
        return np.frombuffer(buffer, dtype=np.float32).reshape(rows, self.words)


def spread(prompts, positions=None):
    """Entries of whole prompts, one sequence each, the last token's logits wanted."""
    positions = positions or [0] * len(prompts)
    return [
        (token, positions[s] + i, s, i + 1 == len(prompt))
        for s, prompt in enumerate(prompts)
        for i, token in enumerate(prompt)
    ]


def decode(order):
    """Steps of one token for each sequence, from prompts that are in the cache already."""
    prompts, made = order["input"]["prompts"], order["input"]["made"]
    new = order["work"]["new"]
    context = Context(order, len(prompts), max(map(len, prompts)) + new)
    start = context.batch(spread(prompts))
    steps = [
        context.batch([(made[s][i], len(p) + i, s, True) for s, p in enumerate(prompts)])
        for i in range(new - 1)
    ]

    def run(watch):
        context.clear()
        context.decode(start)
        context.wait()
        watch.start()
        for step in steps:
            context.decode(step)
            context.wait()
        watch.stop()
        return {"tokens": len(steps) * len(prompts)}

    return run


def prefill(order):
    """Whole prompts, the logits of their last tokens."""
    prompts = order["input"]["prompts"]
    context = Context(order, len(prompts), max(map(len, prompts)))
    batch = context.batch(spread(prompts))

    def run(watch):
        context.clear()
        watch.start()
        context.decode(batch)
        context.wait()
        watch.stop()
        return {"tokens": sum(map(len, prompts))}

    return run


def score(order):
    """Logprobs of completions. The logits are asked for a few rows at a time; turning them into
    logprobs is done by numpy and is not measured, since it is none of llama.cpp's work."""
    rows = order["input"]["rows"]
    at_once = max(1, 4096 // max(len(row["tokens"]) for row in rows))
    chunks = [rows[i : i + at_once] for i in range(0, len(rows), at_once)]
    context = Context(order, at_once, max(len(row["tokens"]) for row in rows))
    batches = []
    for chunk in chunks:
        entries = [
            (token, i, s, i + 1 >= row["from"])
            for s, row in enumerate(chunk)
            for i, token in enumerate(row["tokens"][:-1])
        ]
        targets = [token for row in chunk for token in row["tokens"][row["from"] :]]
        batches.append((context.batch(entries), targets))

    def run(watch):
        wall = cpu = total = 0.0
        for batch, targets in batches:
            context.clear()
            watch.start()
            context.decode(batch)
            context.wait()
            watch.stop()
            wall, cpu = wall + watch.wall, cpu + watch.cpu
            logits = context.logits(len(targets))
            for row, target in zip(logits, targets):
                top = float(row.max())
                total += float(row[target]) - top - float(np.log(np.exp(row - top).sum()))
        watch.wall, watch.cpu = wall, cpu
        return {"tokens": sum(len(row["tokens"]) for row in rows), "check": total}

    return run


def stage(order):
    """Completions of prompts whose first tokens are common: these go through the model once, and
    every sequence refers to them."""
    prompts, made = order["input"]["prompts"], order["input"]["made"]
    common, new = order["input"]["common"], order["work"]["new"]
    longest = max(map(len, prompts)) + new
    context = Context(order, len(prompts), longest, shared=order["shared"])
    own = [prompt[common:] for prompt in prompts]
    prefix = context.batch(spread([prompts[0][:common]]))
    suffixes = context.batch(spread(own, [common] * len(own)))
    steps = [
        context.batch([(made[s][i], len(p) + i, s, True) for s, p in enumerate(prompts)])
        for i in range(new - 1)
    ]

    def run(watch):
        context.clear()
        watch.start()
        context.decode(prefix)
        for sequence in range(1, len(prompts)):
            llama.llama_memory_seq_cp(context.memory, 0, sequence, -1, -1)
        context.decode(suffixes)
        for step in steps:
            context.decode(step)
            context.wait()
        watch.stop()
        return {"tokens": new * len(prompts)}

    return run


def load(order):
    # The cells of a shared prefix belong to all sequences, or each has a copy. Copies are faster
    # here: with shared cells every row is compared with the cells of all sequences.
    order.setdefault("shared", False)
    kind = {"decode": decode, "prefill": prefill, "score": score, "stage": stage}
    about = {"llama.cpp": f"llama-cpp-python {llama.__version__}"}
    return kind[order["work"]["kind"]](order), about


if __name__ == "__main__":
    worker.serve(load)
