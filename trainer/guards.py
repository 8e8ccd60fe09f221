"""Configurations that run but train something else, and the DeepSpeed keys that belong to the trainer.

Measured with DeepSpeed 0.19.8; each refusal says what was seen and what to set instead. Needs no torch, so a
manifest that asks for one of them fails before any work starts. The cost: `train.deepspeed` cannot override what the
trainer decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

# key -> the field of `train:` to use instead
_OWNED = {
    "train_batch_size": "global_batch",
    "train_micro_batch_size_per_gpu": "micro_batch",
    "gradient_accumulation_steps": "global_batch and micro_batch",
    "managed_gradient_accumulation": "global_batch and micro_batch",
    "gradient_clipping": "clip (unset, DeepSpeed clips at 1.0; and at ZeRO 0 the trainer clips by itself)",
    "torch_autocast": "precision: bf16",
    "zero_optimization.stage": "zero_stage",
    "zero_optimization.offload_optimizer": (
        "offload: optimizer, which runs torch's AdamW on the CPU (DeepSpeed's own compiles C++ at start-up, 5 minutes, "
        "and a killed build blocks later runs)"
    ),
    "zero_optimization.offload_param": "offload: parameters (DeepSpeed's own optimizer compiles C++ at start-up)",
    "zero_force_ds_cpu_optimizer": "offload",
    "zero_allow_untested_optimizer": "optimizer",
    "activation_checkpointing": "activation_checkpointing",
    "pipeline": "pipeline",
    "compile": "compile",
    "scheduler": "schedule, lr, warmup and min_lr_ratio",
}

_REASONS = {
    "sequence_parallel_size": (
        "at ZeRO 0 to 2 the gradients are not reduced over the sequence ranks and the ranks' weights drift apart: set "
        "train.tensor to share long sequences' memory"
    ),
    "tensor_parallel": (
        "it breaks with pipelines, and parameter shards would be saved as if they were whole: set train.tensor"
    ),
    "optimizer": (
        "the trainer passes torch's AdamW in: DeepSpeed's own optimizers compile C++ at start-up, and its Muon "
        "clips the orthogonalised update (a step divided by 43 was seen): set train.optimizer"
    ),
    "zero_optimization.compute_grad_norm": "without the norm nothing is clipped and none is logged: remove the key",
    "checkpoint": "the trainer writes its own checkpoints: set train.checkpoint_every and train.restart_every",
    "amp": "it replaces the optimizer by apex's: set train.precision: bf16",
    "curriculum_learning": "it would cut the sequences that the order of the data states: remove the key",
    "data_efficiency": "it would replace the batches that the order of the data states: remove the key",
    "compression_training": "it would change the weights that are trained: remove the key",
}


class Refused(ValueError):
    """A configuration that would silently train something else."""


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

    @property
    def zero_stage(self) -> int: ...
    @property
    def pipeline(self) -> int: ...
    @property
    def tensor(self) -> int: ...
    @property
    def precision(self) -> str: ...
    @property
    def optimizer(self) -> str: ...
    @property
    def offload(self) -> str: ...
    @property
    def deepspeed(self) -> dict[str, Any]: ...


def refuse(config: Settings) -> None:
    """Raise Refused if the configuration would train something else than it says."""
    _refuse_modes(config)
    _refuse_keys(config)


def _refuse_modes(config: Settings) -> None:
    zero, several = config.zero_stage, config.pipeline > 1 or config.tensor > 1
    if config.pipeline > 1 and zero == 0:
        raise Refused(
            f"pipeline={config.pipeline} with zero_stage=0 is refused: the gradient would be clipped by the norm of "
            "one stage's parameters: set train.zero_stage: 1"
        )
    if config.pipeline > 1 and zero > 1:
        raise Refused(
            f"pipeline={config.pipeline} with zero_stage={zero} is refused: a pipeline keeps the gradients of all its "
            "micro batches, so they cannot be sharded: set train.zero_stage: 1"
        )
    if config.optimizer == "muon" and (zero or several or config.offload != "none"):
        raise Refused(
            "optimizer: muon with ZeRO, pipeline or tensor ranks is refused: it makes whole matrices orthogonal, and a "
            "shard of one is another matrix; under ZeRO DeepSpeed clips what is orthogonal already: set "
            "train.zero_stage: 0, pipeline: 1, tensor: 1 and offload: none, or train.optimizer: adamw"
        )
    if config.precision == "fp16" and (zero or several):
        raise Refused(
            "precision: fp16 with ZeRO, pipeline or tensor ranks is refused: DeepSpeed clips the gradient while it is "
            "still multiplied by the loss scale, and each rank would judge overflow by its own shard: set "
            "train.precision: bf16, or zero_stage: 0, pipeline: 1 and tensor: 1"
        )
    if config.offload == "optimizer" and zero == 0:
        raise Refused(
            "offload: optimizer with zero_stage=0 is refused: DeepSpeed would ignore it and keep the optimizer on the "
            "device: set train.zero_stage to 1, 2 or 3"
        )
    if config.offload == "parameters" and zero != 3:
        raise Refused(
            f"offload: parameters with zero_stage={zero} is refused: only ZeRO 3 takes parameters off the device: set "
            "train.zero_stage: 3"
        )
    if config.offload != "none" and several:
        raise Refused(
            "offload with pipeline or tensor ranks is refused: it is not proven equal to one rank: set "
            "train.pipeline: 1 and tensor: 1"
        )


def _refuse_keys(config: Settings) -> None:
    extra = config.deepspeed
    for key, field in _OWNED.items():
        if _find(extra, key) is not None:
            raise Refused(f"deepspeed.{key} is decided by the trainer: set train.{field}")
    for key, reason in _REASONS.items():
        if _find(extra, key) is not None:
            raise Refused(f"deepspeed.{key} is refused: {reason}")
    for name in ("bf16", "fp16"):
        if not _enabled(extra.get(name)):
            continue
        if config.zero_stage == 0:
            raise Refused(
                f"deepspeed.{name} with zero_stage 0 is refused: DeepSpeed takes a real optimizer step on zero "
                "gradients when it starts, so weight decay is applied once too often and Adam counts one step too "
                "many: use train.precision: bf16, which keeps fp32 parameters"
            )
        raise Refused(
            f"deepspeed.{name} is refused: parameters are rounded to 16 bits before the fp32 masters are made from "
            "them, so a resumed run would differ: use train.precision: bf16, which keeps fp32 parameters"
        )
