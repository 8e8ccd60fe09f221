"""Where the numbers of a run go: `train.jsonl` and `probes.jsonl` always, TensorBoard and Weights & Biases by choice.

The JSON lines are the record: rows after the last checkpoint are cut off when a run resumes, and written again. The
services get the same rows under the same names; they cannot forget, so after a resumption they may show a few
steps twice. Both packages are optional and are looked for before the first step.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from pathlib import Path
from typing import IO, Any

from trainer.config import TrainConfig
from trainer.rundir import TrainingError

TRAIN, PROBES = "train.jsonl", "probes.jsonl"


def _need(package: str, field: str, name: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise TrainingError(
            f"train.{field}: expected the package {name}, found none ({error}): pip install {name}, or switch it off"
        ) from None


class Logs:
    """The logs of the rank that writes them."""

    def __init__(self, run: Path, config: TrainConfig, fingerprint: str) -> None:
        self._services: list[_TensorBoard | _Wandb] = []
        if config.tensorboard:
            self._services.append(_TensorBoard(run))
        if config.wandb:
            self._services.append(_Wandb(run, config, fingerprint))
        self._files: dict[str, IO[str]] = {name: (run / name).open("a") for name in (TRAIN, PROBES)}

    def write(self, name: str, rows: list[dict[str, Any]]) -> None:
        """Append rows with a `step` each; probe rows also have a `task`, which goes before the names of numbers."""
        self._files[name].write("".join(json.dumps(row) + "\n" for row in rows))
        self._files[name].flush()
        for service in self._services:
            for row in rows:
                service.write(row["step"], _numbers(row, "train" if name == TRAIN else f"probe/{row['task']}"))

    def sync(self) -> None:
        """Force the rows to the disk, before a checkpoint vouches for them."""
        for file in self._files.values():
            os.fsync(file.fileno())

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        for service in self._services:
            service.close()


def _numbers(row: dict[str, Any], prefix: str) -> dict[str, float]:
    """Every number of a row by its path: `train/loss`, `train/validation/web/bits_per_byte`."""
    flat: dict[str, float] = {}
    for key, value in row.items():
        if isinstance(value, dict):
            flat |= _numbers(value, f"{prefix}/{key}")
        elif isinstance(value, int | float) and key != "step":
            flat[f"{prefix}/{key}"] = value
    return flat


class _TensorBoard:
    def __init__(self, run: Path) -> None:
        _need("tensorboard", "tensorboard", "tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(run / "tensorboard")

    def write(self, step: int, numbers: dict[str, float]) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    """One W&B run for one training: its id comes from the folder and the fingerprint, so a resumption continues it."""

    def __init__(self, run: Path, config: TrainConfig, fingerprint: str) -> None:
        wandb = _need("wandb", "wandb", "wandb")
        name = hashlib.sha256(f"{run}\0{fingerprint}".encode()).hexdigest()[:16]
        try:
            self._run = wandb.init(project=config.wandb, id=name, name=run.name, dir=str(run), resume="allow",
                                   config=config.model_dump(mode="json"))  # fmt: skip
        except Exception as error:
            raise TrainingError(
                f"train.wandb: cannot start a run of project {config.wandb!r} ({error}): log in with `wandb login`, "
                "or set WANDB_MODE=offline"
            ) from None

    def write(self, step: int, numbers: dict[str, float]) -> None:
        self._run.log(numbers, step=step)

    def close(self) -> None:
        self._run.finish()
