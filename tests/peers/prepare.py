"""Makes the model files that the peers read out of the one that aligner reads.

    python prepare.py MODEL.gguf FOLDER

FOLDER gets `hf/` (Hugging Face layout, f32) and, with llama-cpp-python, `f32.gguf`, `bf16.gguf` and
`q8_0.gguf`. What is there already is kept.
"""

import ctypes
import os
import sys


def hugging_face(source, folder):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place, file = os.path.split(os.path.abspath(source))
    tokenizer = AutoTokenizer.from_pretrained(place, gguf_file=file)
    model = AutoModelForCausalLM.from_pretrained(place, gguf_file=file, dtype=torch.float32)
    # Its weights are plain numbers now; saved as such, not as a quantised model.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def gguf(source, path, kind):
    import llama_cpp as llama

    params = llama.llama_model_quantize_default_params()
    params.ftype = kind
    params.allow_requantize = True
    if llama.llama_model_quantize(source.encode(), path.encode(), ctypes.byref(params)) != 0:
        raise RuntimeError(f"llama.cpp cannot make {path}")


def main():
    source, folder = sys.argv[1:]
    # llama.cpp's numbers for file types, which llama-cpp-python names only in part.
    makers = {
        "hf": hugging_face,
        "f32.gguf": lambda source, path: gguf(source, path, 0),
        "bf16.gguf": lambda source, path: gguf(source, path, 32),
        "q8_0.gguf": lambda source, path: gguf(source, path, 7),
    }
    for name, make in makers.items():
        path = os.path.join(folder, name)
        if os.path.exists(path):
            continue
        try:
            make(source, path + ".part")
            os.rename(path + ".part", path)
        except ImportError as error:
            print(f"{name}: not made, {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
