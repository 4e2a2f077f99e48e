"""The stand-ins for NVIDIA's driver, cuBLASLt and NCCL, compiled with the kernels of the sources for this processor."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "tests/cuda"
SOURCES = ROOT / "host/src/model/backend/cuda"

DRIVER, CUBLASLT, NCCL = "libcuda.so.1", "libcublasLt.so.13", "libnccl.so.2"
# Terms may be put together with the sum they are added to, as NVIDIA's compiler does.
FLAGS = ["-O2", "-march=native", "-fPIC", "-Wall", "-Wextra", "-Werror"]
# What the kernels take for granted, and what names they have to the rest of the program.
KERNELS = ["-std=c++17", "-fno-strict-aliasing", "-fvisibility=hidden", "-Wno-unknown-pragmas", "-Wno-sign-compare"]
# An index beyond an array ends the program.
KERNELS += ["-fsanitize=bounds-strict", "-fsanitize-undefined-trap-on-error", "-U_FORTIFY_SOURCE"]


def card(work, kernels=SOURCES / "kernels"):
    """Compiles kernels and the card that runs them; returns the objects that a driver is linked with."""
    work.mkdir(parents=True, exist_ok=True)
    listed = re.search(r"const NAMES: .*?\];", (SOURCES / "driver.rs").read_text(), re.DOTALL).group()
    names = re.findall(r'"(\w+)"', listed)
    assert len(names) > 40, names
    (work / "names.h").write_text("".join(f"KERNEL_NAMED({name})\n" for name in names))
    objects = []
    for source in ["block.cpp", "launch.cpp"]:
        objects.append(work / f"{source}.o")
        folders = [f"-I{HERE / 'card'}", f"-I{work}", f"-I{kernels}"]
        command = ["c++", *FLAGS, *KERNELS, *folders, "-c", HERE / "card" / source, "-o", objects[-1]]
        subprocess.run(command, check=True)
    return objects


def driver(folder, objects, *flags):
    """Puts a driver with a card into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    own = [folder / "driver.o", folder / "graph.o"]
    for source, made in zip([HERE / "driver.c", HERE / "card/graph.c"], own):
        command = ["cc", *FLAGS, *flags, f"-I{HERE / 'card'}", "-c", source, "-o", made]
        subprocess.run(command, check=True)
    command = ["c++", "-shared", "-Wl,-z,defs", *objects, *own, "-o", folder / DRIVER, "-lpthread"]
    subprocess.run(command, check=True)
    for made in own:
        made.unlink()
    name_first(folder, DRIVER)


def cublaslt(folder, *flags, name=CUBLASLT):
    """Puts a cuBLASLt into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["cc", *FLAGS, "-O3", "-shared", *flags, HERE / "cublaslt.c", "-o", folder / name]
    subprocess.run(command, check=True)
    name_first(folder, name)


def nccl(folder, *flags):
    """Puts an NCCL into a folder. It has one name, which no other is tried before."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["cc", *FLAGS, "-shared", *flags, HERE / "nccl.c", "-o", folder / NCCL, "-lpthread"]
    subprocess.run(command, check=True)


def name_first(folder, name):
    """Gives a library the name that is tried first, so that it is not the machine's own."""
    (folder / name.split(".so")[0]).with_suffix(".so").symlink_to(name)
