"""Parameter groups, AdamW and the learning-rate schedules.

The schedule is a function of the step alone, so a resumed run needs no scheduler state. AdamW is torch's own,
fused: one kernel for all parameters, and nothing to compile.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from trainer.config import TrainConfig


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay, vectors (the norms) do not."""
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def adamw(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    groups = parameter_groups(model, config.weight_decay)
    return torch.optim.AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), eps=1e-8, fused=True)


def learning_rate(step: int, config: TrainConfig) -> float:
    """Learning rate of optimizer step `step` (1 to total_steps).

    Linear warm-up, then a cosine to `min_lr_ratio` (Loshchilov and Hutter 2017), or a plateau and a linear decay
    to it over the last `decay_share` of the steps (WSD, Hu et al. 2024).
    """
    total, floor = config.total_steps, config.min_lr_ratio
    if step <= config.warmup:
        return config.lr * step / config.warmup
    if config.schedule == "cosine":
        progress = (step - config.warmup) / max(1, total - config.warmup)
        return config.lr * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))
    decay = max(1, round(total * config.decay_share))
    left = max(0, total - step) / decay
    return config.lr * (floor + (1 - floor) * min(1.0, left))
