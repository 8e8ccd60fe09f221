"""Portable checkpoints: complete or absent, the same tensors in any mode, the weights readable by `transformers`.

A checkpoint is the folder `step-N`: the weights (fp32, Hugging Face names) as `model.safetensors`, or from 4 GB on as
shards with an index; each moment of the optimizer the same way in a folder of its own (`exp_avg/`, `exp_avg_sq/`);
`state.json`, which lists every file with its size; and what the caller adds (`config.json`, the tokenizer). It is
written under another name, synced and renamed; then the file `latest` is replaced the same way. Only what `latest`
names is believed. No random state is stored: training draws no random numbers, and the data order is a function of
the step.

Tensors pass through one at a time, and each pipeline stage writes its own shards, so the memory it takes is that of
the largest tensor. The cost: the data ranks gather every moment once, and the stages must share a file system.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from trainer.rundir import LATEST, STATE, CheckpointError, publish_text, sync
from trainer.stream import WIDTH, TensorWriter
from trainer.tensor_files import INDEX, SHARD_BYTES, WEIGHTS, Entry, scan
from trainer.topology import Topology

FORMAT = "tamis-checkpoint/1"
WEIGHT_GROUP = "model"
Shapes = Mapping[str, tuple[int, ...]]


class Source(Protocol):
    """What has tensors to save: an engine."""

    topology: Topology

    def shapes(self, group: str) -> dict[str, tuple[int, ...]]:
        """Names and whole shapes of this stage's tensors, in the order of `tensors`. Groups: `model`, the moments."""

    def tensors(self, group: str) -> Iterator[torch.Tensor]:
        """The whole tensors, one at a time; collective over the ranks of the stage."""

    def groups(self) -> list[str]: ...

    def barrier(self) -> None: ...


def save(
    source: Source, folder: Path, state: dict[str, Any], files: Mapping[str, str], keep_last: int,
    shard_bytes: int = SHARD_BYTES,
) -> Path:  # fmt: skip
    """Write `step-<state["step"]>`, point `latest` at it, remove all but the newest `keep_last`. Collective.

    `state` goes to `state.json`; `files` are further text files by name, such as `config.json`.
    """
    groups = source.groups()
    first = source.topology.rank == 0

    def write(partial: Path) -> None:
        if first:
            for name, text in files.items():
                (partial / name).write_text(text)
            for group in groups:
                _place(partial, group).mkdir(exist_ok=True)
        source.barrier()
        for group in groups:
            _save_group(source, partial, group, shard_bytes)

    return save_folder(source, folder, {"format": FORMAT, **state}, write, keep_last)


def save_folder(
    source: Source, folder: Path, state: dict[str, Any], write: Callable[[Path], None], keep_last: int = 1
) -> Path:
    """Let all ranks `write` into a new folder, and publish it as `step-<state["step"]>`. Collective."""
    first = source.topology.rank == 0
    final = folder / f"step-{state['step']}"
    partial = final.with_name(f"{final.name}.partial")
    if first:
        folder.mkdir(parents=True, exist_ok=True)
        for stale in folder.glob("*.partial"):
            shutil.rmtree(stale) if stale.is_dir() else stale.unlink()
        partial.mkdir()
    source.barrier()
    try:
        write(partial)
        source.barrier()
        if first:
            publish(partial, final, state)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)  # room for the error's own line in the log
        raise CheckpointError(
            f"{final}: cannot be written: {error.strerror}: make room on the disk, and the same command goes on from "
            "the checkpoint before, which is unharmed"
        ) from error
    if first:
        prune(folder, final, keep_last)
    source.barrier()
    return final


def publish(partial: Path, final: Path, state: dict[str, Any]) -> None:
    """Make a finished folder the newest checkpoint: list its files in `state.json`, sync, rename, replace `latest`."""
    found = sorted(path for path in partial.rglob("*") if path.is_file())
    listed = {str(path.relative_to(partial)): path.stat().st_size for path in found}
    (partial / STATE).write_text(json.dumps({**state, "files": listed}, indent=1, sort_keys=True) + "\n")
    for path in [*partial.rglob("*"), partial]:
        sync(path)
    if final.exists():
        shutil.rmtree(final)
    partial.rename(final)
    sync(final.parent)
    publish_text(final.parent / LATEST, final.name + "\n")


def prune(folder: Path, newest: Path, keep_last: int) -> None:
    """Remove all but the newest `keep_last` checkpoints of a folder; `newest` stays whatever its number."""
    found = {path: int(path.name[5:]) for path in folder.glob("step-*") if path.name[5:].isdigit()}
    older = sorted((path for path in found if path != newest), key=found.__getitem__)
    for path in older[: max(0, len(older) + 1 - keep_last)]:
        shutil.rmtree(path)


def _place(folder: Path, group: str) -> Path:
    return folder if group == WEIGHT_GROUP else folder / group


def _plan(stages: list[Shapes], shard_bytes: int) -> list[tuple[int, dict[str, tuple[int, ...]]]]:
    """Files in order: the stage that writes it, and its tensors. A file never mixes stages."""
    files: list[tuple[int, dict[str, tuple[int, ...]]]] = []
    for stage, shapes in enumerate(stages):
        room = 0
        for name, shape in shapes.items():
            size = WIDTH * math.prod(shape)
            if not files or files[-1][0] != stage or size > room:
                files.append((stage, {}))
                room = shard_bytes
            files[-1][1][name] = shape
            room -= size
    return files


def _save_group(source: Source, partial: Path, group: str, shard_bytes: int) -> None:
    topology, place = source.topology, _place(partial, group)
    files = _plan(topology.pipe.share(source.shapes(group)), shard_bytes)
    names = [f"model-{n:05d}-of-{len(files):05d}.safetensors" for n in range(1, len(files) + 1)]
    if len(files) == 1:
        names = [WEIGHTS]
    tensors = source.tensors(group)
    for (stage, shapes), name in zip(files, names, strict=True):
        if stage != topology.pipe.index:
            continue
        with contextlib.ExitStack() as stack:
            out = stack.enter_context(TensorWriter(place / name, shapes)) if topology.writes else None
            for tensor_name in shapes:
                tensor = next(tensors)
                if out:
                    out.write(tensor_name, tensor)
    if topology.rank == 0 and len(files) > 1:
        total = sum(WIDTH * math.prod(shape) for _, shapes in files for shape in shapes.values())
        where = {tensor: name for (_, shapes), name in zip(files, names, strict=True) for tensor in shapes}
        index = {"metadata": {"total_size": total}, "weight_map": where}
        (place / INDEX).write_text(json.dumps(index, indent=1) + "\n")


def entries_for(folder: Path, group: str, shapes: Shapes, partial: bool = False) -> dict[str, Entry]:
    """Where each tensor of `shapes` lies in a checkpoint, or in any folder of Hugging Face safetensors.

    CheckpointError names the first tensor that is missing, has another shape, or, unless `shapes` are only a part of
    the model (`partial`), is none of them.
    """
    place = _place(folder, group)
    found = scan(place)
    other = "this is a checkpoint of another model, or of another vocabulary"
    for name, shape in shapes.items():
        if name not in found:
            raise CheckpointError(f"{place}: expected {name} {list(shape)}, found no such tensor: {other}")
        if found[name].shape != shape:
            raise CheckpointError(
                f"{place}: {name}: expected {list(shape)}, found {list(found[name].shape)}: {other}: give the model "
                "that the checkpoint was made with"
            )
    spare = sorted(found.keys() - shapes.keys())
    if spare and not partial:
        raise CheckpointError(f"{place}: {spare[0]} is not a tensor of the model: {other}")
    return found
