"""The optimizer's state by parameter: read whole, and set, however it is sharded.

A *moment* is a tensor of the optimizer with the shape of its parameter: `exp_avg` and `exp_avg_sq` of AdamW,
`momentum_buffer` of Muon. Without sharding it lies in the optimizer under its parameter. With ZeRO it lies in flat
partitions, one for each parameter group, of which this rank holds a piece.

`_partitions` and `_link` touch private names of DeepSpeed 0.19; the tests of resumption guard them. This module is
given DeepSpeed's functions and does not import it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch

from trainer.rundir import CheckpointError
from trainer.topology import Axis

ADAMW, MUON = ("exp_avg", "exp_avg_sq"), ("momentum_buffer",)


class Moments(Protocol):
    """How one kind of sharding reads and sets moments. Both methods are collective over the data ranks."""

    def read(self, parameter: torch.nn.Parameter, key: str) -> torch.Tensor: ...

    def create(self, step: int, keys: Mapping[torch.nn.Parameter, tuple[str, ...]]) -> None:
        """State for every parameter as after `step` steps, all moments 0; none may exist yet."""

    def write(self, parameter: torch.nn.Parameter, key: str, value: torch.Tensor) -> None: ...


def moment_keys(optimizer: torch.optim.Optimizer) -> dict[torch.nn.Parameter, tuple[str, ...]]:
    """Which moments each parameter has; asked before DeepSpeed replaces the parameters by partitions."""
    return {p: MUON if group.get("muon") else ADAMW for group in optimizer.param_groups for p in group["params"]}


def _fresh(like: torch.Tensor, step: int, keys: tuple[str, ...]) -> dict[str, torch.Tensor]:
    state = {key: torch.zeros_like(like) for key in keys}
    if keys == ADAMW:
        state["step"] = torch.tensor(float(step), device=like.device)
    return state


class Unsharded:
    """Every rank holds all moments of its parameters."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer

    def read(self, parameter: torch.nn.Parameter, key: str) -> torch.Tensor:
        return self._optimizer.state[parameter][key]

    def create(self, step: int, keys: Mapping[torch.nn.Parameter, tuple[str, ...]]) -> None:
        for parameter, names in keys.items():
            self._optimizer.state[parameter] = _fresh(parameter.detach(), step, names)

    def write(self, parameter: torch.nn.Parameter, key: str, value: torch.Tensor) -> None:
        self._optimizer.state[parameter][key].copy_(value)


class Sharded:
    """ZeRO 1 to 3 under AdamW. `sharded` is DeepSpeed's optimizer; `read_whole` and the two `set_` are its utilities.

    ZeRO 3 sets a rank's own piece, cut here: DeepSpeed's setter of whole tensors fails where the ranks do not divide
    the number of elements.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, sharded: Any, data: Axis,
        read_whole: Callable[..., torch.Tensor], set_whole: Callable[..., None], set_piece: Callable[..., None],
    ) -> None:  # fmt: skip
        self._optimizer, self._sharded, self._data = optimizer, sharded, data
        self._read_whole, self._set_whole, self._set_piece = read_whole, set_whole, set_piece

    def read(self, parameter: torch.nn.Parameter, key: str) -> torch.Tensor:
        self._link(force=False)
        return self._read_whole(parameter, key)

    def create(self, step: int, keys: Mapping[torch.nn.Parameter, tuple[str, ...]]) -> None:
        for partition in self._partitions():
            self._optimizer.state[partition] = _fresh(partition.detach(), step, ADAMW)
        self._link(force=True)

    def write(self, parameter: torch.nn.Parameter, key: str, value: torch.Tensor) -> None:
        if not hasattr(parameter, "ds_tensor"):  # ZeRO 1 and 2
            self._set_whole(parameter, value, key)
            return
        size = parameter.ds_tensor.numel()
        piece = torch.zeros(size, dtype=value.dtype, device=value.device)
        mine = value.flatten()[size * self._data.index : size * (self._data.index + 1)]
        piece[: len(mine)] = mine
        self._set_piece(parameter, piece, key)

    def _partitions(self) -> list[torch.Tensor]:
        """This rank's flat fp32 partitions, the keys of the optimizer's state: ZeRO 1 and 2, then ZeRO 3."""
        for name in ("single_partition_of_fp32_groups", "fp32_partitioned_groups_flat"):
            if hasattr(self._sharded, name):
                return list(getattr(self._sharded, name))
        raise CheckpointError(
            f"{type(self._sharded).__name__} of this DeepSpeed has no flat fp32 partitions by a known name: resume "
            "with zero_stage 0, or install DeepSpeed 0.19"
        )

    def _link(self, force: bool) -> None:
        """Let every parameter find its moments in the flat partitions (ZeRO 1 and 2; ZeRO 3 looks them up itself).

        DeepSpeed links all parameter groups after the step of the first group, when the moments of the others do
        not exist yet, and never again.
        """
        linked = getattr(self, "_linked", False)
        if hasattr(self._sharded, "_lazy_init_hp_params_optimizer_state") and (force or not linked):
            self._sharded._hp_optimizer_states_linked = False
            self._sharded._lazy_init_hp_params_optimizer_state()
            self._linked = True
