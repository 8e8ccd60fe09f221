"""Linear layers, whole or cut over tensor-parallel ranks (Shoeybi et al. 2019, Megatron-LM).

A column linear holds a slice of the outputs and a row linear a slice of the inputs, so a column pair followed by a
row linear needs one sum over the ranks forward (`leave`) and one backward (`enter`). `enter` is applied once to what
several column linears read. Everything outside such a pair is the same on all ranks of the group. The cost of the
simple form: the two sums of a block wait for each other, nothing overlaps them.

Each cut parameter carries `tp_dim` (the dimension that is cut) and `model_parallel = True`, by which DeepSpeed counts
it once for each rank in the norm of the gradient, and any other parameter once for the group.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn


@dataclass(frozen=True)
class TensorParallel:
    """The ranks that share each matrix: their process group, this rank's place in it, and how many they are."""

    group: Any
    rank: int
    size: int

    def enter(self, x: torch.Tensor) -> torch.Tensor:
        """`x` itself; its gradient is summed over the group."""
        return _Enter.apply(x, self.group)

    def leave(self, x: torch.Tensor) -> torch.Tensor:
        """`x` summed over the group; its gradient passes as it is."""
        return _Leave.apply(x, self.group)

    def share(self, whole: torch.Tensor, dim: int) -> torch.Tensor:
        """This rank's slice of a whole tensor."""
        return whole.chunk(self.size, dim)[self.rank]


class _Enter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: Any) -> torch.Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        total = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=ctx.group)
        return total, None


class _Leave(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: Any) -> torch.Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grads[0], None


class Linear(nn.Linear):
    """nn.Linear whose weights are left to `model.initialise`: nothing is drawn twice, and construction is quick."""

    def reset_parameters(self) -> None:
        pass


def _cut(parameter: torch.Tensor | None, dim: int) -> None:
    if parameter is not None:
        parameter.tp_dim, parameter.model_parallel = dim, True  # type: ignore[attr-defined]


class ColumnLinear(Linear):
    """This rank's outputs of a linear layer, bias included; give it `parallel.enter(x)`."""

    def __init__(self, inputs: int, outputs: int, bias: bool, parallel: TensorParallel | None = None) -> None:
        super().__init__(inputs, outputs // (parallel.size if parallel else 1), bias=bias)
        if parallel:
            _cut(self.weight, 0)
            _cut(self.bias, 0)


class RowLinear(Linear):
    """A linear layer over this rank's inputs, summed over the ranks; the bias is whole, and added once."""

    def __init__(self, inputs: int, outputs: int, bias: bool, parallel: TensorParallel | None = None) -> None:
        super().__init__(inputs // (parallel.size if parallel else 1), outputs, bias=bias)
        self.parallel = parallel
        if parallel:
            _cut(self.weight, 1)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if self.parallel is None:
            return super().forward(input)
        y = self.parallel.leave(nn.functional.linear(input, self.weight))
        return y if self.bias is None else y + self.bias.to(y.dtype)
