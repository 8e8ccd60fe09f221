"""What a training run is: the `train:` section of a manifest, typed and checked before any work starts.

This module imports neither torch nor DeepSpeed, so that checking a manifest costs milliseconds. Two kinds of
fields are told apart. *Result* fields decide which model comes out and enter `fingerprint`; *execution* fields
(ranks, threads, micro batch, ZeRO stage, how often to checkpoint) only decide how, and may change between an
interruption and its resumption.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

from trainer.guards import refuse


class ModelConfig(BaseModel):
    """Shape of a Llama-style decoder. The vocabulary comes from the token index, not from here."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    hidden_size: int = Field(description="width of the residual stream", ge=8)
    num_layers: int = Field(description="number of decoder blocks", ge=1)
    num_heads: int = Field(description="query heads", ge=1)
    num_kv_heads: int = Field(description="key and value heads; divides num_heads (grouped-query attention)", ge=1)
    intermediate_size: int = Field(description="width of the SwiGLU", ge=8)
    tied: bool = Field(True, description="the output head shares the embedding matrix")
    rope_theta: float = Field(10000.0, description="base of the rotary frequencies", gt=0)
    rms_norm_eps: float = Field(1e-5, description="epsilon of RMSNorm", gt=0)

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_kv_heads={self.num_kv_heads} must divide num_heads={self.num_heads}")
        if self.hidden_size % (2 * self.num_heads):
            raise ValueError(f"hidden_size={self.hidden_size} must be an even multiple of num_heads={self.num_heads}")
        return self

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    def parameters(self, vocab_size: int) -> int:
        """Number of parameters with a vocabulary of `vocab_size`."""
        attention = self.hidden_size * self.head_dim * 2 * (self.num_heads + self.num_kv_heads)
        block = attention + 3 * self.hidden_size * self.intermediate_size + 2 * self.hidden_size
        tables = vocab_size * self.hidden_size * (1 if self.tied else 2)
        return self.num_layers * block + self.hidden_size + tables


def _shape(hidden: int, layers: int, heads: int, kv: int, wide: int) -> ModelConfig:
    return ModelConfig(hidden_size=hidden, num_layers=layers, num_heads=heads, num_kv_heads=kv, intermediate_size=wide)


# The number in a name is the parameter count with a vocabulary of 32,768 (124m: 50,304), except for `tiny`.
SIZES: dict[str, ModelConfig] = {
    "tiny": _shape(128, 4, 4, 2, 352),  # 1.3 M with a vocabulary of 4,096
    "15m": _shape(288, 6, 6, 6, 768),
    "30m": _shape(384, 8, 6, 6, 1152),
    "60m": _shape(512, 14, 8, 8, 1376),
    "124m": _shape(768, 12, 12, 12, 2048),
    "350m": _shape(1024, 26, 16, 16, 2816),
    "1b": _shape(2048, 22, 32, 8, 5632),
}


def _kind(value: Any) -> str:
    return "size" if isinstance(value, str) else "shape"


# Told apart by type, so that an error speaks of the one that was meant.
Model = Annotated[Annotated[str, Tag("size")] | Annotated[ModelConfig, Tag("shape")], Discriminator(_kind)]


class TrainConfig(BaseModel):
    """Settings of one training run. Give `steps` or `tokens`, not both."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Model = Field("tiny", description=f"a size ({', '.join(SIZES)}) or explicit dimensions")
    seq_len: int = Field(256, description="tokens the model sees at once", ge=8)
    global_batch: int = Field(16, description="sequences in one optimizer step, over all ranks", ge=1)
    steps: int | None = Field(None, description="optimizer steps (150 when neither steps nor tokens is given)", ge=1)
    tokens: int | None = Field(None, description="training tokens, rounded up to whole steps", ge=1)
    lr: float = Field(3e-3, description="peak learning rate of AdamW", gt=0, lt=1)
    min_lr_ratio: float = Field(0.1, description="last learning rate as a share of the peak", ge=0, le=1)
    warmup: int = Field(10, description="steps of linear warm-up", ge=0)
    schedule: Literal["cosine", "wsd"] = Field("cosine", description="cosine, or warm-up, stable, linear decay")
    decay_share: float = Field(0.2, description="wsd: share of the steps spent in the decay", gt=0, le=1)
    beta1: float = Field(0.9, description="first-moment decay of AdamW", ge=0, lt=1)
    beta2: float = Field(0.95, description="second-moment decay of AdamW", ge=0, lt=1)
    weight_decay: float = Field(0.1, description="decoupled weight decay of the matrices", ge=0)
    clip: float = Field(1.0, description="largest norm of the gradient; 0 switches clipping off", ge=0)
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="bf16 autocasts over fp32 parameters; auto is bf16 on a GPU and fp32 on a CPU"
    )
    seed: int = Field(0, description="of the initial weights and the data order", ge=0, lt=2**31)
    probe_every: int = Field(75, description="steps between probe evaluations; 0 probes at the end only", ge=0)
    probe_limit: int = Field(200, description="items scored for each probe task; 0 scores all", ge=0)
    val_limit: int = Field(64, description="validation sequences in each evaluation; 0 skips validation", ge=0)

    ranks: int = Field(1, description="processes on this machine", ge=1, le=64)
    threads: int = Field(0, description="CPU threads of one rank; 0 shares the cores among the ranks", ge=0)
    micro_batch: int = Field(4, description="most sequences in one forward pass of one rank", ge=1)
    zero_stage: Literal[0, 1, 2, 3] = Field(0, description="what DeepSpeed shards over the ranks")
    checkpoint_every: int = Field(0, description="steps between checkpoints; 0 writes the last one only", ge=0)
    keep_last: int = Field(2, description="checkpoints to keep", ge=1)
    log_every: int = Field(1, description="steps between rows of train.jsonl", ge=1)
    deepspeed: dict[str, Any] = Field(default_factory=dict, description="further keys of the DeepSpeed configuration")

    @field_validator("model")
    @classmethod
    def _known_size(cls, value: str | ModelConfig) -> str | ModelConfig:
        if isinstance(value, str) and value not in SIZES:
            raise ValueError(f"expected one of {', '.join(SIZES)} or the dimensions, found {value!r}")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.steps is not None and self.tokens is not None:
            raise ValueError("expected `steps` or `tokens`, found both")
        if self.global_batch % self.ranks:
            raise ValueError(f"ranks={self.ranks} must divide global_batch={self.global_batch}")
        refuse(self.deepspeed, self.zero_stage)
        return self

    @property
    def shape(self) -> ModelConfig:
        return SIZES[self.model] if isinstance(self.model, str) else self.model

    @property
    def total_steps(self) -> int:
        if self.tokens is not None:
            return -(-self.tokens // (self.global_batch * self.seq_len))
        return self.steps or 150

    @property
    def rank_micro_batch(self) -> int:
        """Sequences in one forward pass: the largest divisor of a rank's share that `micro_batch` allows."""
        share = self.global_batch // self.ranks
        return max(size for size in range(1, share + 1) if share % size == 0 and size <= self.micro_batch)

    def fingerprint(self, data: str) -> str:
        """16 hex digits over the result fields and `data`, the digest of everything that is read."""
        known = self.model_dump(exclude=EXECUTION_FIELDS | {"model", "steps", "tokens"})
        known |= {"model": self.shape.model_dump(), "steps": self.total_steps, "data": data}
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]


EXECUTION_FIELDS = {
    "ranks", "threads", "micro_batch", "zero_stage", "checkpoint_every", "keep_last", "log_every", "deepspeed",
}  # fmt: skip
