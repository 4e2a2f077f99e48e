"""transformers, with PEFT where adapters are trained, as a careful user writes it: cached prefixes,
no logits that nobody reads, the fused optimiser, no gradient where nothing learns."""

import os

import peft
import torch
import transformers
from transformers import AutoModelForCausalLM, DynamicCache

import worker

TYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
IGNORED = -100


def open_model(order):
    torch.set_num_threads(order["threads"])
    torch.manual_seed(0)
    folder = os.path.join(order["models"], "hf")
    return AutoModelForCausalLM.from_pretrained(folder, dtype=TYPES[order["weights"]])


def padded(rows, pad=2):
    """Token ids and mask, padded on the left."""
    longest = max(map(len, rows))
    ids = [[pad] * (longest - len(row)) + row for row in rows]
    mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids), torch.tensor(mask)


def positions(mask):
    return (mask.cumsum(-1) - 1).clamp(min=0)


def decode(order, model):
    prompts, new = order["input"]["prompts"], order["work"]["new"]
    made = torch.tensor(order["input"]["made"])
    ids, mask = padded(prompts)

    def run(watch):
        with torch.inference_mode():
            cache = DynamicCache(config=model.config)
            model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions(mask),
                past_key_values=cache,
                logits_to_keep=1,
            )
            seen, place = mask, positions(mask)[:, -1:]
            watch.start()
            for i in range(new - 1):
                seen = torch.cat([seen, seen.new_ones(len(prompts), 1)], dim=1)
                place = place + 1
                model(
                    input_ids=made[:, i : i + 1],
                    attention_mask=seen,
                    position_ids=place,
                    past_key_values=cache,
                )
            watch.stop()
        return {"tokens": len(prompts) * (new - 1)}

    return run


def prefill(order, model):
    ids, mask = padded(order["input"]["prompts"])

    def run(watch):
        with torch.inference_mode():
            model(input_ids=ids, attention_mask=mask, use_cache=True, logits_to_keep=1)
        return {"tokens": int(mask.sum())}

    return run


def completion_logprobs(model, ids, mask, starts):
    """The sum of the logprobs of each row's tokens from `starts` on."""
    keep = ids.shape[1] - min(starts)
    hidden = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions(mask),
        use_cache=False,
        logits_to_keep=keep + 1,
    ).logits
    sums = []
    for row, start, logits in zip(ids, starts, hidden):
        targets = row[start:]
        said = torch.log_softmax(logits[-1 - len(targets) : -1].float(), dim=-1)
        sums.append(said.gather(-1, targets[:, None]).sum())
    return torch.stack(sums)


def score(order, model):
    # By length, so that little is padded, in batches that keep the logits small.
    rows = sorted(order["input"]["rows"], key=lambda row: len(row["tokens"]))
    batches = []
    for i in range(0, len(rows), 8):
        chunk = rows[i : i + 8]
        ids, mask = padded([row["tokens"] for row in chunk])
        longest = ids.shape[1]
        starts = [longest - len(row["tokens"]) + row["from"] for row in chunk]
        batches.append((ids, mask, starts))

    def run(watch):
        total = 0.0
        with torch.inference_mode():
            for ids, mask, starts in batches:
                total += completion_logprobs(model, ids, mask, starts).double().sum().item()
        return {"tokens": sum(len(row["tokens"]) for row in rows), "check": total}

    return run


def stage(order, model):
    prompts, common = order["input"]["prompts"], order["input"]["common"]
    new = order["work"]["new"]
    own, own_mask = padded([prompt[common:] for prompt in prompts])
    prefix = torch.tensor([prompts[0][:common]])
    ids = torch.cat([prefix.expand(len(prompts), -1), own], dim=1)
    mask = torch.cat([torch.ones(len(prompts), common, dtype=torch.long), own_mask], dim=1)

    def run(watch):
        with torch.inference_mode():
            cache = DynamicCache(config=model.config)
            model(input_ids=prefix, past_key_values=cache, logits_to_keep=1)
            cache.batch_repeat_interleave(len(prompts))
            out = model.generate(
                ids,
                attention_mask=mask,
                past_key_values=cache,
                max_new_tokens=new,
                min_new_tokens=new,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=2,
            )
        assert out.shape[1] == ids.shape[1] + new
        return {"tokens": new * len(prompts)}

    return run


def train(order, model):
    work = order["work"]
    if work["method"] == "lora":
        rank = work["rank"]
        config = peft.LoraConfig(
            r=rank,
            lora_alpha=rank,
            lora_dropout=0.0,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        )
        model = peft.get_peft_model(model, config)
    model.train()
    examples = order["input"]["examples"]
    lengths = {len(example["tokens"]) for example in examples}
    assert len(lengths) == 1, "examples of one length need no padding"
    ids = torch.tensor([example["tokens"] for example in examples])
    labels = ids.clone()
    for row, example in zip(labels, examples):
        row[: example["from"]] = IGNORED
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-4, weight_decay=0.0, fused=True)

    def run(watch):
        loss = model(input_ids=ids, labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return {"tokens": ids.numel(), "check": loss.item()}

    return run


def load(order):
    kinds = {
        "decode": decode,
        "prefill": prefill,
        "score": score,
        "stage": stage,
        "train": train,
    }
    about = {"torch": torch.__version__, "transformers": transformers.__version__}
    if order["work"]["kind"] == "train":
        about["peft"] = peft.__version__
    return kinds[order["work"]["kind"]](order, open_model(order)), about


if __name__ == "__main__":
    worker.serve(load)
