"""Checkpoints: complete or absent, the same files at any number of ranks, readable by `transformers`.

A checkpoint is the folder `step-N` with `model.safetensors` (fp32, Hugging Face names), `config.json`,
`optimizer.safetensors` (`exp_avg.<name>`, `exp_avg_sq.<name>`) and `state.json`. It is written under another
name, synced and renamed; then the file `latest` is replaced the same way. Only what `latest` names is believed.
No random state is stored: training draws no random numbers, the data order is a function of `samples`.

The cost of one file for all ranks: rank 0 holds the fp32 parameters and both moments in memory while it writes.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from trainer.rundir import LATEST, STATE, CheckpointError, publish_text, sync

MODEL, OPTIMIZER = "model.safetensors", "optimizer.safetensors"
MOMENTS = ("exp_avg", "exp_avg_sq")


def save(
    folder: Path,
    step: int,
    tensors: dict[str, dict[str, torch.Tensor]],
    state: dict[str, Any],
    hf_config: dict[str, Any],
    keep_last: int,
) -> Path:
    """Write `step-<step>`, point `latest` at it, remove all but the newest `keep_last`.

    `tensors` holds the groups `model`, `exp_avg` and `exp_avg_sq`, each by canonical name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("*.partial"):
        shutil.rmtree(stale) if stale.is_dir() else stale.unlink()
    final = folder / f"step-{step}"
    partial = folder / f"step-{step}.{os.getpid()}.partial"
    partial.mkdir()
    save_file(tensors["model"], partial / MODEL, metadata={"format": "pt"})
    save_file({f"{key}.{name}": t for key in MOMENTS for name, t in tensors[key].items()}, partial / OPTIMIZER)
    (partial / "config.json").write_text(json.dumps(hf_config, indent=1) + "\n")
    (partial / STATE).write_text(json.dumps(state, indent=1, sort_keys=True) + "\n")
    for file in partial.iterdir():
        sync(file)
    sync(partial)
    if final.exists():
        shutil.rmtree(final)
    partial.rename(final)
    sync(folder)
    publish_text(folder / LATEST, final.name + "\n")
    _prune(folder, final, keep_last)
    return final


def _prune(folder: Path, newest: Path, keep_last: int) -> None:
    found = {path: int(path.name[5:]) for path in folder.glob("step-*") if path.name[5:].isdigit()}
    older = sorted((path for path in found if path != newest), key=found.__getitem__)
    for path in older[: max(0, len(older) + 1 - keep_last)]:
        shutil.rmtree(path)


def load(path: Path) -> dict[str, dict[str, torch.Tensor]]:
    """The groups `model`, `exp_avg`, `exp_avg_sq`: fp32 CPU tensors by canonical name."""
    try:
        moments = load_file(path / OPTIMIZER)
        groups = {"model": load_file(path / MODEL)}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot read the tensors: {error}") from None
    for key in MOMENTS:
        groups[key] = {name[len(key) + 1 :]: t for name, t in moments.items() if name.startswith(key + ".")}
    return groups
