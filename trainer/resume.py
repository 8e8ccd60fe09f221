"""Where a training goes on: the newest checkpoint that this configuration can use. Needs no torch.

Two kinds exist. A *portable* checkpoint (`checkpoints/step-N`, see `trainer.checkpoint`) restores at any number of
ranks and in any mode. A *restart* (`restart/step-N`) is DeepSpeed's own, quick to write and to read, and of use only
to the same layout of ranks and the same versions; it is taken where it is newer than the portable one. It is read
with pickle, by DeepSpeed: only ever the run's own, from its own run directory.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from trainer.config import TrainConfig
from trainer.rundir import CHECKPOINTS, RESTART, CheckpointError, latest

RESTART_FORMAT = "tamis-restart/1"


@dataclass(frozen=True)
class Resume:
    """A complete checkpoint: its folder, its `state.json`, and whether it is a restart."""

    path: Path
    state: dict[str, Any]
    quick: bool

    @property
    def step(self) -> int:
        return int(self.state["step"])


def layout(config: TrainConfig) -> dict[str, Any]:
    """What must be the same for a restart to be of use."""
    return {
        "ranks": config.ranks,
        "pipeline": config.pipeline,
        "tensor": config.tensor,
        "zero_stage": config.zero_stage,
        "offload": config.offload,
        "accumulation": config.accumulation,
        "precision": config.precision,
        "torch": version("torch"),
        "deepspeed": version("deepspeed"),
    }


def verify(path: Path, state: dict[str, Any]) -> None:
    """CheckpointError unless every file that `state` lists is there with its size."""
    for name, size in state.get("files", {}).items():
        file = path / name
        found = file.stat().st_size if file.is_file() else None
        if found != size:
            seen = "it is missing" if found is None else f"found {found:,}"
            raise CheckpointError(
                f"{file}: expected {size:,} bytes, {seen}: the checkpoint was damaged after it was written: put the "
                f"name of another complete step-* folder into {path.parent / 'latest'}, or remove {path.parent}"
            )


def find(run: Path, config: TrainConfig) -> Resume | None:
    """The checkpoint to go on from, or None. CheckpointError where the one that `latest` names is damaged."""
    found = latest(run / CHECKPOINTS)
    portable = Resume(*found, quick=False) if found else None
    found = latest(run / RESTART)
    if found and found[1].get("layout") == layout(config):
        restart = Resume(*found, quick=True)
        same = portable is None or portable.state.get("fingerprint") == restart.state.get("fingerprint")
        if same and (portable is None or restart.step > portable.step):
            verify(restart.path, restart.state)
            return restart
    if portable:
        verify(portable.path, portable.state)
    return portable
