"""The rows of `bench-cuda` with PyTorch, transformers and PEFT, and what the card can do at most.

    python3 peer.py SHAPE ROW…      SHAPE: 135m, 1.5b or 7b; ROW: limits, decode-N, lora, dpo, full

Prints lines of JSON as the engine's own program does. Weights are random and bf16.
"""

import json
import statistics
import sys
import time

import torch

SHAPES = {
    "135m": dict(num_hidden_layers=30, hidden_size=576, num_attention_heads=9, num_key_value_heads=3,
                 intermediate_size=1536, vocab_size=49152, tie_word_embeddings=True),
    "1.5b": dict(num_hidden_layers=28, hidden_size=1536, num_attention_heads=12, num_key_value_heads=2,
                 intermediate_size=8960, vocab_size=151936, tie_word_embeddings=True),
    "7b": dict(num_hidden_layers=32, hidden_size=4096, num_attention_heads=32, num_key_value_heads=32,
               intermediate_size=11008, vocab_size=32000, tie_word_embeddings=False),
}
LENGTH, COUNT = 1024, 16


def seconds(work, times=10):
    work(), work()
    torch.cuda.synchronize()
    spent = []
    for _ in range(times):
        begun = time.perf_counter()
        work()
        torch.cuda.synchronize()
        spent.append(time.perf_counter() - begun)
    return statistics.median(spent)


def say(shape, row, spent, tokens, **more):
    memory = torch.cuda.max_memory_reserved() / 1e9
    line = dict(engine="torch", shape=shape, row=row, seconds=round(spent, 5), tokens=tokens,
                tokens_per_second=round(tokens / spent, 1), memory_gb=round(memory, 2), **more)
    print(json.dumps(line), flush=True)


def limits():
    n = 8192
    a, b = (torch.randn(n, n, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    rate = 2 * n**3 / seconds(lambda: a @ b)
    x = torch.randn(1 << 30, device="cuda")
    y = torch.empty_like(x)
    bandwidth = 2 * x.numel() * 4 / seconds(lambda: y.copy_(x))
    print(json.dumps(dict(engine="limits", card=torch.cuda.get_device_name(), torch=torch.__version__,
                          bf16_tflops=round(rate / 1e12, 1), copy_gb_per_second=round(bandwidth / 1e9))), flush=True)


def model(shape):
    import transformers
    config = transformers.LlamaConfig(**SHAPES[shape], max_position_embeddings=4096, attn_implementation="sdpa")
    with torch.device("cuda"):
        torch.set_default_dtype(torch.bfloat16)
        made = transformers.LlamaForCausalLM(config)
        torch.set_default_dtype(torch.float32)
    return made


@torch.no_grad()
def decode(shape, row):
    batch, made = int(row.split("-")[1]), model(shape).eval()
    prompt = torch.randint(0, made.config.vocab_size, (batch, 32), device="cuda")

    def run(new, **more):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        made.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=True, top_k=0, max_new_tokens=new,
                      min_new_tokens=new, pad_token_id=0, **more)
        torch.cuda.synchronize()
        return time.perf_counter() - begun

    run(4)
    few, many = run(8), run(72)
    say(shape, row, many - few, 64 * batch, how="dynamic cache")


def adapted(shape):
    import peft
    made = model(shape)
    lora = peft.LoraConfig(r=16, lora_alpha=16, target_modules="all-linear")
    made = peft.get_peft_model(made, lora)
    return made, [p for p in made.parameters() if p.requires_grad]


def step(made, parameters, shape, row):
    optimiser = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
    rows = 16 if shape == "135m" else 8 if shape == "1.5b" else 4
    tokens = torch.randint(0, made.config.vocab_size, (COUNT, LENGTH), device="cuda")

    def work():
        for part in tokens.split(rows):
            (made(input_ids=part, labels=part).loss * (rows / COUNT)).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad()

    torch.cuda.reset_peak_memory_stats()
    say(shape, row, seconds(work, 3), COUNT * LENGTH)


def main():
    shape, *rows = sys.argv[1:]
    for row in rows:
        if row == "limits":
            limits()
        elif row.startswith("decode-"):
            decode(shape, row)
        elif row == "lora":
            step(*adapted(shape), shape, row)
        elif row == "full":
            made = model(shape).float()
            with torch.autocast("cuda", dtype=torch.bfloat16):
                step(made, list(made.parameters()), shape, row)
        else:
            sys.exit(f"no row `{row}`")
        torch.cuda.empty_cache()


main()
