"""TRL's DPOTrainer over the pairs of a row, in its own training loop.

The loop runs in a thread and is held at the beginning of every step until the bench asks for one.
"""

import os
import queue
import tempfile
import threading

import datasets
import peft
import torch
import transformers
import trl
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

import worker

TYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


class Tokenized(trl.DPOTrainer):
    """The pairs are tokens already, so that both sides train on the same ones."""

    def _prepare_dataset(self, dataset, *arguments, **more):
        return dataset

    def compute_loss(self, *arguments, **more):
        loss = super().compute_loss(*arguments, **more)
        self.said = loss.item()
        return loss


class Gate(TrainerCallback):
    """Lets one step through for each token in `go`, and says so in `done`."""

    def __init__(self):
        self.go, self.done = queue.Queue(), queue.Queue()

    def on_step_begin(self, args, state, control, **more):
        self.go.get()

    def on_step_end(self, args, state, control, **more):
        self.done.put(None)


def load(order):
    torch.set_num_threads(order["threads"])
    folder = os.path.join(order["models"], "hf")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=TYPES[order["weights"]])
    pairs = order["input"]["pairs"]
    rows = [
        {"prompt_ids": pair["prompt"], "chosen_ids": pair["chosen"], "rejected_ids": pair["rejected"]}
        for pair in pairs
    ]
    rank = order["work"]["rank"]
    settings = trl.DPOConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=len(pairs),
        max_steps=10_000,
        learning_rate=1e-4,
        lr_scheduler_type="constant",
        max_grad_norm=1.0,
        beta=0.1,
        # As the other side: activations are kept, f32 stays f32.
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        logging_strategy="no",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    gate = Gate()
    trainer = Tokenized(
        model=model,
        args=settings,
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(folder),
        peft_config=peft.LoraConfig(
            r=rank,
            lora_alpha=rank,
            lora_dropout=0.0,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        ),
        callbacks=[gate],
    )

    def train():
        try:
            trainer.train()
        except BaseException as error:
            gate.done.put(error)

    threading.Thread(target=train, daemon=True).start()
    tokens = sum(2 * len(p["prompt"]) + len(p["chosen"]) + len(p["rejected"]) for p in pairs)

    def run(watch):
        gate.go.put(None)
        failed = gate.done.get()
        if failed is not None:
            raise failed
        return {"tokens": tokens, "check": trainer.said}

    about = {"trl": trl.__version__, "transformers": transformers.__version__}
    return run, about


if __name__ == "__main__":
    worker.serve(load)
