"""The one module that imports DeepSpeed: builds the engine, steps it, and reads and writes its state by name.

DeepSpeed is given a finished optimizer and an explicit configuration, and compiles nothing. Precision is fp32
parameters, with bf16 autocast where wanted, at every ZeRO stage, so a checkpoint needs no second copy of the
weights. At stage 0 DeepSpeed does not report the norm of the gradient; there the trainer clips by itself and
gives DeepSpeed `gradient_clipping: 0`.

`_flat_partitions` and `_link_moments` touch private names of DeepSpeed 0.19; the tests of resumption guard them.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from trainer.checkpoint import MOMENTS
from trainer.config import TrainConfig
from trainer.guards import refuse
from trainer.model import Llama
from trainer.optim import adamw
from trainer.rundir import CheckpointError

if not torch.cuda.is_available():
    os.environ["DS_ACCELERATOR"] = "cpu"
os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "warning")

import deepspeed
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_optimizer_state,
)

# No operator counts as available, so none is compiled: on a CPU its shared-memory collectives cost 40 s of C++.
deepspeed.ops.__compatible_ops__ = defaultdict(bool)

Tensors = dict[str, torch.Tensor]


def use_bf16(config: TrainConfig) -> bool:
    return config.precision == "bf16" or (config.precision == "auto" and torch.cuda.is_available())


def _merge(base: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in extra.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def deepspeed_config(config: TrainConfig) -> dict[str, Any]:
    """The DeepSpeed configuration of a run. Raises guards.Refused for one that would train something else."""
    refuse(config)
    own = {
        "train_batch_size": config.global_batch,
        "train_micro_batch_size_per_gpu": config.rank_micro_batch,
        "gradient_accumulation_steps": config.global_batch // (config.ranks * config.rank_micro_batch),
        # Unset it would be 1.0. At stage 0 the trainer clips, see Engine.step.
        "gradient_clipping": config.clip if config.zero_stage else 0.0,
        "zero_optimization": {"stage": config.zero_stage},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }
    if use_bf16(config):
        own["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}
    return _merge(own, config.deepspeed)


def start_ranks() -> None:
    """Join the process group that the environment describes (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT)."""
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    deepspeed.init_distributed(dist_backend="nccl" if cuda else "gloo", verbose=False)


def stop_ranks() -> None:
    """Leave the process group; without this some runs abort after they have finished."""
    if dist.is_initialized():
        dist.destroy_process_group()


class Engine:
    """A model under DeepSpeed. Every method is collective: all ranks call it together."""

    def __init__(self, model: Llama, config: TrainConfig, restore: dict[str, Tensors] | None, step: int) -> None:
        """`restore` (the groups of a checkpoint taken after optimizer step `step`) replaces the initial weights."""
        self.config = config
        if restore:
            _copy_weights(model, restore["model"])
        self._optimizer = adamw(model, config)
        self._engine = deepspeed.initialize(model=model, optimizer=self._optimizer, config=deepspeed_config(config))[0]
        self._model: Llama = self._engine.module
        self.rank, self.ranks = dist.get_rank(), dist.get_world_size()
        if self.ranks != config.ranks:
            raise ValueError(f"train.ranks: expected {config.ranks} processes, found {self.ranks}")
        if restore:
            self._restore_moments(restore, step)

    def step(self, micro_batches: Iterator[np.ndarray], lr: float) -> tuple[float, float]:
        """One optimizer step over this rank's share (int64 [rows, T + 1] each): loss and gradient norm, global."""
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        total, norm, engine = torch.zeros((), device=self._engine.device), None, self._engine
        engine.train()
        for rows in micro_batches:
            ids = torch.from_numpy(rows).to(engine.device)
            loss = engine(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
            engine.backward(loss)
            if self.config.zero_stage == 0 and engine.is_gradient_accumulation_boundary():
                limit = self.config.clip or float("inf")
                norm = torch.nn.utils.clip_grad_norm_(self._model.parameters(), limit, foreach=True)
            engine.step()
            total += loss.detach()
        total /= engine.gradient_accumulation_steps()
        dist.all_reduce(total)
        if norm is None:
            norm = engine.get_global_grad_norm()
        return float(total) / self.ranks, float(norm)

    def logprobs(self, ids: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Summed log-probability (nats, float64 [rows]) of the targets that are not IGNORE."""
        self._engine.eval()
        with torch.no_grad():
            device = self._engine.device
            nll = self._engine(torch.from_numpy(ids).to(device), torch.from_numpy(targets).to(device), True)
        return -nll.double().sum(1).cpu().numpy()

    def gather(self, values: np.ndarray) -> np.ndarray:
        """Sum of an array over the ranks."""
        total = torch.from_numpy(values).to(self._engine.device)
        dist.all_reduce(total)
        return total.cpu().numpy()

    def barrier(self) -> None:
        dist.barrier()

    def tensors(self) -> dict[str, Tensors]:
        """The groups `model`, `exp_avg`, `exp_avg_sq` whole, fp32, on the CPU; empty on ranks other than 0."""
        groups: dict[str, Tensors] = {"model": {}, **{key: {} for key in MOMENTS}}
        if self.config.zero_stage:
            _link_moments(self._engine.optimizer)
        for name, parameter in self._model.canonical_parameters().items():
            if self.config.zero_stage == 0:
                state = self._optimizer.state[parameter]
                found = {"model": parameter.detach(), **{key: state[key] for key in MOMENTS}}
            else:
                found = {"model": safe_get_full_fp32_param(parameter)}
                found |= {key: safe_get_full_optimizer_state(parameter, key) for key in MOMENTS}
            if self.rank == 0:
                for key, tensor in found.items():
                    groups[key][name] = tensor.detach().float().cpu().clone()
        return groups

    def _restore_moments(self, restore: dict[str, Tensors], step: int) -> None:
        def fresh(like: torch.Tensor) -> Tensors:
            count = torch.tensor(float(step), device=like.device)
            return {"step": count, **{key: torch.zeros_like(like) for key in MOMENTS}}

        parameters = self._model.canonical_parameters()
        if self.config.zero_stage == 0:
            for name, parameter in parameters.items():
                state = self._optimizer.state[parameter] = fresh(parameter.detach())
                for key in MOMENTS:
                    state[key].copy_(restore[key][name])
            return
        # The sharded moments must exist before they can be set by name.
        sharded = self._engine.optimizer
        for partition in _flat_partitions(sharded):
            self._optimizer.state[partition] = fresh(partition.detach())
        _link_moments(sharded)
        for name, parameter in parameters.items():
            for key in MOMENTS:
                safe_set_full_optimizer_state(parameter, restore[key][name].to(self._engine.device), key)


def _flat_partitions(sharded: Any) -> list[torch.Tensor]:
    """This rank's flat fp32 partitions, the keys of the optimizer's state: ZeRO 1 and 2, then ZeRO 3."""
    for name in ("single_partition_of_fp32_groups", "fp32_partitioned_groups_flat"):
        if hasattr(sharded, name):
            return list(getattr(sharded, name))
    raise CheckpointError(
        f"DeepSpeed {deepspeed.__version__}: {type(sharded).__name__} has no flat fp32 partitions by a known name: "
        "resume with zero_stage 0, or install DeepSpeed 0.19"
    )


def _link_moments(sharded: Any) -> None:
    """Let every parameter find its moments in the flat partitions (ZeRO 1 and 2; ZeRO 3 looks them up itself).

    DeepSpeed links all parameter groups after the step of the first group, when the moments of the others do
    not exist yet, and never again.
    """
    if hasattr(sharded, "_lazy_init_hp_params_optimizer_state"):
        sharded._hp_optimizer_states_linked = False
        sharded._lazy_init_hp_params_optimizer_state()


@torch.no_grad()
def _copy_weights(model: Llama, weights: Tensors) -> None:
    parameters = model.canonical_parameters()
    if parameters.keys() != weights.keys():
        odd = sorted(parameters.keys() ^ weights.keys())
        raise CheckpointError(f"the checkpoint's parameters are not the model's; first difference: {odd[0]}")
    for name, parameter in parameters.items():
        parameter.copy_(weights[name])
