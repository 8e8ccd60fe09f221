"""What DeepSpeed is asked to do for a configuration: precision, and its JSON written out in full.

Needs torch and not DeepSpeed. Everything whose default would change the result is stated: unset, DeepSpeed clips at
1.0, and under autocast sums the gradients of linear layers over the ranks in 16 bits.
"""

from __future__ import annotations

from typing import Any

import torch

from trainer.config import TrainConfig
from trainer.guards import refuse


def autocast_dtype(config: TrainConfig) -> torch.dtype | None:
    """The dtype of autocast, None for fp32."""
    kind = config.precision
    if kind == "auto":
        kind = "bf16" if torch.cuda.is_available() else "fp32"
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[kind]


def _merge(base: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in extra.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def deepspeed_config(config: TrainConfig) -> dict[str, Any]:
    """The DeepSpeed configuration of a run. Raises guards.Refused for one that would train something else."""
    refuse(config)
    zero: dict[str, Any] = {"stage": config.zero_stage}
    if config.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu"}
    if config.offload == "parameters":
        zero["offload_param"] = {"device": "cpu"}
    own = {
        "train_micro_batch_size_per_gpu": config.rank_micro_batch,
        "gradient_accumulation_steps": config.accumulation,
        # At stage 0 the trainer clips by itself, see trainer.clip.
        "gradient_clipping": config.clip if config.zero_stage else 0.0,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # torch's AdamW runs on the CPU as well, and is not compiled at start-up
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }
    dtype = autocast_dtype(config)
    if dtype is not None:
        name = str(dtype).removeprefix("torch.")
        own["torch_autocast"] = {"enabled": True, "dtype": name, "lower_precision_safe_modules": []}
    return _merge(own, config.deepspeed)
