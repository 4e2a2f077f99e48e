"""Writes a model of the same shape with other weights.

usage: other_model.py MODEL OUT
"""

import shutil
import sys
from pathlib import Path

from safetensors.numpy import load_file, save_file

source, out = map(Path, sys.argv[1:])
shutil.copytree(source, out)
weights = load_file(source / "model.safetensors")
save_file({name: tensor[::-1].copy() for name, tensor in weights.items()}, out / "model.safetensors", {"format": "pt"})
