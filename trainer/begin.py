"""Before the first step: where the training goes on, and whether the machine can hold it.

The checks of a run directory need no torch, so that a finished run is recognised in a fraction of a second; torch is
loaded for the start-up table only.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from trainer.config import TrainConfig
from trainer.resume import Resume, find
from trainer.rundir import (
    CHECKPOINTS,
    ITEMS,
    LOGS,
    RESTART,
    SETTINGS,
    Events,
    latest,
    publish_text,
    remove_later,
    set_aside,
    truncate_rows,
)
from trainer.tokens import TokenIndex


def finished(run: Path, config: TrainConfig, fingerprint: str) -> bool:
    """Whether the run directory holds the last checkpoint of exactly this training."""
    found = find(run, config)
    return bool(found and not found.quick and found.state.get("fingerprint") == fingerprint
                and found.step == config.total_steps)  # fmt: skip


def prepare(run: Path, config: TrainConfig, fingerprint: str, events: Events) -> Resume | None:
    """Bring the run directory to where the training goes on; the checkpoint to go on from, None to begin.

    Checkpoints and logs of another training are set aside, rows and item scores after the checkpoint are removed. A
    restart that is not gone on from is removed too, since it vouches for such rows.
    """
    lying = latest(run / CHECKPOINTS) or latest(run / RESTART)
    if lying and (theirs := str(lying[1].get("fingerprint"))) != fingerprint:
        moved = set_aside(run, theirs)
        events.emit("restart", reason="the configuration, the tokens or the probes changed", moved_to=str(moved))
    found = find(run, config)
    if not (found and found.quick) and (run / RESTART).exists():
        shutil.rmtree(run / RESTART)
    step = found.step if found else -1
    for name in LOGS:
        truncate_rows(run / name, step)
    for name in ITEMS:
        remove_later(run / name, step)
    publish_text(run / SETTINGS, config.model_dump_json(indent=1) + "\n")
    return found


def start_table(config: TrainConfig, index: TokenIndex, vocab: int, events: Events | None, local_ranks: int) -> None:
    """Emit the start-up table; TrainingError when this machine's memory does not suffice for `local_ranks` ranks.

    `vocab` is the number of rows of the embedding.
    """
    import torch

    from trainer import estimate, hardware
    from trainer.policy import autocast_dtype

    cuda, dtype = torch.cuda.is_available(), autocast_dtype(config)
    need = estimate.memory(config, vocab, dtype is not None, cuda)
    host = hardware.available_host_memory()
    device = hardware.available_memory() if cuda else host + local_ranks * hardware.used_memory()
    if events:
        peak = hardware.peak(dtype or torch.float32)
        room = device if cuda else device // local_ranks
        rows = estimate.table(config, index, vocab, need, peak, room, cuda, dtype is not None)
        events.emit("estimate", rows=rows, memory_bytes=need.total, hours=estimate.hours(config, vocab, peak, cuda))
    estimate.check(config, need, device, host, local_ranks, cuda)
