"""Trains the adapter of one round with TRL. aligner wrote this file; what differs between two rounds is
in `config.json`, `data.jsonl` and `order.jsonl` beside it.

    python train.py [ATTEMPT]

Prompts and completions come as token ids, so that this trainer learns from the very tokens that aligner
counted; the order of the rows, and the adapter that training starts from (`start/`), are those that aligner's
own trainer would take. What an attempt makes goes into the folder of its number:

    progress.jsonl   one line for each update
    checkpoints/     TRL's own; a later attempt goes on from the newest
    adapter/         the trained adapter, as PEFT writes it
    done.json        written last: versions, digests, and what the trained model says of a few rows

Written for TRL 1.16 with transformers 5.23, and run on any number of processes that torchrun starts.
"""

import hashlib
import json
import math
import os
import platform
import sys
import time
from pathlib import Path

import accelerate
import datasets
import peft
import torch
import torch.nn.functional as F
import transformers
import trl
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainerCallback, TrainingArguments

HERE = Path(__file__).resolve().parent
PROCESSES = int(os.environ.get("WORLD_SIZE", 1))
FIRST = int(os.environ.get("RANK", 0)) == 0


def read_lines(path):
    """Returns the JSON documents of a file that has one a line; a last line that a kill cut is left out."""
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.split("\n")[:-1]]


CONFIG = json.loads((HERE / "config.json").read_text())
ROWS = read_lines(HERE / "data.jsonl")
ORDERS = read_lines(HERE / "order.jsonl")


# ---- What is learnt from, in which order -----------------------------------------------------------


class Order(torch.utils.data.Sampler):
    """The order of the rows that aligner drew, epoch by epoch."""

    used = False

    def __init__(self):
        self.epoch = 0

    def set_epoch(self, epoch):
        self.epoch = int(epoch)

    def __len__(self):
        return len(ROWS)

    def __iter__(self):
        Order.used = True
        return iter(ORDERS[min(self.epoch, len(ORDERS) - 1)])


class InOrder:
    """A trainer that takes the rows in aligner's order, with aligner's tokens."""

    def _get_train_sampler(self, dataset=None):
        return Order()

    def _prepare_dataset(self, dataset, *args, **kwargs):
        return dataset


class SftTrainer(InOrder, trl.SFTTrainer):
    pass


class DpoTrainer(InOrder, trl.DPOTrainer):
    pass


# ---- Self-steering optimisation --------------------------------------------------------------------


def summed_logprobs(model, sequences, pad):
    """Returns the summed logprob of the completion of each (prompt, completion), and how many tokens it has."""
    device = next(model.parameters()).device
    longest = max(len(prompt) + len(completion) for prompt, completion in sequences)
    tokens = torch.full((len(sequences), longest), pad, device=device)
    attention, learnt = torch.zeros_like(tokens), torch.zeros_like(tokens)
    for row, (prompt, completion) in enumerate(sequences):
        begin, end = len(prompt), len(prompt) + len(completion)
        tokens[row, :end] = torch.tensor(prompt + completion, device=device)
        attention[row, :end], learnt[row, begin:end] = 1, 1
    logits = model(input_ids=tokens, attention_mask=attention, use_cache=False).logits[:, :-1]  # [B, T - 1, V]
    targets, mask = tokens[:, 1:], learnt[:, 1:]
    # Row by row: a softmax over all of them at once would take the memory of the logits again.
    rows = [
        F.cross_entropy(logits[i].float(), targets[i], reduction="none") for i in range(len(sequences))
    ]  # [T - 1] each
    return -(torch.stack(rows) * mask).sum(dim=1), mask.sum(dim=1)


def pair_loss(base, beta, policy, reference, lengths):
    """Returns the loss of pairs, the first of each preferred: DPO's, or IPO's of mean logprobs. All `[B, 2]`."""
    ratio = policy - reference
    if base == "dpo":
        return -F.logsigmoid(beta * (ratio[:, 0] - ratio[:, 1]))
    ratio = ratio / lengths
    return (ratio[:, 0] - ratio[:, 1] - 1 / (2 * beta)) ** 2


def sso_loss(policy, reference, lengths, settings):
    """Returns the self-steering loss of each item (https://arxiv.org/abs/2410.17131).

    All `[B, 6]`: y+ and y- after x, the same after x+, then y0 and y+ after x-.
    """
    base, beta = settings["base_loss"], settings["beta"]
    plain, good, bad = (
        pair_loss(base, beta, policy[:, i : i + 2], reference[:, i : i + 2], lengths[:, i : i + 2])
        for i in (0, 2, 4)
    )
    guided = settings["gamma"] * (good + bad)
    if settings["w_scope"] == "none":
        return plain + guided
    mean = policy[:, :2] / lengths[:, :2]
    weight = torch.sigmoid(-(settings["alpha"] * mean[:, 0] + (1 - settings["alpha"]) * mean[:, 1]))
    weight = weight.detach() if settings["w_detach"] else weight
    return weight * (plain + guided) if settings["w_scope"] == "all" else plain + weight * guided


class SsoTrainer(InOrder, Trainer):
    """Trains on items of six sequences, under `sso_loss`."""

    # Of a mean over the items of a batch, transformers takes the mean over the batches of an update.
    loss_is_scaled_for_ga = False

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = False
        self.seen = {}

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        sequences = [sequence for item in inputs["items"] for sequence in item]
        pad = self.processing_class.pad_token_id
        policy, lengths = summed_logprobs(model, sequences, pad)
        with torch.no_grad(), under_reference(self.accelerator.unwrap_model(model)):
            reference, _ = summed_logprobs(model, sequences, pad)
        policy, reference, lengths = (x.view(-1, 6) for x in (policy, reference, lengths))
        rewards = CONFIG["loss"]["beta"] * (policy - reference)[:, :2].detach()
        means = {
            "rewards/chosen": rewards[:, 0],
            "rewards/rejected": rewards[:, 1],
            "rewards/accuracies": (rewards[:, 0] > rewards[:, 1]).float(),
            "rewards/margins": rewards[:, 0] - rewards[:, 1],
            "logps/chosen": policy[:, 0].detach(),
            "logps/rejected": policy[:, 1].detach(),
        }
        for name, values in means.items():
            self.seen.setdefault(name, []).append(self.accelerator.gather(values).mean().item())
        return sso_loss(policy, reference, lengths, CONFIG["loss"]).mean()

    def log(self, logs, *args, **kwargs):
        means = {name: sum(values) / len(values) for name, values in self.seen.items()}
        self.seen = {}
        super().log({**logs, **means}, *args, **kwargs)


# ---- Model, adapter and reference ------------------------------------------------------------------


def load_model():
    """Returns the base with the adapter that training starts from."""
    kwargs = {"dtype": getattr(torch, CONFIG["dtype"]), "revision": CONFIG["revision"] or "main"}
    model = AutoModelForCausalLM.from_pretrained(CONFIG["model"], **kwargs)
    model.config.use_cache = False
    largest = max(max(tokens) for row in ROWS for tokens in token_lists(row))
    if largest >= model.get_input_embeddings().num_embeddings:
        raise SystemExit(f"`{CONFIG['model']}` has no token {largest}: it is not the model of this run")
    return peft.PeftModel.from_pretrained(model, HERE / "start", is_trainable=True)


def token_lists(row):
    lists = [row[name] for name in ("input_ids", "prompt_ids", "chosen_ids", "rejected_ids") if name in row]
    return lists + [tokens for item in row.get("sequences", []) for tokens in item.values()]


def set_reference(model):
    """Makes the adapter `ref` what the policy is held to: TRL compares with it, and with the base where there is none."""
    if "ref" in model.peft_config:
        model.delete_adapter("ref")
    if CONFIG["reference"] == "adapter":
        model.load_adapter(HERE / "reference", "ref", is_trainable=False)
        for module in model.modules():
            if isinstance(module, peft.tuners.lora.LoraLayer) and "ref" in module.lora_dropout:
                module.lora_dropout["ref"] = torch.nn.Identity()
        model.set_adapter("default")


def under_reference(model):
    return trl.trainer.utils.use_adapter(model, "ref" if "ref" in model.peft_config else None)


def probe(model, pad):
    """Returns the mean logprob of the completion of each row that aligner has scored too."""
    was_training = model.training
    model.eval()
    with torch.no_grad():
        said = [
            (summed / count).item()
            for row in CONFIG["probe"]["rows"]
            for summed, count in [summed_logprobs(model, [(row["prompt_ids"], row["completion_ids"])], pad)]
        ]
    model.train(was_training)
    return said


def check_probe(said):
    """Ends the job where this is another model than aligner's: its adapter would be of no use there."""
    expected, bound = CONFIG["probe"]["mean_logprobs"], CONFIG["probe"]["bound"]
    apart = max((abs(a - b) for a, b in zip(said, expected)), default=0.0)
    if not apart <= bound:
        raise SystemExit(
            f"`{CONFIG['model']}` is not the model of this run: of the first rows, a token's mean logprob is "
            f"{said} here and {expected} there, and {bound} apart is the most that rounding explains"
        )


# ---- One attempt -----------------------------------------------------------------------------------


class Progress(TrainerCallback):
    """Appends a line for each update, and stops where training has diverged."""

    def __init__(self, path, attempt, rows):
        self.path, self.attempt, self.diverged = path, attempt, None
        if FIRST:
            path.write_text("".join(json.dumps({**row, "attempt": attempt}) + "\n" for row in rows))

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" not in logs:
            return
        finite = {
            name: value if math.isfinite(value) else None
            for name, value in logs.items()
            if isinstance(value, (int, float))
        }
        for name in ("loss", "grad_norm"):
            if finite.get(name, 0) is None and self.diverged is None:
                self.diverged = {"what": name, "value": str(logs[name]), "step": state.global_step}
                control.should_training_stop = True
        if FIRST:
            row = {"attempt": self.attempt, "step": state.global_step, "max_steps": state.max_steps, **finite}
            with self.path.open("a") as file:
                file.write(json.dumps(row, allow_nan=False) + "\n")


def newest_checkpoint():
    """Returns the newest whole checkpoint of any attempt; transformers writes `trainer_state.json` last."""
    found = []
    for folder in HERE.glob("*/checkpoints/checkpoint-*"):
        try:
            json.loads((folder / "trainer_state.json").read_text())
            found.append((int(folder.name.rsplit("-", 1)[1]), folder))
        except (OSError, ValueError):
            pass
    return max(found, default=(0, None), key=lambda checkpoint: checkpoint[0])


def arguments(attempt):
    """Returns TRL's settings: those of the plugin set, and what makes both trainers do the same."""
    settings = dict(CONFIG["training_arguments"])
    per_pass = settings["per_device_train_batch_size"] * PROCESSES
    per_epoch = math.ceil(math.ceil(len(ROWS) / per_pass) / settings["gradient_accumulation_steps"])
    steps = math.ceil(settings["num_train_epochs"] * per_epoch)
    # One update is always left to train in: a small round may have a single one.
    warmup = min(math.ceil(steps * settings.pop("warmup_ratio")), steps - 1)
    common = {
        "output_dir": str(HERE / attempt / "checkpoints"),
        "warmup_steps": warmup,
        "optim": "adamw_torch",
        "bf16": CONFIG["dtype"] == "bfloat16",
        # Said outright: without a GPU, processes would not find each other.
        "use_cpu": not torch.cuda.is_available(),
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "steps" if settings["save_steps"] else "no",
        "save_total_limit": 2,
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": CONFIG["objective"] != "sso",
        "dataloader_pin_memory": torch.cuda.is_available(),
        "ddp_find_unused_parameters": False if PROCESSES > 1 else None,
        **settings,
        **CONFIG["options"],
    }
    common["save_steps"] = common["save_steps"] or 1
    if common["gradient_checkpointing"]:
        common.setdefault("gradient_checkpointing_kwargs", {"use_reentrant": False})
    if CONFIG["objective"] == "sft":
        return trl.SFTConfig(**common, max_length=None, packing=False)
    if CONFIG["objective"] in ("dpo", "ipo"):
        loss = {"dpo": "sigmoid", "ipo": "ipo"}[CONFIG["objective"]]
        beta = CONFIG["loss"]["beta"]
        # The adapter's dropout is a setting of the plugin set.
        return trl.DPOConfig(**common, max_length=None, disable_dropout=False, loss_type=[loss], beta=beta)
    return TrainingArguments(**common)


def collate_items(rows):
    pairs = [[(s["prompt_ids"], s["completion_ids"]) for s in row["sequences"]] for row in rows]
    return {"items": pairs}


def main():
    attempt = sys.argv[1] if len(sys.argv) > 1 else "1"
    folder, begun = HERE / attempt, time.time()
    folder.mkdir(exist_ok=True)
    transformers.set_seed(CONFIG["training_arguments"]["seed"])

    tokenizer = AutoTokenizer.from_pretrained(CONFIG["model"], revision=CONFIG["revision"] or "main")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    args = arguments(attempt)
    if args.world_size != PROCESSES:
        raise SystemExit(f"{PROCESSES} processes were started, and transformers sees {args.world_size}")
    model = load_model().to(args.device)
    check_probe(probe(model, tokenizer.pad_token_id))

    step, checkpoint = newest_checkpoint()
    before = read_lines(checkpoint.parent.parent / "progress.jsonl") if checkpoint else []
    progress = Progress(folder / "progress.jsonl", attempt, [row for row in before if row["step"] <= step])
    given = [{name: value for name, value in row.items() if name != "record_id"} for row in ROWS]
    kind = {"sft": SftTrainer, "dpo": DpoTrainer, "ipo": DpoTrainer, "sso": SsoTrainer}[CONFIG["objective"]]
    trainer = kind(
        model=model,
        args=args,
        train_dataset=datasets.Dataset.from_list(given),
        processing_class=tokenizer,
        callbacks=[progress],
        **({"data_collator": collate_items} if kind is SsoTrainer else {}),
    )
    if trainer.train_dataset[0] != given[0]:
        raise SystemExit(f"TRL {trl.__version__} does not take the tokens as they are")
    if CONFIG["reference"] is not None:
        set_reference(trainer.model)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if step < trainer.state.max_steps and not Order.used:
        raise SystemExit(f"transformers {transformers.__version__} does not take the rows in their order")

    done = {"attempt": attempt, "steps": trainer.state.global_step, "seconds": time.time() - begun}
    if progress.diverged is None:
        trainer.save_model(str(folder / "adapter"))
        done["probe"] = probe(trainer.accelerator.unwrap_model(trainer.model), tokenizer.pad_token_id)
    if not FIRST:
        return
    if progress.diverged is None:
        names = ("adapter_config.json", "adapter_model.safetensors")
        digest = lambda name: hashlib.sha256((folder / "adapter" / name).read_bytes()).hexdigest()
        done["files"] = {name: digest(name) for name in names}
    done["diverged"] = progress.diverged
    done["processes"] = PROCESSES
    done["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    libraries = (torch, transformers, trl, peft, accelerate, datasets)
    done["versions"] = {"python": platform.python_version()}
    done["versions"] |= {library.__name__: library.__version__ for library in libraries}
    (folder / "done.json.tmp").write_text(json.dumps(done, indent=2) + "\n")
    (folder / "done.json.tmp").rename(folder / "done.json")


if __name__ == "__main__":
    main()
