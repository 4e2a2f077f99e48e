"""What a row's times come to: ratios, shares of what the card can do, goals."""

import json
import pathlib
import statistics

PLAN = json.loads(pathlib.Path(__file__).with_name("work.json").read_text())
OURS, PEER = "aligner", "PyTorch"

# Row, then the shapes that a goal is for, and the goal.
EVERY, LARGE = {"135m", "1.5b", "7b"}, {"1.5b", "7b"}
FASTER = {"lora": (LARGE, 1.2), "full": ({"1.5b"}, 1.1), "dpo": (EVERY, 1.5), "decode-256": (LARGE, 3.0),
          "prefix": (EVERY, 10.0)}
OF_LIMIT = {"lora": (LARGE, 0.5), "decode-1": (LARGE, 0.6)}
MEMORY = {"lora": (EVERY, 0.6)}


def goal(goals, shape, row):
    shapes, number = goals.get(row, ((), None))
    return number if shape in shapes else None


def sizes(shape):
    return PLAN["sizes"][PLAN["shapes"][shape]["sizes"]]


def tokens(shape, row):
    """Returns how many tokens a run of a row makes or learns from."""
    s = sizes(shape)
    if row.startswith("decode-"):
        return int(row.removeprefix("decode-")) * (s["many"] - s["few"])
    return s["prompts"] * s["new"] if row == "prefix" else s["sequences"] * s["length"]


def linears(shape):
    """Returns inputs and outputs of each product of a block."""
    s = PLAN["shapes"][shape]
    q, kv = s["heads"] * s["head_dim"], s["kv_heads"] * s["head_dim"]
    hidden, inner = s["hidden"], s["intermediate"]
    return [(hidden, q), (hidden, kv), (hidden, kv), (q, hidden), (hidden, inner), (hidden, inner), (inner, hidden)]


def operations(shape, row):
    """Returns how many multiplications and additions a training step needs: what is computed again is left out, and so is
    the prompt of a pair where it goes through the model a second time."""
    s, size = PLAN["shapes"][shape], sizes(shape)
    count, length, layers = size["sequences"], size["length"], s["layers"]
    weights = layers * sum(a * b for a, b in linears(shape))
    pairs = layers * sum(PLAN["lora"]["r"] * (a + b) for a, b in linears(shape))
    head = s["hidden"] * s["vocab"]
    rows = read = count * length
    # Positions that each row sees, its own counted half, added up.
    seen = count * length**2 / 2
    if row == "dpo":
        prompt = length // 2
        read = count * (length - prompt)
        rows -= count // 2 * prompt
        seen -= count // 2 * prompt**2 / 2
    # Two products of queries, keys and values; going back twice as many.
    attention = layers * 4 * seen * s["heads"] * s["head_dim"]
    forward = 2 * (rows * weights + read * head) + attention
    # What is frozen has a gradient for its input alone.
    back = 2 if row == "full" else 1
    step = forward + back * 2 * (rows * weights + read * head) + 2 * attention
    if row != "full":
        step += 6 * rows * pairs
    return step + (forward if row == "dpo" else 0)


def bytes_for_a_token(shape):
    """Returns what the next token of one sequence needs read: weights, and keys and values so far, all in bf16."""
    s, size = PLAN["shapes"][shape], sizes(shape)
    weights = s["layers"] * sum(a * b for a, b in linears(shape)) + s["hidden"] * s["vocab"]
    positions = size["prompt"] + (size["few"] + size["many"]) / 2
    return 2 * (weights + positions * s["layers"] * 2 * s["kv_heads"] * s["head_dim"])


def share(shape, row, seconds, limits):
    """Returns which limit a row has and how near it came; none where neither is the measure."""
    if row in ("lora", "full", "dpo"):
        return "matmul", operations(shape, row) / seconds / limits["matmul"]
    if row == "decode-1":
        return "bandwidth", bytes_for_a_token(shape) * tokens(shape, row) / seconds / limits["copy"]
    return None, None


def median(said):
    """Returns the median of a side's runs in seconds; none where it failed or is missing."""
    if said is None or "failed" in said:
        return None
    return statistics.median(run["seconds"] for run in said["runs"])


def spread(said):
    times = [run["seconds"] for run in said["runs"]]
    return (max(times) - min(times)) / statistics.median(times)


class Verdicts:
    """Which goals are reached, missed or open."""

    def __init__(self):
        self.reached, self.missed, self.open = [], [], []

    def judge(self, name, value, wanted, most=False, unit="×", scale=1):
        """Returns a goal's words; nothing where there is none."""
        if wanted is None:
            return ""
        sign = "≤" if most else "≥"
        words = f"{sign} {wanted * scale:g}{unit}"
        if value is None:
            self.open.append(name)
            return f" ({words}: not measured)"
        good = value <= wanted if most else value >= wanted
        (self.reached if good else self.missed).append(name)
        return f" ({words}: {'reached' if good else 'missed'})"


def line(shape, row, said, limits, verdicts):
    """Returns the cells of a row."""
    sides = [said.get(OURS), said.get(PEER)]
    times = [median(side) for side in sides]
    ours, peer = times
    name = f"{shape} {row}"

    def rate(side, seconds):
        if seconds is None:
            return "-" if side is None else "failed"
        return f"{tokens(shape, row) / seconds:.0f} ±{50 * spread(side):.0f} %"

    ratio = peer / ours if ours and peer else None
    cells = [shape, row, *map(rate, sides, times)]
    faster = verdicts.judge(f"{name} ratio", ratio, goal(FASTER, shape, row))
    cells.append((f"{ratio:.2f}×" if ratio else "-") + faster)

    limit, near = None, [None, None]
    if limits:
        pairs = [share(shape, row, seconds, limits) if seconds else (None, None) for seconds in times]
        limit, near = next((which for which, _ in pairs if which), None), [value for _, value in pairs]
    of_limit = verdicts.judge(f"{name} limit", near[0], goal(OF_LIMIT, shape, row), unit=" %", scale=100)
    percent = " / ".join("-" if value is None else f"{100 * value:.0f} %" for value in near)
    cells.append((f"{limit} {percent}" if limit else "-") + of_limit)

    held = [side and "failed" not in side and side.get("held") or None for side in sides]
    less = held[0] / held[1] if all(held) else None
    memory = verdicts.judge(f"{name} memory", less, goal(MEMORY, shape, row), most=True)
    gigabytes = " / ".join("-" if value is None else f"{value / 1e9:.2f}" for value in held)
    cells.append((f"{gigabytes}, {less:.2f}×" if less else gigabytes if any(held) else "-") + memory)
    return cells


HEADS = ["shape", "row", "aligner, tokens/s", "PyTorch, tokens/s", "ratio (goal)",
         "of the limit, aligner / PyTorch (goal)", "memory in GB, aligner / PyTorch (goal)"]


def markdown(rows):
    widths = [max(len(row[i]) for row in [HEADS, *rows]) for i in range(len(HEADS))]
    laid = lambda row: "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |"
    return "\n".join([laid(HEADS), "|" + "|".join("-" * (width + 2) for width in widths) + "|", *map(laid, rows)])
