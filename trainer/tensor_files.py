"""Folders of safetensors, one file or shards with an index: opened without reading a tensor, read one at a time.

Names, sizes and types come from the headers, which `safetensors` checks against the length of the file, so a
folder is compared with the expected model before anything is allocated. Pickled weights are never opened: loading
a pickle runs its code. The cost of writing is one shard in memory, 4 GB at most.

Shards are laid out as Hugging Face does: `model-00001-of-00003.safetensors` and `model.safetensors.index.json`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from trainer.rundir import CheckpointError, sync

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD_BYTES = 4_000_000_000
MAX_INDEX_BYTES = 64 << 20
FLOATS = ("F32", "BF16", "F16")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True)
class Entry:
    file: Path
    shape: tuple[int, ...]
    dtype: str  # safetensors' name: F32, BF16, F16, ...


def read_json(path: Path, most: int = MAX_INDEX_BYTES) -> dict[str, Any]:
    """A JSON object from a file of at most `most` bytes; CheckpointError otherwise."""
    try:
        if path.stat().st_size > most:
            raise CheckpointError(f"{path}: expected at most {most:,} bytes of JSON, found {path.stat().st_size:,}")
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: expected JSON, found {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found a {type(value).__name__}")
    return value


def _weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights: those of the index, or the single one. Names never lead out of the folder."""
    if (folder / INDEX).exists():
        named = read_json(folder / INDEX).get("weight_map")
        if not isinstance(named, dict) or not named:
            raise CheckpointError(f"{folder / INDEX}: expected a weight_map from tensor to file, found {named!r}")
        names = sorted({str(name) for name in named.values()})
        for name in names:
            if Path(name).name != name or not name.endswith(".safetensors"):
                raise CheckpointError(
                    f"{folder / INDEX}: expected names of .safetensors files beside it, found {name!r}"
                )
        return [folder / name for name in names]
    if (folder / WEIGHTS).exists():
        return [folder / WEIGHTS]
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    hint = (
        f"; {pickles[0]} is a pickle, which is not opened since loading it runs its code: save the model again with "
        "transformers' save_pretrained(safe_serialization=True)"
        if pickles
        else ""
    )
    raise CheckpointError(f"{folder}: expected {WEIGHTS} or {INDEX}, found neither{hint}")


def scan(folder: Path) -> dict[str, Entry]:
    """Every tensor of a folder by name, from the headers alone."""
    entries: dict[str, Entry] = {}
    for file in _weight_files(folder):
        try:
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118
                    view = tensors.get_slice(name)
                    if name in entries:
                        raise CheckpointError(f"{file}: {name} is also in {entries[name].file.name}")
                    entries[name] = Entry(file, tuple(view.get_shape()), str(view.get_dtype()))
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{file}: cannot be read as safetensors: {error}") from None
    return entries


def check(entries: dict[str, Entry], shapes: dict[str, tuple[int, ...]], where: str) -> None:
    """CheckpointError unless the tensors are exactly those of `shapes`, in a floating-point type."""
    for name, shape in shapes.items():
        if name not in entries:
            raise CheckpointError(
                f"{where}: expected the tensor {name} {list(shape)} that config.json implies, found none"
            )
        if entries[name].shape != shape:
            found = list(entries[name].shape)
            raise CheckpointError(f"{where}: {name}: config.json implies {list(shape)}, found {found}")
        if entries[name].dtype not in FLOATS:
            raise CheckpointError(f"{where}: {name}: expected one of {', '.join(FLOATS)}, found {entries[name].dtype}")
    spare = sorted(entries.keys() - shapes.keys())
    if spare:
        raise CheckpointError(f"{where}: {len(spare)} tensors that config.json does not imply, the first is {spare[0]}")


def read(entry: Entry, name: str) -> torch.Tensor:
    """One tensor, fp32 on the CPU; CheckpointError if it holds NaN or infinity."""
    with safe_open(entry.file, framework="pt") as tensors:
        tensor = tensors.get_tensor(name).float()
    if not bool(torch.isfinite(tensor).all()):
        raise CheckpointError(f"{entry.file}: {name} holds values that are not finite")
    return tensor


def _shards(entries: dict[str, Entry], width: int, shard_bytes: int) -> Iterator[tuple[list[str], int]]:
    """Names in order, cut where a shard would exceed `shard_bytes`, with the bytes of each."""
    names: list[str] = []
    total = 0
    for name, entry in entries.items():
        size = width * torch.Size(entry.shape).numel()
        if names and total + size > shard_bytes:
            yield names, total
            names, total = [], 0
        names.append(name)
        total += size
    yield names, total


def copy(entries: dict[str, Entry], folder: Path, dtype: torch.dtype, shard_bytes: int = SHARD_BYTES) -> int:
    """Write the tensors to `folder` as `dtype`, one file or shards with an index; the number of bytes."""
    shards = list(_shards(entries, dtype.itemsize, shard_bytes))
    total = sum(size for _, size in shards)
    weight_map: dict[str, str] = {}
    for number, (names, _) in enumerate(shards, 1):
        file = WEIGHTS if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file({name: read(entries[name], name).to(dtype) for name in names}, folder / file, {"format": "pt"})
        weight_map |= dict.fromkeys(names, file)
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=1) + "\n")
    return total


@contextlib.contextmanager
def published(out: Path, force: bool) -> Iterator[Path]:
    """A folder to fill, which becomes `out` by one rename when the block ends well; else nothing is left.

    An `out` that exists is refused, or with `force` replaced.
    """
    if out.exists() and not force:
        raise CheckpointError(f"{out}: exists already: name another folder, or replace it with --force")
    if out.exists() and not out.is_dir():
        raise CheckpointError(f"{out}: expected a folder to replace, found a file")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f"{out.name}.{os.getpid()}.partial")
    replaced = out.with_name(f"{out.name}.{os.getpid()}.replaced")
    try:
        partial.mkdir()
        yield partial
        for file in partial.iterdir():
            file.chmod(partial.stat().st_mode & 0o666)  # safetensors leaves its files closed to everyone else
            sync(file)
        sync(partial)
        if out.exists():
            out.rename(replaced)
        partial.rename(out)
        sync(out.parent)
    finally:
        for left in (partial, replaced):
            if left.exists():
                shutil.rmtree(left)
