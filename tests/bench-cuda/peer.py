"""The peer's side of `make bench-cuda`: one row of work with PyTorch and transformers, on a model of random weights.

    python3 peer.py SHAPE ROW [--device cpu]      SHAPE: see `work.json`
                                                  ROW: limits, decode-N, prefix, lora, full, dpo

Each line read is an order (`warm`, `run`, `done`), each line written answers it, as JSON; the first one says that all
is loaded. What fails ends it with `{"failed": "why"}`. The sizes are those of our side, weights are bf16.

LoRA is written here in the style of PEFT: the frozen product in bf16, and beside it two small ones, of f32 masters that
are rounded to bf16 for the product, as PEFT does under autocast. Every row is tried in each way that makes sense, eager
and compiled, and goes on in the fastest.
"""

import json
import math
import pathlib
import sys
import time

PLAN = json.loads(pathlib.Path(__file__).with_name("work.json").read_text())
LINEAR = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def answer(**line):
    print(json.dumps(line), flush=True)


class Side:
    """A row's device, model and sizes."""

    def __init__(self, shape, row, device):
        self.row, self.device = row, device
        self.shape = PLAN["shapes"][shape]
        self.sizes = PLAN["sizes"][self.shape["sizes"]]
        self.on_card = device == "cuda"
        self.how = ""

    def wait(self):
        if self.on_card:
            torch.cuda.synchronize()

    def seconds(self, work):
        self.wait()
        begun = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - begun

    def held(self):
        return torch.cuda.max_memory_reserved() if self.on_card else None

    def forget_peak(self):
        if self.on_card:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def model(self):
        import transformers
        s = self.shape
        config = transformers.LlamaConfig(
            num_hidden_layers=s["layers"], hidden_size=s["hidden"], num_attention_heads=s["heads"],
            num_key_value_heads=s["kv_heads"], head_dim=s["head_dim"], intermediate_size=s["intermediate"],
            vocab_size=s["vocab"], tie_word_embeddings=s["tied"], max_position_embeddings=PLAN["context_length"],
            bos_token_id=None, eos_token_id=None, attn_implementation="sdpa")
        with torch.device(self.device):
            torch.set_default_dtype(torch.bfloat16)
            made = transformers.LlamaForCausalLM(config)
            torch.set_default_dtype(torch.float32)
        return made

    def tokens(self, rows, length):
        return torch.randint(0, self.shape["vocab"], (rows, length), device=self.device)

    def fastest(self, ways, spent):
        """Tries each way, a name and what brings it about; keeps the one in which `spent()` is least, and says so."""
        times, said = {}, []
        for name, begin in ways.items():
            try:
                begin()
                spent()
                times[name] = min(spent() for _ in range(2))
                said.append(f"{name} {times[name]:.3g} s")
            except Exception as error:  # A way that fails is not taken, whatever it fails of.
                said.append(f"{name} failed ({short(error)})")
        if not times:
            raise RuntimeError("; ".join(said))
        best = min(times, key=times.get)
        ways[best]()
        spent(), spent()
        self.how = f"{best} (tried: {', '.join(said)})"


def short(error):
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160] if lines else ''}"


def limits(side):
    n, copied = side.sizes["matmul"], side.sizes["copied"]
    a, b = (torch.randn(n, n, device=side.device, dtype=torch.bfloat16) for _ in range(2))
    c = torch.empty_like(a)
    x = torch.randn(copied, device=side.device)
    y = torch.empty_like(x)
    times = 10

    def run():
        product = side.seconds(lambda: [torch.matmul(a, b, out=c) for _ in range(times)])
        copy = side.seconds(lambda: [y.copy_(x) for _ in range(times)])
        return dict(matmul=times * 2 * n**3 / product, copy=times * 8 * copied / copy)

    side.how = "torch.matmul in bf16, and Tensor.copy_ of f32"
    return run, run


def generation(side):
    """Returns a function that completes prompts, and the ways in which it may."""
    import transformers
    made = side.model().eval()
    state = {}

    def static(prompt, length, **more):
        # One cache for all calls of a shape, so that nothing is captured twice.
        key = (len(prompt), length)
        if key not in state:
            state[key] = transformers.StaticCache(config=made.config, max_cache_len=length)
        state[key].reset()
        return dict(past_key_values=state[key], **more)

    def dynamic(prompt, length):
        return dict(past_key_values=transformers.DynamicCache(config=made.config), disable_compile=True)

    def compiled(prompt, length):
        config = transformers.CompileConfig(mode="reduce-overhead" if side.on_card else "default")
        config._compile_all_devices = True
        return static(prompt, length, compile_config=config)

    def eager(prompt, length):
        return static(prompt, length, disable_compile=True)

    ways = {"static cache, compiled": compiled, "static cache, eager": eager, "dynamic cache, eager": dynamic}

    def choose(way):
        def begin():
            state["way"] = way
            side.forget_peak()
        return begin

    @torch.no_grad()
    def complete(prompt, new, length):
        with_cache = state["way"](prompt, length)
        return side.seconds(lambda: made.generate(
            prompt, attention_mask=torch.ones_like(prompt), do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
            max_new_tokens=new, min_new_tokens=new, pad_token_id=0, **with_cache))

    return complete, {name: choose(way) for name, way in ways.items()}


def decode(side):
    few, many, prompt = (side.sizes[name] for name in ("few", "many", "prompt"))
    complete, ways = generation(side)
    given = side.tokens(int(side.row.removeprefix("decode-")), prompt)

    def run():
        less = complete(given, few, prompt + many)
        spent = complete(given, many, prompt + many) - less
        if spent <= 0:
            raise RuntimeError("more tokens took no longer than few")
        return dict(seconds=spent)

    return lambda: side.fastest(ways, lambda: complete(given, many, prompt + many)), run


def prefix(side):
    prompts, common, own, new, batch = (side.sizes[n] for n in ("prompts", "common", "own", "new", "peer_batch"))
    complete, ways = generation(side)
    shared = side.tokens(1, common).expand(prompts, -1)
    parts = torch.cat([shared, side.tokens(prompts, own)], dim=1).split(batch)

    def spent():
        return sum(complete(part, new, common + own + new) for part in parts)

    def warm():
        side.fastest(ways, lambda: complete(parts[0], new, common + own + new))
        side.how += f", {batch} prompts at a time"

    return warm, lambda: dict(seconds=spent())


def lora_linear():
    class LoraLinear(torch.nn.Module):
        """A frozen product with a pair of matrices beside it."""

        def __init__(self, base):
            super().__init__()
            r, alpha = PLAN["lora"]["r"], PLAN["lora"]["lora_alpha"]
            self.base, self.scale, device = base, alpha / r, base.weight.device
            self.a = torch.nn.Parameter(torch.empty(r, base.in_features, device=device))
            self.b = torch.nn.Parameter(torch.zeros(base.out_features, r, device=device))
            torch.nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))
            self.enabled = True

        def forward(self, x):
            y = self.base(x)
            if not self.enabled:
                return y
            low = torch.nn.functional.linear(x, self.a.to(x.dtype))
            return y + torch.nn.functional.linear(low, self.b.to(x.dtype)) * self.scale

    return LoraLinear


def adapted(side):
    made, pairs, kind = side.model(), [], lora_linear()
    made.requires_grad_(False)
    for module in list(made.modules()):
        for name, child in list(module.named_children()):
            if name in LINEAR:
                pairs.append(kind(child))
                setattr(module, name, pairs[-1])
    assert len(pairs) == len(LINEAR) * side.shape["layers"], len(pairs)
    return made, pairs, [p for pair in pairs for p in (pair.a, pair.b)]


def training(side, made, parameters, backward):
    """A step of AdamW over what `backward` leaves."""
    optimiser = torch.optim.AdamW(
        parameters, lr=1e-4, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, fused=side.on_card)
    made.train()

    def step():
        backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    def eager():
        for layer in made.model.layers:
            layer._compiled_call_impl = None
        side.forget_peak()

    def compiled():
        # Block by block: all share one compiled function, so this takes seconds and not minutes.
        for layer in made.model.layers:
            layer.compile(dynamic=False)
        side.forget_peak()

    ways = {"eager": eager, "compiled": compiled}

    def warm():
        side.fastest(ways, lambda: side.seconds(step))
        side.how += f", passes of {side.shape['micro_batch_tokens']} tokens"
        side.forget_peak()

    return warm, lambda: dict(seconds=side.seconds(step))


def passes(side, tokens, each=1):
    """Cuts a step into passes of as many tokens as our side takes at once."""
    rows = max(each, side.shape["micro_batch_tokens"] // side.sizes["length"])
    return tokens.split(rows)


def supervised(side, made, parameters, autocast):
    count, length = side.sizes["sequences"], side.sizes["length"]
    tokens = side.tokens(count, length)

    def backward():
        for part in passes(side, tokens):
            with torch.autocast(side.device, dtype=torch.bfloat16, enabled=autocast):
                loss = made(input_ids=part, labels=part, use_cache=False).loss
            (loss * (len(part) / count)).backward()

    return training(side, made, parameters, backward)


def lora(side):
    made, _, parameters = adapted(side)
    return supervised(side, made, parameters, autocast=False)


def full(side):
    made = side.model().float()
    return supervised(side, made, list(made.parameters()), autocast=True)


def dpo(side):
    made, pairs, parameters = adapted(side)
    count, length = side.sizes["sequences"] // 2, side.sizes["length"]
    prompt = length // 2
    prompts = side.tokens(count, prompt)
    both = torch.stack([torch.cat([prompts, side.tokens(count, prompt)], dim=1) for _ in range(2)], dim=1)
    both = both.reshape(2 * count, length)  # Chosen and rejected in turn, so that a pass has whole pairs.

    def logprobs(part):
        hidden = made.model(input_ids=part, use_cache=False).last_hidden_state[:, prompt - 1:-1]
        logits = made.lm_head(hidden).float()
        losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), part[:, prompt:].flatten(), reduction="none")
        return -losses.view(len(part), -1).sum(1)

    def backward():
        for part in passes(side, both, each=2):
            for pair in pairs:
                pair.enabled = False
            with torch.no_grad():
                reference = logprobs(part)
            for pair in pairs:
                pair.enabled = True
            change = logprobs(part) - reference
            loss = -torch.nn.functional.logsigmoid(0.1 * (change[0::2] - change[1::2])).sum() / count
            loss.backward()

    return training(side, made, parameters, backward)


ROWS = {"limits": limits, "prefix": prefix, "lora": lora, "full": full, "dpo": dpo}


def about(side):
    """Returns versions, by name."""
    import transformers
    found = dict(PyTorch=torch.__version__, transformers=transformers.__version__, CUDA=torch.version.cuda)
    if side.on_card:
        import ctypes
        a = torch.ones(64, 64, device="cuda", dtype=torch.bfloat16)
        torch.nn.functional.linear(a, a, a[0])
        mapped = {line.split()[-1] for line in open("/proc/self/maps") if "libcublasLt.so" in line}
        found["cuBLASLt"] = ctypes.CDLL(mapped.pop()).cublasLtGetVersion() if mapped else None
        found["card"] = torch.cuda.get_device_name()
    return found


def serve(shape, row, device):
    side = Side(shape, row, device)
    make = decode if row.startswith("decode-") else ROWS[row]
    versions = about(side)
    warm, run = make(side)
    side.wait()
    answer(loaded=versions)
    for line in sys.stdin:
        order = line.strip()
        if order == "warm":
            warm()
            answer(held=side.held(), how=side.how)
        elif order == "run":
            answer(**run())
        elif order == "done":
            answer(held=side.held())
            return


def main():
    words = sys.argv[1:]
    device = "cuda"
    if "--device" in words:
        at = words.index("--device")
        device = words[at + 1]
        del words[at:at + 2]
    try:
        global torch
        import torch
        if device == "cuda" and not torch.cuda.is_available():
            raise RuntimeError(f"PyTorch {torch.__version__} finds no card")
        torch.set_float32_matmul_precision("high")
        serve(*words, device)
    except Exception as error:
        answer(failed=short(error), missing=isinstance(error, ImportError))
        raise SystemExit(1)


if __name__ == "__main__":
    main()
