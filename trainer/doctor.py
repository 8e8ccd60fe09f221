"""`python -m trainer.doctor --ranks 4`: what this machine can do, and proof that every parallel mode is right on it.

The proof is `trainer.parity`, one torchrun for each number of ranks: a small model trained in each mode against a bare
PyTorch loop. Numbers of ranks beyond the GPUs at hand are proven on the CPU. Exit status 1 where a mode differs or
fails. Takes one to three minutes on two cores.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
import torch
import torch.distributed as dist

from trainer import hardware
from trainer.launch import torchrun

PACKAGES = (
    "torch",
    "deepspeed",
    "numpy",
    "pyarrow",
    "safetensors",
    "tokenizers",
    "transformers",
    "tensorboard",
    "wandb",
)
DISK_BYTES, REDUCE_BYTES = 64 << 20, 16 << 20


def facts(folder: Path) -> list[tuple[str, str]]:
    """(what, how much) of this machine; `folder` is on the disk to measure."""
    rows = [("Python", f"{platform.python_version()} on {platform.platform()}")]
    rows += [(name, found) for name in PACKAGES if (found := _version(name))]
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            size = torch.cuda.get_device_properties(number).total_memory
            rows.append((f"GPU {number}", f"{torch.cuda.get_device_name(number)}, {size / 1e9:.1f} GB"))
        rows.append(("matrix products, bf16", hardware.peak(torch.bfloat16).describe()))
    rows.append(("matrix products, fp32", hardware.peak(torch.float32).describe()))
    free = hardware.available_host_memory()
    rows.append(("cores", f"{len(os.sched_getaffinity(0))} of {psutil.cpu_count()}"))
    rows.append(("memory", f"{free / 1e9:.1f} GB free of {psutil.virtual_memory().total / 1e9:.1f} GB"))
    rows.append(("disk", f"{folder}: {_disk(folder)}"))
    return rows


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _disk(folder: Path) -> str:
    """Writing until it is on the disk, and reading back, most likely from the page cache."""
    data = os.urandom(1 << 20) * (DISK_BYTES >> 20)
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        began = time.perf_counter()
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        wrote = time.perf_counter() - began
        file.seek(0)
        began = time.perf_counter()
        file.read()
        read = time.perf_counter() - began
    return f"writes {DISK_BYTES / wrote / 1e6:,.0f} MB/s with fsync, reads {DISK_BYTES / read / 1e6:,.0f} MB/s"


def prove() -> int:
    """As one rank of several: run the matrix of this world size; rank 0 prints it."""
    from trainer import parity
    from trainer.engine import start_ranks, stop_ranks

    torch.set_num_threads(1)
    start_ranks()
    ranks, first = dist.get_world_size(), dist.get_rank() == 0
    speed = _reduce_speed()
    if first and ranks > 1:
        print(f"{ranks} ranks by {dist.get_backend()}: {speed / 1e9:.2f} GB/s summed", flush=True)
    matrix = parity.Matrix(ranks)
    outcomes = [matrix.prove(mode) for mode in parity.modes(ranks)]
    if first:
        print(parity.table(outcomes, ranks), flush=True)
    stop_ranks()
    return 0 if all(outcome.equal for outcome in outcomes) else 1


def _reduce_speed() -> float:
    """Bytes of an fp32 tensor that the ranks sum in a second."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    values = torch.ones(REDUCE_BYTES // 4, device=device)
    best = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        dist.all_reduce(values)
        values[0].item()  # waits for the device
        best = min(best, time.perf_counter() - began)
    return REDUCE_BYTES / best


def world_sizes(most: int) -> list[int]:
    """1, 2 and 4 cover every mode; the number that was asked for comes last."""
    return sorted({ranks for ranks in (1, 2, 4) if ranks < most} | {most})


def run_ranks(ranks: int) -> int:
    """The proof on `ranks` processes; the exit status."""
    command = [*torchrun(ranks), "-m", "trainer.doctor", "--prove"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if torch.cuda.is_available() and ranks > torch.cuda.device_count():
        print(f"{ranks} ranks and {torch.cuda.device_count()} GPUs: proven on the CPU")
        environment["CUDA_VISIBLE_DEVICES"] = ""
    with tempfile.TemporaryFile() as errors:
        code = subprocess.run(command, env=environment, stderr=errors).returncode
        if code:
            errors.seek(0)
            said = errors.read().decode("utf-8", "replace").strip().splitlines()
            print("\n".join(said[-30:]), file=sys.stderr)
    return code


def main() -> int:
    parser = argparse.ArgumentParser(prog="trainer.doctor", description="What this machine can do, and proof of it.")
    parser.add_argument("--ranks", type=int, default=4, help="most processes to prove the parallel modes on")
    parser.add_argument("--folder", type=Path, default=Path(), help="folder on the disk to measure")
    parser.add_argument("--prove", action="store_true", help="be one rank of the proof (torchrun)")
    args = parser.parse_args()
    if args.prove:
        return prove()
    rows = facts(args.folder.resolve())
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}", flush=True)
    wrong = [ranks for ranks in world_sizes(args.ranks) if run_ranks(ranks)]
    for ranks in wrong:
        print(f"a mode on {ranks} ranks differs from one rank or failed: do not train with it here", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
