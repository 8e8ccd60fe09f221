"""DeepSpeed configurations that run but train something else, and the keys that belong to the trainer.

Measured with DeepSpeed 0.19.8; each refusal says what was seen. Needs no torch, so a manifest that asks for one
of them fails before any work starts. The cost: `train.deepspeed` cannot override what the trainer decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

# key -> the field of `train:` to use instead
_OWNED = {
    "train_batch_size": "global_batch",
    "train_micro_batch_size_per_gpu": "micro_batch",
    "gradient_accumulation_steps": "global_batch and micro_batch",
    "gradient_clipping": "clip (unset, DeepSpeed clips at 1.0; and at ZeRO 0 the trainer clips by itself)",
    "torch_autocast": "precision: bf16",
    "zero_optimization.stage": "zero_stage",
    "scheduler": "schedule, lr, warmup and min_lr_ratio",
}

_REASONS = {
    "sequence_parallel_size": (
        "at ZeRO 0 to 2 the gradients are not reduced over the sequence ranks and the ranks' weights drift apart"
    ),
    "tensor_parallel": "parameter shards would be saved as if they were whole",
    "optimizer": (
        "the trainer passes torch's AdamW in: DeepSpeed's own optimizers compile C++ at start-up, and its Muon "
        "clips the orthogonalised update (a step divided by 43 was seen)"
    ),
    "zero_optimization.offload_optimizer": "it compiles C++ at start-up (5 minutes; a killed build blocks later runs)",
    "zero_optimization.offload_param": "it compiles C++ at start-up (5 minutes; a killed build blocks later runs)",
    "checkpoint": "the trainer writes its own checkpoints",
}


class Refused(ValueError):
    """A DeepSpeed configuration that would silently train something else."""


def _find(config: Mapping[str, Any], dotted: str) -> Any:
    value: Any = config
    for key in dotted.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return None
        value = value[key]
    return value if value is not None else "null"


def _enabled(section: Any) -> bool:
    return isinstance(section, Mapping) and section.get("enabled") is True


class Settings(Protocol):
    """The fields of a training configuration that decide what DeepSpeed is asked to do."""

    zero_stage: int
    deepspeed: dict[str, Any]


def refuse(config: Settings) -> None:
    """Raise Refused if the configuration would train something else than it says."""
    extra, zero_stage = config.deepspeed, config.zero_stage
    for key, field in _OWNED.items():
        if _find(extra, key) is not None:
            raise Refused(f"deepspeed.{key} is decided by the trainer: set train.{field}")
    for key, reason in _REASONS.items():
        if _find(extra, key) is not None:
            raise Refused(f"deepspeed.{key} is refused: {reason}")
    for name in ("bf16", "fp16"):
        if not _enabled(extra.get(name)):
            continue
        if zero_stage == 0:
            raise Refused(
                f"deepspeed.{name} with zero_stage 0 is refused: DeepSpeed takes a real optimizer step on zero "
                "gradients when it starts, so weight decay is applied once too often and Adam counts one step too "
                "many: use train.precision: bf16, which keeps fp32 parameters"
            )
        raise Refused(
            f"deepspeed.{name} is refused: parameters are rounded to 16 bits before the fp32 masters are made from "
            "them, so a resumed run would differ: use train.precision: bf16, which keeps fp32 parameters"
        )
