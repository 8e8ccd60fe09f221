"""The tensors of one rank's part of a model by canonical name: weights and moments, loaded from files and saved whole.

The same for every mode: a pipeline stage holds some of the names, a tensor rank a slice of each cut matrix, a ZeRO
rank a piece of each moment (see `trainer.moments`). Tensors pass through one at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from trainer.checkpoint import WEIGHT_GROUP, entries_for
from trainer.moments import Moments
from trainer.rundir import CheckpointError
from trainer.tensor_files import read
from trainer.topology import Axis, Topology


def _slice(whole: torch.Tensor, parameter: nn.Parameter, tensor: Axis) -> torch.Tensor:
    """This tensor rank's part of a whole tensor."""
    dim = getattr(parameter, "tp_dim", None)
    return whole if dim is None or tensor.size == 1 else whole.chunk(tensor.size, dim)[tensor.index]


@torch.no_grad()
def load_weights(
    path: Path, parameters: Mapping[str, nn.Parameter], shapes: Mapping[str, tuple[int, ...]], tensor: Axis
) -> None:
    """Fill parameters from a folder of safetensors; before DeepSpeed takes the model, which copies from it.

    `shapes` are those of the whole model. CheckpointError names the first tensor that does not fit.
    """
    entries = entries_for(path, WEIGHT_GROUP, shapes)
    for name, parameter in parameters.items():
        parameter.copy_(_slice(read(entries[name], name), parameter, tensor))


class ModelState:
    """A source for `trainer.checkpoint.save`."""

    def __init__(
        self, topology: Topology, parameters: Mapping[str, nn.Parameter], saved: Sequence[str],
        shapes: Mapping[str, tuple[int, ...]], keys: Mapping[nn.Parameter, tuple[str, ...]], moments: Moments,
        read_weight: Callable[[nn.Parameter], torch.Tensor],
    ) -> None:  # fmt: skip
        """`saved` are the names that this stage saves; `keys` the moments of each parameter; `shapes` whole ones."""
        self.topology = topology
        self._parameters, self._saved, self._shapes = parameters, saved, shapes
        self._keys, self._moments, self._read_weight = keys, moments, read_weight

    def groups(self) -> list[str]:
        """`model`, then the moments; the same on every stage."""
        here = {key for keys in self._keys.values() for key in keys}
        return [WEIGHT_GROUP, *sorted(set().union(*self.topology.pipe.share(here)))]

    def _names(self, group: str) -> list[str]:
        return [n for n in self._saved if group == WEIGHT_GROUP or group in self._keys[self._parameters[n]]]

    def shapes(self, group: str) -> dict[str, tuple[int, ...]]:
        return {name: self._shapes[name] for name in self._names(group)}

    def tensors(self, group: str) -> Iterator[torch.Tensor]:
        for name in self._names(group):
            parameter = self._parameters[name]
            weight = group == WEIGHT_GROUP
            part = self._read_weight(parameter) if weight else self._moments.read(parameter, group)
            dim = getattr(parameter, "tp_dim", None)
            yield part if dim is None else self.topology.tensor.whole(part.detach(), dim)

    def barrier(self) -> None:
        dist.barrier()

    @torch.no_grad()
    def restore_moments(self, path: Path, step: int) -> None:
        """Fill the optimizer's state from a portable checkpoint taken after `step` steps."""
        self._moments.create(step, self._keys)
        for key in sorted({key for keys in self._keys.values() for key in keys}):
            mine = {name: p for name, p in self._parameters.items() if key in self._keys[p]}
            if not (path / key).is_dir():
                raise CheckpointError(
                    f"{path}: expected the folder {key}, a moment of the optimizer, found none: it was written with "
                    "another train.optimizer, or is a model without a training state, which goes to train.init_from"
                )
            entries = entries_for(path, key, {name: self._shapes[name] for name in mine}, partial=True)
            for name, parameter in mine.items():
                value = _slice(read(entries[name], name), parameter, self.topology.tensor)
                self._moments.write(parameter, key, value.to(parameter.device))
