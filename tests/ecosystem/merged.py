"""Compares a folder that `aligner model merge` wrote with what aligner said of model and adapter.

usage: merged.py MERGED ADAPTER ADAPTED.jsonl ROWS.jsonl

`ADAPTED.jsonl` holds aligner's token ids and logprobs of `ROWS.jsonl` under the model with its adapter
beside it. transformers gets the merged folder and nothing else.
"""

import json
import sys

from compare import compare, rows
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
import torch


def check_tokens(folder, scored, asked):
    """The folder's tokenizer and template give the ids that aligner scored."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for row, text in zip(scored, asked, strict=True):
        if "messages" in text:
            rendered = tokenizer.apply_chat_template(
                text["messages"][:-1], tokenize=False, add_generation_prompt=True
            )
            ids = tokenizer(rendered, add_special_tokens=False).input_ids
        else:
            ids = tokenizer(text["prompt"]).input_ids
        assert row["token_ids"][: row["first_scored"]] == ids, (row, ids)
        assert tokenizer.decode(row["token_ids"]), row
    print(f"{folder}: the same tokens of {len(asked)} rows")


def main(merged, adapter, adapted_rows, asked_rows):
    torch.manual_seed(0)
    scored, asked = rows(adapted_rows), rows(asked_rows)
    check_tokens(merged, scored, asked)
    check_tokens(adapter, scored, asked)
    model, notes = AutoModelForCausalLM.from_pretrained(
        merged, dtype=torch.float32, output_loading_info=True
    )
    assert not any(notes[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), notes
    compare("merged", model.eval(), scored)
    stops = GenerationConfig.from_pretrained(merged).eos_token_id
    stops = stops if isinstance(stops, list) else [stops]
    tokenizer = AutoTokenizer.from_pretrained(merged)
    assert tokenizer.eos_token_id in stops, (tokenizer.eos_token_id, stops)
    with open(f"{merged}/model.safetensors.index.json", encoding="utf-8") as index:
        shards = set(json.load(index)["weight_map"].values())
    print(f"{merged}: {len(shards)} shards, completions end at {stops}")


if __name__ == "__main__":
    main(*sys.argv[1:])
