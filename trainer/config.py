"""What a training run is: the `train:` section of a manifest, typed and checked before any work starts.

This module imports neither torch nor DeepSpeed, so that checking a manifest costs milliseconds. Two kinds of
fields are told apart. *Result* fields decide which model comes out and enter `fingerprint`; *execution* fields
(ranks, threads, micro batch, ZeRO stage, how often to checkpoint) only decide how, and may change between an
interruption and its resumption.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from trainer.guards import refuse
from trainer.shape import Model, ModelConfig, named


class TrainConfig(BaseModel):
    """Settings of one training run. Give `steps` or `tokens`, not both."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # What is trained
    model: Model = Field("tiny", description="a size (tiny to 7b), a depth such as d12, or explicit dimensions")
    init_from: str = Field("", description="checkpoint folder to take the first weights from, such as an imported one")
    seq_len: int = Field(256, description="tokens the model sees at once", ge=8)
    global_batch: int = Field(16, description="sequences in one optimizer step, over all ranks", ge=1)
    steps: int | None = Field(None, description="optimizer steps (150 when neither steps nor tokens is given)", ge=1)
    tokens: int | None = Field(None, description="training tokens, rounded up to whole steps", ge=1)
    packing: Literal["chunk", "best_fit"] = Field(
        "chunk", description="one stream cut in pieces, or whole documents fitted into sequences with little padding"
    )
    document_mask: bool = Field(False, description="attention stays inside documents")
    mix: dict[str, float] = Field(
        default_factory=dict, description="share of the training sequences from each source; empty: each by its size"
    )
    seed: int = Field(0, description="of the initial weights and the data order", ge=0, lt=2**31)

    # How it is optimised
    optimizer: Literal["adamw", "muon"] = Field("adamw", description="muon: matrices of the blocks by Muon")
    lr: float = Field(3e-3, description="peak learning rate of AdamW", gt=0, lt=1)
    muon_lr: float = Field(0.02, description="peak learning rate of Muon's matrices", gt=0, lt=1)
    min_lr_ratio: float = Field(0.1, description="last learning rate as a share of the peak", ge=0, le=1)
    warmup: int = Field(10, description="steps of linear warm-up", ge=0)
    schedule: Literal["cosine", "wsd"] = Field("cosine", description="cosine, or warm-up, stable, linear decay")
    decay_share: float = Field(0.2, description="wsd: share of the steps spent in the decay", gt=0, le=1)
    beta1: float = Field(0.9, description="first-moment decay of AdamW", ge=0, lt=1)
    beta2: float = Field(0.95, description="second-moment decay of AdamW", ge=0, lt=1)
    weight_decay: float = Field(0.1, description="decoupled weight decay of the matrices", ge=0)
    clip: float = Field(1.0, description="largest norm of the gradient; 0 switches clipping off", ge=0)
    z_loss: float = Field(0.0, description="weight of the squared log-normaliser of the logits in the loss", ge=0)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="bf16 and fp16 autocast over fp32 parameters; auto is bf16 on a GPU and fp32 on a CPU"
    )

    # What is measured on the way
    probe_every: int = Field(75, description="steps between probe evaluations; 0 probes at the end only", ge=0)
    probe_limit: int = Field(200, description="items scored for each probe task; 0 scores all", ge=0)
    probe_share: float = Field(
        0.5, description="largest share of the time for probes on the way; a round that would exceed it is put off",
        gt=0, le=1,
    )  # fmt: skip
    val_limit: int = Field(
        64, description="validation sequences of each source in an evaluation, at most; 0 skips it", ge=0
    )

    # How it is executed
    ranks: int = Field(1, description="processes", ge=1, le=4096)
    threads: int = Field(0, description="CPU threads of one rank; 0 shares the cores among the ranks", ge=0)
    micro_batch: int = Field(4, description="most sequences in one forward pass of one rank", ge=1)
    zero_stage: Literal[0, 1, 2, 3] = Field(0, description="what DeepSpeed shards over the data ranks")
    pipeline: int = Field(1, description="pipeline stages; above 1 goes with zero_stage 1", ge=1)
    tensor: int = Field(1, description="ranks that share each matrix; divides the heads", ge=1)
    activation_checkpointing: bool = Field(False, description="keep a block's input only, compute it again backward")
    offload: Literal["none", "optimizer", "parameters"] = Field(
        "none", description="keep the optimizer (ZeRO 1 to 3), or parameters too (ZeRO 3), in the host's memory"
    )
    compile: bool | Literal["auto"] = Field(
        "auto", description="torch.compile for each block and the loss; auto: on a GPU, for a long enough training"
    )
    attention: Literal["auto", "sdpa", "flex"] = Field("auto", description="kernel; auto takes the fastest at hand")
    checkpoint_every: int = Field(0, description="steps between checkpoints; 0 writes the last one only", ge=0)
    restart_every: int = Field(
        0, description="steps between DeepSpeed's own checkpoints, quick to write and read; 0 writes none", ge=0
    )
    keep_last: int = Field(2, description="checkpoints to keep", ge=1)
    log_every: int = Field(1, description="steps between rows of train.jsonl", ge=1)
    spike: float = Field(
        8.0, description="standard deviations above the recent losses that make a step a reported spike; 0: none", ge=0
    )
    tensorboard: bool = Field(False, description="write TensorBoard events beside train.jsonl")
    wandb: str = Field("", description="Weights & Biases project to log to; empty: none")
    deepspeed: dict[str, Any] = Field(default_factory=dict, description="further keys of the DeepSpeed configuration")

    @field_validator("model")
    @classmethod
    def _known_size(cls, value: str | ModelConfig) -> str | ModelConfig:
        if isinstance(value, str):
            named(value)
        return value

    @field_validator("mix")
    @classmethod
    def _shares(cls, value: dict[str, float]) -> dict[str, float]:
        if value and (min(value.values()) < 0 or not 0 < sum(value.values()) < float("inf")):
            raise ValueError(f"expected shares of at least 0 with a positive sum, found {value}")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.steps is not None and self.tokens is not None:
            raise ValueError("expected `steps` or `tokens`, found both")
        model_ranks = self.pipeline * self.tensor
        if self.ranks % model_ranks:
            raise ValueError(f"pipeline={self.pipeline} x tensor={self.tensor} must divide ranks={self.ranks}")
        if self.global_batch % self.data_ranks:
            raise ValueError(
                f"the {self.data_ranks} data ranks (ranks / pipeline / tensor) must divide "
                f"global_batch={self.global_batch}"
            )
        shape = self.shape
        if shape.num_kv_heads % self.tensor or shape.intermediate_size % self.tensor:
            raise ValueError(
                f"tensor={self.tensor} must divide num_kv_heads={shape.num_kv_heads} and "
                f"intermediate_size={shape.intermediate_size}"
            )
        if self.pipeline > shape.num_layers:
            raise ValueError(f"pipeline={self.pipeline} stages need as many blocks, found {shape.num_layers}")
        refuse(self)
        return self

    @property
    def shape(self) -> ModelConfig:
        return named(self.model) if isinstance(self.model, str) else self.model

    @property
    def data_ranks(self) -> int:
        """Copies of the model that read different sequences."""
        return self.ranks // (self.pipeline * self.tensor)

    @property
    def total_steps(self) -> int:
        if self.tokens is not None:
            return -(-self.tokens // (self.global_batch * self.seq_len))
        return self.steps or 150

    @property
    def rank_micro_batch(self) -> int:
        """Sequences in one forward pass: the largest divisor of a data rank's share that `micro_batch` allows."""
        share = self.global_batch // self.data_ranks
        return max(size for size in range(1, min(share, self.micro_batch) + 1) if share % size == 0)

    @property
    def accumulation(self) -> int:
        """Forward passes of one rank in an optimizer step."""
        return self.global_batch // (self.data_ranks * self.rank_micro_batch)

    def fingerprint(self, data: str) -> str:
        """16 hex digits over the result fields and `data`, the digest of everything that is read."""
        known = self.model_dump(exclude=EXECUTION_FIELDS | {"model", "steps", "tokens"})
        known |= {"model": self.shape.model_dump(), "steps": self.total_steps, "data": data}
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]


EXECUTION_FIELDS = {
    "ranks", "threads", "micro_batch", "zero_stage", "pipeline", "tensor", "activation_checkpointing", "offload",
    "compile", "attention", "checkpoint_every", "restart_every", "keep_last", "log_every", "spike", "tensorboard",
    "wandb", "probe_share", "deepspeed",
}  # fmt: skip
