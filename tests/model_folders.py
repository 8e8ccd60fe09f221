"""Models on disk for tests: a checkpoint with random weights, a small tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from trainer.hf import hf_config, read_config
from trainer.model import Llama
from trainer.shape import ModelConfig

VOCAB, LENGTH, EOS = 320, 64, 0
PLAIN = {"hidden_size": 48, "num_layers": 2, "num_heads": 6, "num_kv_heads": 6, "intermediate_size": 80}


def shape(**changes) -> ModelConfig:
    return ModelConfig.model_validate(PLAIN | changes)


def model_of(config: ModelConfig, vocab: int = VOCAB) -> Llama:
    """Random weights, the vectors too: a norm of ones and a bias of zeros would hide that they are not loaded."""
    model = Llama(config, vocab, 3)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.eval()


def tensors_of(model: Llama) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.canonical_parameters().items()}


def write_tokenizer(folder: Path) -> None:
    """Byte-level BPE with one special token at EOS and fewer ids than VOCAB."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the cat sat on the mat and then the dog ran"] * 5, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))


def write_checkpoint(folder: Path, model: Llama, step: int = 6) -> Path:
    """A portable checkpoint of the model, with no tokenizer."""
    folder.mkdir(parents=True)
    save_file(tensors_of(model), folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(hf_config(model.shape, VOCAB, LENGTH, EOS)))
    config = {"global_batch": 8, "seq_len": 32}
    (folder / "state.json").write_text(json.dumps({"step": step, "samples": 8 * step, "config": config}))
    return folder


def ours(folder: Path) -> Llama:
    """The trainer's model with the weights of an imported folder."""
    path = folder / "config.json"
    described = read_config(json.loads(path.read_text()), str(path))
    model = Llama(described.shape, described.vocab_size, 0)
    weights = load_file(folder / "model.safetensors")
    parameters = model.canonical_parameters()
    assert parameters.keys() == weights.keys()
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
    return model.eval()


def logits(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        found = model(ids)
    return found if isinstance(found, torch.Tensor) else found.logits
