"""A round of `soft-plus` with transformers and PEFT, as a careful user writes it.

The same prompts, in the numbers and lengths that aligner's round had: each completion runs on until
it has as many tokens as aligner's. What only plugins do (rendering, filtering) costs milliseconds and
is left out.

- Generation: prompts sorted by length, in batches; what all prompts share goes through the model
  once. The logprobs that give the difficulty are taken while generating.
- Training: batches of four, padded on the right, without gradients for what is frozen.
- Evaluation: perplexity of the trusted answers and greedy answers, the adapter merged meanwhile.
"""

import sys
import time

import peft
import torch
import transformers
from transformers import DynamicCache, LogitsProcessor, StoppingCriteria

import transformers_peer as plain
import worker

# Rows that run together; more are slower, since every step copies the cache.
BATCH = 32
PAD = 2


class Lengths(StoppingCriteria):
    """Ends each row at its own length."""

    def __init__(self, start, lengths):
        self.ends = start + torch.tensor(lengths)

    def __call__(self, input_ids, scores, **more):
        return input_ids.shape[1] >= self.ends


class Logprobs(LogitsProcessor):
    """Sums the logprobs of the tokens that are drawn, without keeping any logits."""

    def __init__(self, start, lengths):
        self.start, self.lengths = start, torch.tensor(lengths)
        self.sums = torch.zeros(len(lengths))
        self.before = None

    def take(self, input_ids):
        if self.before is not None:
            drawn = input_ids[:, -1:]
            said = self.before.gather(-1, drawn) - self.before.logsumexp(-1, keepdim=True)
            inside = input_ids.shape[1] - self.start <= self.lengths
            self.sums += said[:, 0] * inside

    def __call__(self, input_ids, scores):
        self.take(input_ids)
        self.before = scores.float()
        return scores


def batches(rows, length):
    rows = sorted(rows, key=length, reverse=True)
    return [rows[i : i + BATCH] for i in range(0, len(rows), BATCH)]


def complete(model, rows, common, sampling):
    """Completes prompts; returns the perplexity of each completion."""
    model.eval()
    prefix = None
    if common > 0:
        prefix = DynamicCache(config=model.config)
        first = torch.tensor([rows[0]["tokens"][:common]])
        model(input_ids=first, past_key_values=prefix, logits_to_keep=1)
    perplexities = []
    for batch in batches(rows, lambda row: len(row["tokens"])):
        lengths = [row["new"] for row in batch]
        own, own_mask = plain.padded([row["tokens"][common:] for row in batch])
        shared = torch.tensor([batch[0]["tokens"][:common]], dtype=torch.long)
        ids = torch.cat([shared.expand(len(batch), -1), own], dim=1)
        mask = torch.cat([torch.ones(len(batch), common, dtype=torch.long), own_mask], dim=1)
        cache = None
        if prefix is not None:
            cache = DynamicCache(config=model.config)
            for layer, held in enumerate(prefix.layers):
                keys = held.keys.expand(len(batch), -1, -1, -1)
                cache.update(keys, held.values.expand(len(batch), -1, -1, -1), layer)
        logprobs = Logprobs(ids.shape[1], lengths)
        out = model.generate(
            ids,
            attention_mask=mask,
            past_key_values=cache,
            max_new_tokens=max(lengths),
            stopping_criteria=[Lengths(ids.shape[1], lengths)],
            logits_processor=[logprobs],
            eos_token_id=None,
            pad_token_id=PAD,
            **sampling,
        )
        logprobs.take(out)
        perplexities += torch.exp(-logprobs.sums / logprobs.lengths).tolist()
    return perplexities


def score(model, rows):
    model.eval()
    total = tokens = 0
    for batch in batches(rows, lambda row: len(row["tokens"])):
        # Few rows at a time: the logits of all would not fit into the caches.
        for part in (batch[i : i + 8] for i in range(0, len(batch), 8)):
            ids, mask = plain.padded([row["tokens"] for row in part])
            longest = ids.shape[1]
            starts = [longest - len(row["tokens"]) + row["from"] for row in part]
            total += plain.completion_logprobs(model, ids, mask, starts).double().sum().item()
            tokens += sum(len(row["tokens"]) - row["from"] for row in part)
    return total / tokens


def train(model, examples, batch_size):
    model.train()
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-4, weight_decay=0.0, fused=True)
    for i in range(0, len(examples), batch_size):
        batch = examples[i : i + batch_size]
        longest = max(len(row["tokens"]) for row in batch)
        ids = torch.full((len(batch), longest), PAD)
        mask = torch.zeros_like(ids)
        labels = torch.full_like(ids, plain.IGNORED)
        for place, row in enumerate(batch):
            tokens = torch.tensor(row["tokens"])
            ids[place, : len(tokens)] = tokens
            mask[place, : len(tokens)] = 1
            labels[place, row["from"] : len(tokens)] = tokens[row["from"] :]
        loss = model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def load(order):
    model = plain.open_model(order)
    # The model's own settings for sampling are not those of the round.
    model.generation_config = transformers.GenerationConfig()
    round = order["input"]["round"]
    sampling = {"do_sample": True, "temperature": 0.7, "top_p": 0.95, "top_k": 0}
    config = peft.LoraConfig(
        r=16, lora_alpha=16, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
    )

    def evaluate(model, held_out):
        score(model, held_out["scored"])
        complete(model, held_out["completed"], 0, {"do_sample": False})

    def run(watch):
        stages = {}

        def stage(name, work):
            began = time.perf_counter()
            result = work()
            seconds = time.perf_counter() - began
            print(f"{name}: {seconds:.1f} s", file=sys.stderr, flush=True)
            stages[name] = stages.get(name, 0.0) + seconds
            return result

        with torch.no_grad():
            stage("evaluate", lambda: evaluate(model, round["before"]))
            completed, common = round["completed"], order["input"]["common"]
            stage("generate", lambda: complete(model, completed, common, sampling))
        adapted = peft.get_peft_model(model, config)
        stage("train", lambda: train(adapted, round["trained"], round["batch"]))
        with torch.no_grad():
            adapted.merge_adapter()
            stage("evaluate", lambda: evaluate(adapted, round["after"]))
            adapted.unmerge_adapter()
        adapted.unload()
        return {"tokens": 1, "stages": stages}

    about = {"torch": torch.__version__, "transformers": transformers.__version__}
    return run, about | {"peft": peft.__version__}


if __name__ == "__main__":
    worker.serve(load)
