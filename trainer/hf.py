"""The model in Hugging Face's terms: `config.json` both ways, and the name and size of every tensor.

Parameters carry Hugging Face's names from the start (see `model.canonical_name`) and the rotary layout is theirs, so
only the configuration is translated. A model with QK-norm is a Qwen3, any other a Llama: both are read by
`transformers` 4 and 5, which keep the rotary base in different keys, so it is written to both. Reading is strict: a
key that asks for something our model does not do is refused by name, since a model that loads and is silently
wrong costs more than one that does not load.

Imports no torch. Key names and defaults: `configuration_llama.py`, `configuration_qwen3.py` and
`configuration_mistral.py` of `transformers`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from trainer.rundir import CheckpointError
from trainer.shape import ModelConfig

SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
MAX_LAYERS, MAX_SIZE = 4096, 1 << 31

# What `transformers` takes for a key that the file lacks, where it matters here.
DEFAULTS: dict[str, dict[str, Any]] = {
    "LlamaForCausalLM": {"sliding_window": None},
    "MistralForCausalLM": {"sliding_window": 4096, "num_key_value_heads": 8},
    "Qwen3ForCausalLM": {"sliding_window": 4096, "num_key_value_heads": 32, "head_dim": 128},
}
MODEL_TYPES = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen3": "Qwen3ForCausalLM"}


@dataclass(frozen=True)
class Description:
    """What a `config.json` says of a model."""

    shape: ModelConfig
    vocab_size: int  # rows of the embedding; a tokenizer may know fewer ids
    seq_len: int
    special: dict[str, int | list[int] | None]  # bos_token_id, eos_token_id, pad_token_id


def hf_config(shape: ModelConfig, vocab_size: int, seq_len: int, eos_id: int) -> dict[str, Any]:
    """The `config.json` of a model trained here, whose documents begin and end with `eos_id`."""
    special: dict[str, int | list[int] | None] = {"bos_token_id": eos_id, "eos_token_id": eos_id}
    return write_config(Description(shape, vocab_size, seq_len, special))


def write_config(model: Description, dtype: str = "float32") -> dict[str, Any]:
    """The `config.json` that makes `transformers` load the weights: LlamaForCausalLM, or Qwen3ForCausalLM."""
    shape = model.shape
    config = {
        "architectures": ["Qwen3ForCausalLM" if shape.qk_norm else "LlamaForCausalLM"],
        "model_type": "qwen3" if shape.qk_norm else "llama",
        "vocab_size": model.vocab_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "head_dim": shape.head_dim,
        "hidden_act": shape.activation,
        "rms_norm_eps": shape.rms_norm_eps,
        "rope_theta": shape.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": shape.rope_theta},
        "max_position_embeddings": model.seq_len,
        "tie_word_embeddings": shape.tied,
        "attention_bias": shape.bias,
        "attention_dropout": 0.0,
        "torch_dtype": dtype,
        **model.special,
    }
    if shape.qk_norm:
        return config | {"use_sliding_window": False, "sliding_window": None}
    return config | {"mlp_bias": shape.bias}


def tensor_shapes(shape: ModelConfig, vocab_size: int) -> dict[str, tuple[int, ...]]:
    """Every parameter by its Hugging Face name, with its size; a tied head has none of its own."""
    d, wide, heads, keys = shape.hidden_size, shape.intermediate_size, shape.num_heads, shape.num_kv_heads
    matrices = {
        "self_attn.q_proj": (heads * shape.head_dim, d),
        "self_attn.k_proj": (keys * shape.head_dim, d),
        "self_attn.v_proj": (keys * shape.head_dim, d),
        "self_attn.o_proj": (d, heads * shape.head_dim),
        "mlp.gate_proj": (wide, d),
        "mlp.up_proj": (wide, d),
        "mlp.down_proj": (d, wide),
    }
    block: dict[str, tuple[int, ...]] = {f"{name}.weight": size for name, size in matrices.items()}
    if shape.bias:
        block |= {f"{name}.bias": size[:1] for name, size in matrices.items()}
    if shape.qk_norm:
        block |= {f"self_attn.{name}.weight": (shape.head_dim,) for name in ("q_norm", "k_norm")}
    block |= {f"{name}.weight": (d,) for name in ("input_layernorm", "post_attention_layernorm")}
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab_size, d)}
    for layer in range(shape.num_layers):
        shapes |= {f"model.layers.{layer}.{name}": size for name, size in block.items()}
    shapes["model.norm.weight"] = (d,)
    return shapes if shape.tied else {**shapes, "lm_head.weight": (vocab_size, d)}


def read_config(config: dict[str, Any], where: str) -> Description:
    """The model that a `config.json` describes. CheckpointError names the key that our model does not do."""
    architecture = _architecture(config, where)
    config = DEFAULTS[architecture] | config
    _refuse_unsupported(config, architecture, where)
    qk_norm = architecture == "Qwen3ForCausalLM"
    heads = _size(config, "num_attention_heads", where)
    hidden = _size(config, "hidden_size", where)
    if config.get("head_dim") is None and hidden % heads:
        _refuse(where, "num_attention_heads", f"a divisor of hidden_size={hidden}, or head_dim", heads)
    attention_bias = bool(config.get("attention_bias"))
    mlp_bias = bool(config.get("mlp_bias"))
    if attention_bias != mlp_bias:
        supported = "false" if qk_norm else f"the same as mlp_bias, {str(mlp_bias).lower()}"
        _refuse(where, "attention_bias", supported, attention_bias)
    try:
        shape = ModelConfig(
            hidden_size=hidden,
            num_layers=_size(config, "num_hidden_layers", where, MAX_LAYERS),
            num_heads=heads,
            num_kv_heads=_size(config, "num_key_value_heads", where) if config.get("num_key_value_heads") else heads,
            intermediate_size=_size(config, "intermediate_size", where),
            head_dim=_size(config, "head_dim", where) if config.get("head_dim") else hidden // heads,
            activation=config.get("hidden_act", "silu"),
            tied=bool(config.get("tie_word_embeddings", False)),
            bias=attention_bias,
            qk_norm=qk_norm,
            rope_theta=_rope_theta(config, where),
            rms_norm_eps=config.get("rms_norm_eps", 1e-6),
        )
    except ValidationError as error:
        problem = error.errors()[0]
        raise CheckpointError(f"{where}: {'.'.join(map(str, problem['loc']))}: {problem['msg']}") from None
    special = {key: config[key] for key in SPECIAL_IDS if config.get(key) is not None}
    seq_len = _size(config, "max_position_embeddings", where)
    return Description(shape, _size(config, "vocab_size", where), seq_len, special)


def _refuse(where: str, key: str, supported: str, found: Any) -> None:
    raise CheckpointError(f"{where}: {key}: expected {supported}, found {found!r}")


def _architecture(config: dict[str, Any], where: str) -> str:
    """The model class; files that name none are known by their model_type."""
    if config.get("auto_map"):
        _refuse(where, "auto_map", "none: code that comes with a model is never run", config["auto_map"])
    named = config.get("architectures") or [MODEL_TYPES.get(str(config.get("model_type")), config.get("model_type"))]
    if not isinstance(named, list) or len(named) != 1 or named[0] not in DEFAULTS:
        _refuse(where, "architectures", f"one of {', '.join(DEFAULTS)}", named)
    return named[0]


def _refuse_unsupported(config: dict[str, Any], architecture: str, where: str) -> None:
    """Everything that would change what the model computes and has no counterpart here."""
    windowed = config["sliding_window"] is not None
    if architecture == "Qwen3ForCausalLM":
        windowed = windowed and bool(config.get("use_sliding_window"))
    if windowed:
        _refuse(where, "sliding_window", "null: attention here reaches the whole context", config["sliding_window"])
    layers = config.get("layer_types") or []
    if any(kind != "full_attention" for kind in layers):
        _refuse(where, "layer_types", "full_attention in every layer", sorted(set(map(str, layers))))
    if config.get("hidden_act", "silu") not in ("silu", "gelu"):
        _refuse(where, "hidden_act", "silu or gelu", config["hidden_act"])
    for key in ("attention_dropout", "num_local_experts", "num_experts"):
        if config.get(key):
            _refuse(where, key, "0 or absent", config[key])
    if config.get("quantization_config"):
        _refuse(where, "quantization_config", "none: weights in fp32, bf16 or fp16", config["quantization_config"])


def _rope_theta(config: dict[str, Any], where: str) -> float:
    """The rotary base, from the key of `transformers` 5 or of 4. Any scaling of the positions is refused."""
    theta = config.get("rope_theta")
    for key in ("rope_scaling", "rope_parameters"):
        rope = config.get(key)
        if not rope:
            continue
        kind = rope.get("rope_type", rope.get("type", "default")) if isinstance(rope, dict) else rope
        if kind != "default" or any(isinstance(value, dict) for value in rope.values()):
            _refuse(where, key, 'rope_type "default" for all layers: no scaled or mixed rotary positions', rope)
        theta = rope.get("rope_theta", theta)
        if rope.get("partial_rotary_factor", 1.0) != 1.0:
            _refuse(where, f"{key}.partial_rotary_factor", "1.0", rope["partial_rotary_factor"])
    if (config.get("partial_rotary_factor") or 1.0) != 1.0:
        _refuse(where, "partial_rotary_factor", "1.0", config["partial_rotary_factor"])
    return 10000.0 if theta is None else theta


def _size(config: dict[str, Any], key: str, where: str, most: int = MAX_SIZE) -> int:
    value = config.get(key)
    if type(value) is not int or not 1 <= value <= most:
        _refuse(where, key, f"a whole number from 1 to {most:,}", value)
    return int(value)  # type: ignore[arg-type]
