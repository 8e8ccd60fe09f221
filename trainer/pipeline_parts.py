"""A forward pass through the stages of a pipeline, apart from DeepSpeed's schedule.

Evaluation must leave no trace in training: DeepSpeed keeps buffers for one shape of activations, and evaluation has
many. So activations travel here by plain sends and receives within the stages' process group. The rows of a batch are
cut in pieces that follow each other through the stages. The cost: a header of three integers before each activation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
import torch.distributed as dist
from torch import nn

from trainer.model import Travels
from trainer.topology import Axis

Layer: TypeAlias = nn.Module | Callable[[Travels], Travels]
Piece: TypeAlias = tuple[torch.Tensor, torch.Tensor | None]  # ids [rows, T], segments

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def _send(x: torch.Tensor, pipe: Axis) -> list[dist.Work]:
    header = torch.tensor([DTYPES.index(x.dtype), *x.shape[:2]], device=x.device)
    target = pipe.ranks[pipe.index + 1]
    return [w for w in (dist.isend(t, target, pipe.group) for t in (header, x.contiguous())) if w is not None]


def _receive(pipe: Axis, width: int, device: torch.device) -> torch.Tensor:
    header = torch.empty(3, dtype=torch.int64, device=device)
    source = pipe.ranks[pipe.index - 1]
    dist.recv(header, source, pipe.group)
    kind, rows, length = header.tolist()
    x = torch.empty(rows, length, width, dtype=DTYPES[kind], device=device)
    dist.recv(x, source, pipe.group)
    return x


@torch.no_grad()
def evaluate(
    layers: Sequence[Layer], pieces: Sequence[Piece], score: Callable[[torch.Tensor, int], torch.Tensor],
    pipe: Axis, width: int,
) -> torch.Tensor:  # fmt: skip
    """Run `pieces` through all stages; every rank of the pipeline calls it.

    `layers` are this stage's. On the last stage `score` makes fp64 [rows] of the hidden states of a piece and its
    number; all ranks get the scores of all pieces, joined.
    """
    scores: list[torch.Tensor] = []
    sent: list[dist.Work] = []
    kept: list[torch.Tensor] = []  # a send reads its tensor until it is done
    for number, (ids, segments) in enumerate(pieces):
        first = ids if pipe.index == 0 else _receive(pipe, width, ids.device)
        x: Travels = first if segments is None else (first, segments)
        for layer in layers:
            x = layer(x)
        hidden = x[0] if isinstance(x, tuple) else x
        if pipe.index == pipe.size - 1:
            scores.append(score(hidden, number))
        else:
            kept.append(hidden.contiguous())
            sent += _send(kept[-1], pipe)
    for work in sent:
        work.wait()
    rows = sum(len(ids) for ids, _ in pieces)
    device = pieces[0][0].device
    joined = torch.cat(scores) if scores else torch.empty(rows, dtype=torch.float64, device=device)
    dist.broadcast(joined, pipe.ranks[-1], pipe.group)
    return joined
