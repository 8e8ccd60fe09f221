"""The shape of a model: its dimensions, sizes by name or by one dial, and what they cost in parameters and FLOPs.

Imports neither torch nor DeepSpeed. Parameters are counted exactly, FLOPs as in PaLM (Chowdhery et al. 2022,
appendix B): six for each weight of a matrix product and 12 L d T for full attention, which overstates a causal or a
document-masked one and so makes MFU comparable between trainers.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

TOKENS_PER_PARAMETER = 20  # compute-optimal, Hoffmann et al. 2022, table A3


class ModelConfig(BaseModel):
    """Shape of a Llama-style decoder. The vocabulary comes from the token index, not from here."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    hidden_size: int = Field(description="width of the residual stream", ge=8)
    num_layers: int = Field(description="number of decoder blocks", ge=1)
    num_heads: int = Field(description="query heads", ge=1)
    num_kv_heads: int = Field(description="key and value heads; divides num_heads (grouped-query attention)", ge=1)
    intermediate_size: int = Field(description="width of the gated MLP", ge=8)
    head_dim: int = Field(0, description="width of one head; 0 is hidden_size / num_heads", ge=0)
    activation: Literal["silu", "gelu"] = Field("silu", description="of the gated MLP: silu is SwiGLU, gelu is GeGLU")
    tied: bool = Field(True, description="the output head shares the embedding matrix")
    bias: bool = Field(False, description="the projections of attention and MLP have a bias")
    qk_norm: bool = Field(False, description="RMSNorm over each query and key head (exported as Qwen3)")
    rope_theta: float = Field(10000.0, description="base of the rotary frequencies", gt=0)
    rms_norm_eps: float = Field(1e-5, description="epsilon of RMSNorm", gt=0)

    @model_validator(mode="before")
    @classmethod
    def _fill_head_dim(cls, data: Any) -> Any:
        if isinstance(data, dict) and not data.get("head_dim"):
            hidden, heads = data.get("hidden_size"), data.get("num_heads")
            if isinstance(hidden, int) and isinstance(heads, int) and heads > 0:
                if hidden % heads:
                    raise ValueError(f"num_heads={heads} must divide hidden_size={hidden}, unless head_dim is given")
                return {**data, "head_dim": hidden // heads}
        return data

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_kv_heads={self.num_kv_heads} must divide num_heads={self.num_heads}")
        if self.head_dim % 2:
            raise ValueError(f"head_dim={self.head_dim} must be even: rotary positions turn pairs of values")
        if self.bias and self.qk_norm:
            raise ValueError("bias and qk_norm together: no public model class loads such a checkpoint: choose one")
        return self

    def _block(self) -> tuple[int, int]:
        """Weights of one block in matrices, and in vectors."""
        heads, keys = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        matrices = 2 * self.hidden_size * (heads + keys) + 3 * self.hidden_size * self.intermediate_size
        vectors = 2 * self.hidden_size + (2 * self.head_dim if self.qk_norm else 0)
        if self.bias:
            vectors += heads + 2 * keys + 2 * self.hidden_size + 2 * self.intermediate_size
        return matrices, vectors

    def parameters(self, vocab_size: int) -> int:
        """Number of parameters with a vocabulary of `vocab_size`."""
        tables = vocab_size * self.hidden_size * (1 if self.tied else 2)
        return self.num_layers * sum(self._block()) + self.hidden_size + tables

    def matrix_parameters(self, vocab_size: int) -> int:
        """Weights that take part in a matrix product for each token: the blocks and the output head."""
        return self.num_layers * self._block()[0] + vocab_size * self.hidden_size

    def flops_per_token(self, vocab_size: int, seq_len: int) -> int:
        """FLOPs to train on one token, forward and backward, without recomputation."""
        attention = 12 * self.num_layers * self.num_heads * self.head_dim * seq_len
        return 6 * self.matrix_parameters(vocab_size) + attention

    def optimal_tokens(self, vocab_size: int) -> int:
        """Compute-optimal training tokens."""
        return TOKENS_PER_PARAMETER * self.parameters(vocab_size)


def _shape(hidden: int, layers: int, heads: int, kv: int, wide: int, **more: Any) -> ModelConfig:
    return ModelConfig(
        hidden_size=hidden, num_layers=layers, num_heads=heads, num_kv_heads=kv, intermediate_size=wide, **more
    )


# The number in a name is the parameter count with a vocabulary of 32,768 (124m: 50,304), except for `tiny`.
SIZES: dict[str, ModelConfig] = {
    "tiny": _shape(128, 4, 4, 2, 352),  # 1.3 M with a vocabulary of 4,096
    "15m": _shape(288, 6, 6, 6, 768),
    "30m": _shape(384, 8, 6, 6, 1152),
    "60m": _shape(512, 14, 8, 8, 1376),
    "124m": _shape(768, 12, 12, 12, 2048),
    "350m": _shape(1024, 26, 16, 16, 2816),
    "1b": _shape(2048, 22, 32, 8, 5632),
    "3b": _shape(3072, 28, 24, 8, 8192),
    "7b": _shape(4096, 32, 32, 32, 11008, tied=False),
}


def by_depth(depth: int) -> ModelConfig:
    """One dial: width 64 x depth, heads of 128 where they fit and of 64 else, an MLP of 8/3 of the width."""
    hidden = 64 * depth
    heads = hidden // (128 if depth % 2 == 0 else 64)
    wide = -(-8 * hidden // 3 // 128) * 128
    return _shape(hidden, depth, heads, heads, wide)


def named(name: str) -> ModelConfig:
    """The shape of a size by name, or of `d<depth>`; ValueError for any other name."""
    if name in SIZES:
        return SIZES[name]
    dial = re.fullmatch(r"d([1-9]\d{0,2})", name)
    if dial:
        return by_depth(int(dial[1]))
    raise ValueError(f"expected one of {', '.join(SIZES)}, d<depth> such as d12, or the dimensions, found {name!r}")


def _kind(value: Any) -> str:
    return "size" if isinstance(value, str) else "shape"


# Told apart by type, so that an error speaks of the one that was meant.
Model = Annotated[Annotated[str, Tag("size")] | Annotated[ModelConfig, Tag("shape")], Discriminator(_kind)]
