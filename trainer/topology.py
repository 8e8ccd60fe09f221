"""How the ranks are arranged: pipeline stages x data ranks x tensor ranks, and the process groups along each axis.

Tensor ranks are neighbours, since they speak most often; then data ranks; pipeline stages lie farthest apart. The
order is that of DeepSpeed's `PipeModelDataParallelTopology`, so both sides agree on every coordinate. Cost: a few
process groups that DeepSpeed makes for itself as well.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist

from trainer.shape import ModelConfig


@dataclass(frozen=True)
class Axis:
    """The ranks that differ from this one in a single coordinate. `group` is None for a lone rank."""

    ranks: tuple[int, ...]
    index: int
    group: dist.ProcessGroup | None

    @property
    def size(self) -> int:
        return len(self.ranks)

    def sum_(self, value: torch.Tensor) -> torch.Tensor:
        """Sum over the axis, in place."""
        if self.group is not None:
            dist.all_reduce(value, group=self.group)
        return value

    def whole(self, shard: torch.Tensor, dim: int) -> torch.Tensor:
        """The shards of all ranks of the axis, joined along `dim`."""
        if self.group is None:
            return shard
        parts = [torch.empty_like(shard) for _ in self.ranks]
        dist.all_gather(parts, shard.contiguous(), group=self.group)
        return torch.cat(parts, dim)

    def share(self, value: object) -> list:
        """One small Python value of every rank of the axis, in order."""
        values: list = [value] * self.size
        if self.group is not None:
            dist.all_gather_object(values, value, group=self.group)
        return values


def stage_blocks(shape: ModelConfig, vocab_size: int, seq_len: int, stages: int) -> list[int]:
    """Blocks of each pipeline stage, at least one, so that the slowest stage has the least to compute.

    The head counts as what its product costs, so with a large vocabulary the last stage has fewer blocks. The
    embedding costs nothing.
    """
    if stages == 1:
        return [shape.num_layers]
    whole = shape.flops_per_token(vocab_size, seq_len)
    head = 6 * vocab_size * shape.hidden_size
    block = (whole - head) / shape.num_layers

    def slowest(last: int) -> float:
        return max(-(-(shape.num_layers - last) // (stages - 1)), last + head / block)

    last = min(range(1, shape.num_layers - stages + 2), key=slowest)
    each, more = divmod(shape.num_layers - last, stages - 1)
    return [each + (stage < more) for stage in range(stages - 1)] + [last]


class Topology:
    """Coordinates of this rank and its process groups. Collective: all ranks construct it together."""

    def __init__(self, pipeline: int, tensor: int) -> None:
        self.rank, self.ranks = dist.get_rank(), dist.get_world_size()
        if self.ranks % (pipeline * tensor):
            raise ValueError(f"pipeline={pipeline} x tensor={tensor} must divide the {self.ranks} ranks")
        grid = np.arange(self.ranks).reshape(pipeline, -1, tensor)
        self.pipe = self._axis(grid, 0)
        self.data = self._axis(grid, 1)
        self.tensor = self._axis(grid, 2)

    def _axis(self, grid: np.ndarray, dim: int) -> Axis:
        lines = np.moveaxis(grid, dim, -1).reshape(-1, grid.shape[dim]).tolist()
        mine = next(line for line in lines if self.rank in line)
        group = None
        if len(mine) > 1:
            made = [(line, dist.new_group(line)) for line in lines]
            group = next(handle for line, handle in made if line == mine)
        return Axis(tuple(mine), mine.index(self.rank), group)

    @property
    def writes(self) -> bool:
        """Whether this rank writes its stage's share of a checkpoint."""
        return self.data.index == 0 and self.tensor.index == 0


class ModelParallelUnit:
    """The `mpu` through which DeepSpeed learns of tensor ranks where it runs no pipeline."""

    def __init__(self, topology: Topology) -> None:
        self._tensor, self._data = topology.tensor, topology.data
        self._alone = None
        if self._data.group is None:  # DeepSpeed asks for a group even of one rank
            made = [dist.new_group([rank]) for rank in range(topology.ranks)]
            self._alone = made[topology.rank]

    def get_model_parallel_group(self) -> dist.ProcessGroup | None:
        return self._tensor.group

    def get_model_parallel_world_size(self) -> int:
        return self._tensor.size

    def get_model_parallel_rank(self) -> int:
        return self._tensor.index

    def get_data_parallel_group(self) -> dist.ProcessGroup | None:
        return self._data.group or self._alone

    def get_data_parallel_group_ranks(self) -> list[int]:
        return list(self._data.ranks)

    def get_data_parallel_world_size(self) -> int:
        return self._data.size

    def get_data_parallel_rank(self) -> int:
        return self._data.index
