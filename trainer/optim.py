"""Parameter groups, the optimizers and the learning-rate schedules.

The schedule is a function of the step alone, so a resumed run needs no scheduler state. AdamW is torch's own,
fused: one kernel for all parameters, and nothing to compile.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from trainer.config import TrainConfig
from trainer.muon import MOMENTUM, MuonAdamW


def parameter_groups(parameters: Mapping[str, nn.Parameter], config: TrainConfig) -> list[dict[str, Any]]:
    """Matrices decay, vectors (norms and biases) do not; with Muon, the matrices of the blocks are apart.

    `parameters` are by canonical name. Each group carries `peak`, the learning rate that the schedule scales.
    """
    blocks, matrices, vectors = [], [], []
    for name, parameter in parameters.items():
        if parameter.dim() < 2:
            vectors.append(parameter)
        elif config.optimizer == "muon" and name.startswith("model.layers."):
            blocks.append(parameter)
        else:
            matrices.append(parameter)
    adamw = {"lr": config.lr, "peak": config.lr, "betas": (config.beta1, config.beta2), "eps": 1e-8}
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": config.weight_decay, **adamw},
        {"params": vectors, "weight_decay": 0.0, **adamw},
    ]
    if config.optimizer == "muon":
        muon = {"lr": config.muon_lr, "peak": config.muon_lr, "momentum": MOMENTUM, "muon": True}
        groups = [{"params": blocks, "weight_decay": config.weight_decay, **muon},
                  *({**group, "muon": False} for group in groups)]  # fmt: skip
    return [group for group in groups if group["params"]]


def make_optimizer(parameters: Mapping[str, nn.Parameter], config: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer of a run over `parameters` by canonical name."""
    groups = parameter_groups(parameters, config)
    return MuonAdamW(groups) if config.optimizer == "muon" else torch.optim.AdamW(groups, fused=True)


def schedule(step: int, config: TrainConfig) -> float:
    """Share of the peak learning rate at optimizer step `step` (1 to total_steps).

    Linear warm-up, then a cosine to `min_lr_ratio` (Loshchilov and Hutter 2017), or a plateau and a linear decay
    to it over the last `decay_share` of the steps (WSD, Hu et al. 2024).
    """
    total, floor = config.total_steps, config.min_lr_ratio
    if step <= config.warmup:
        return step / config.warmup
    if config.schedule == "cosine":
        progress = (step - config.warmup) / max(1, total - config.warmup)
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    decay = max(1, round(total * config.decay_share))
    left = max(0, total - step) / decay
    return floor + (1 - floor) * min(1.0, left)


def learning_rate(step: int, config: TrainConfig) -> float:
    """AdamW's learning rate at optimizer step `step` (1 to total_steps)."""
    return config.lr * schedule(step, config)


def set_learning_rate(optimizer: torch.optim.Optimizer, step: int, config: TrainConfig) -> None:
    """Scale every parameter group's peak learning rate by the schedule."""
    share = schedule(step, config)
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * share
