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

LATEST = "latest"
MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"
MOMENTS = ("exp_avg", "exp_avg_sq")


class CheckpointError(Exception):
    """A checkpoint that cannot be used; the message says where, what was found and what to do."""


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def publish_text(path: Path, text: str) -> None:
    """Replace a small file: write beside it, fsync, rename."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with partial.open("w") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    partial.replace(path)
    _sync(path.parent)


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
        _sync(file)
    _sync(partial)
    if final.exists():
        shutil.rmtree(final)
    partial.rename(final)
    _sync(folder)
    publish_text(folder / LATEST, final.name + "\n")
    _prune(folder, final, keep_last)
    return final


def _prune(folder: Path, newest: Path, keep_last: int) -> None:
    found = {path: int(path.name[5:]) for path in folder.glob("step-*") if path.name[5:].isdigit()}
    older = sorted((path for path in found if path != newest), key=found.__getitem__)
    for path in older[: max(0, len(older) + 1 - keep_last)]:
        shutil.rmtree(path)


def latest(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest complete checkpoint and its state, or None. Raises CheckpointError if `latest` points nowhere."""
    marker = folder / LATEST
    if not marker.exists():
        return None
    path = folder / marker.read_text().strip()
    try:
        return path, json.loads((path / STATE).read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{marker}: names {path.name}, which cannot be read ({error}): put the name of a complete step-* folder "
            f"into it, or remove {folder} to start again"
        ) from None


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


def set_aside(run: Path, fingerprint: str) -> Path:
    """Move checkpoints and logs of another configuration to `checkpoints-<fingerprint>`; an older one is replaced."""
    target = run / f"checkpoints-{fingerprint[:8]}"
    if target.exists():
        shutil.rmtree(target)
    (run / "checkpoints").rename(target)
    for name in ("train.jsonl", "probes.jsonl"):
        if (run / name).exists():
            (run / name).rename(target / name)
    return target


def truncate_rows(path: Path, step: int) -> None:
    """Keep the rows of a JSONL log up to `step`, so that no step appears twice after a resumption.

    A last line that a killed process left half-written is dropped with them.
    """
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            break
        if row["step"] > step:
            break
        kept.append(line + "\n")
    publish_text(path, "".join(kept))
