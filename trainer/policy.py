"""What DeepSpeed is asked to do for a configuration: precision, and its JSON written out in full.

Needs torch and not DeepSpeed. Everything whose default would change the result is stated: unset, DeepSpeed clips at
1.0, and under autocast sums the gradients of linear layers over the ranks in 16 bits. So is what would cost time or
memory: unset, its throughput timer waits for the device before and after every micro batch, and ZeRO allocates
communication buffers for 500 million values however small the model.
"""

from __future__ import annotations

from typing import Any

import torch

from trainer.config import TrainConfig
from trainer.guards import refuse
from trainer.hardware import can_compile

BUCKET = 500_000_000  # values that are summed or gathered at a time, at most
REPAYS_COMPILING = 2e17  # FLOPs of a training: some minutes of a fast GPU, against a minute of compilation


def autocast_dtype(config: TrainConfig) -> torch.dtype | None:
    """The dtype of autocast, None for fp32."""
    kind = config.precision
    if kind == "auto":
        kind = "bf16" if torch.cuda.is_available() else "fp32"
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[kind]


def compiles(config: TrainConfig, vocab_size: int) -> bool:
    """Whether blocks and loss are compiled. `auto`: on a GPU, for a training that repays the minute that it takes.

    Under ZeRO 3 and between tensor ranks a block is no single graph: there it is left to the user.
    """
    if config.compile != "auto":
        return config.compile
    if not torch.cuda.is_available() or config.zero_stage == 3 or config.tensor > 1 or not can_compile():
        return False
    tokens = config.total_steps * config.global_batch * config.seq_len
    return tokens * config.shape.flops_per_token(vocab_size, config.seq_len) / config.ranks >= REPAYS_COMPILING


def _merge(base: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in extra.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def deepspeed_config(config: TrainConfig, parameters: int) -> dict[str, Any]:
    """The DeepSpeed configuration of a rank that holds `parameters` values (before ZeRO).

    Raises guards.Refused for one that would train something else.
    """
    refuse(config)
    bucket = max(1, min(BUCKET, parameters))
    zero: dict[str, Any] = {
        "stage": config.zero_stage,
        "reduce_bucket_size": bucket,
        "allgather_bucket_size": bucket,
    }
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
        "timers": {"throughput": {"enabled": False}},
    }
    dtype = autocast_dtype(config)
    if dtype is not None:
        name = str(dtype).removeprefix("torch.")
        own["torch_autocast"] = {"enabled": True, "dtype": name, "lower_precision_safe_modules": []}
    return _merge(own, config.deepspeed)
