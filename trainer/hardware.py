"""What the machine can do: peak FLOPs of a rank's device, its memory, and what this process uses of it.

The peak is looked up by the device's name for GPUs whose vendor states one (dense, without sparsity, with fp32
accumulation) and measured by a large matrix product for all others and for CPUs: a utilisation against a peak of
another machine says nothing. The measurement costs about 0.3 s.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

# Dense bf16 TFLOP/s from the vendors' data sheets. The first that is whole words of the device's name counts.
SPECIFIED = {
    "GB200": 2500.0, "B200": 2250.0, "GH200": 989.4, "H200 NVL": 835.0, "H200": 989.4, "H100 NVL": 835.0,
    "H100 PCIe": 756.0, "H100": 989.4, "H800 PCIe": 756.0, "H800": 989.4, "H20": 148.0, "A100": 312.0, "A800": 312.0,
    "A40": 149.7, "A30": 165.0, "A10": 125.0, "L40S": 362.0, "L40": 181.0, "L4": 121.0,
    "RTX 6000 Ada": 364.2, "RTX A6000": 154.8, "RTX 4090": 165.2, "RTX 3090": 71.0,
    "MI325X": 1307.4, "MI300X": 1307.4, "MI250X": 383.0,
}  # fmt: skip
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Peak:
    """FLOP/s that one rank could reach: `specified` by the vendor (None when unknown) and `measured` here."""

    name: str
    specified: float | None
    measured: float

    @property
    def flops(self) -> float:
        return self.specified or self.measured

    def describe(self) -> str:
        measured = f"measured {_tera(self.measured)}"
        return f"{self.name}: " + (f"specified {_tera(self.specified)}, {measured}" if self.specified else measured)


def _tera(flops: float) -> str:
    return f"{flops / 1e12:,.{0 if flops >= 1e14 else 2}f} TFLOP/s"


def device_name() -> str:
    """The GPU's name, or the CPU's model with this process's number of threads."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    model = "CPU"
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line[:10] == "model name"]
        model = names[0] if names else model
    return f"{model}, {torch.get_num_threads()} threads"


@functools.lru_cache(maxsize=4)
def peak(dtype: torch.dtype) -> Peak:
    """The peak of this rank's device for matrix products in `dtype`."""
    name = device_name()
    known = None
    if torch.cuda.is_available() and dtype in (torch.bfloat16, torch.float16):
        known = next((tera * 1e12 for part, tera in SPECIFIED.items() if re.search(rf"\b{part}\b", name)), None)
    return Peak(name, known, measure(dtype))


def measure(dtype: torch.dtype, size: int = 0, rounds: int = 12) -> float:
    """FLOP/s of the fastest of `rounds` square matrix products; `size` 0 fits the device."""
    cuda = torch.cuda.is_available()
    size = size or (8192 if cuda else 768)
    device = torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
    left, right = (torch.full((size, size), 0.5, dtype=dtype, device=device) for _ in range(2))
    out = torch.empty_like(left)
    best = float("inf")
    for _ in range(rounds):
        if cuda:
            torch.cuda.synchronize()
        began = time.perf_counter()
        torch.mm(left, right, out=out)
        if cuda:
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def can_compile() -> bool:
    """Whether torch.compile's Inductor finds what it needs for a GPU: Triton, and a C compiler for its launchers."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang") or shutil.which("cc")
    return bool(compiler) and importlib.util.find_spec("triton") is not None


def available_memory() -> int:
    """Bytes that this process's device can still give: the GPU's free memory, or the host's."""
    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0]
    return available_host_memory()


def available_host_memory() -> int:
    """Bytes of free host memory, within the limit of the container (cgroup v2) where there is one."""
    free = psutil.virtual_memory().available
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        if limit.isdigit():
            stat = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
            used = int((_CGROUP / "memory.current").read_text()) - int(stat.get("inactive_file", 0))
            free = min(free, max(0, int(limit) - used))
    except (OSError, ValueError):
        pass  # no cgroup v2 here: the host's own number stands
    return free


def used_memory() -> int:
    """Peak bytes on the device so far, or the resident memory of this process where the device is a CPU."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return psutil.Process().memory_info().rss


def local_ranks() -> int:
    """Ranks that share this machine's memory and cores. DeepSpeed's launcher has another name for their number."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or 1)
