"""From a Hugging Face model to a checkpoint that training continues from and probes score.

Read are folders with `config.json` and safetensors, and GGUF files, which `transformers` dequantises. The outcome
has the form of any checkpoint: fp32 tensors by the same names, `config.json`, `state.json` at step 0, and the
tokenizer. Nothing that a model brings along is run: no pickles, no remote code. Headers are compared with the
configuration before a tensor is read. The cost is one shard in memory; for GGUF the whole model in fp32.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from trainer import tensor_files
from trainer.export import TOKENIZER, Written, copy_tokenizer, open_model, write_json
from trainer.hf import MODEL_TYPES, write_config
from trainer.rundir import STATE, CheckpointError

GGUF_MAGIC = b"GGUF"


def import_model(source: Path, out: Path, force: bool = False) -> Written:
    """Write the model of `source` to the new folder `out`. CheckpointError names what cannot be expressed.

    `source`: a folder with config.json and safetensors, a GGUF file, or a folder with a single GGUF file.
    """
    gguf = _gguf_file(source)
    with dequantised(gguf) if gguf else contextlib.nullcontext(source) as folder:
        model = open_model(folder)
        description = model.description
        notes = []
        with tensor_files.published(out, force) as target:
            size = tensor_files.copy(model.entries, target, torch.float32)
            if (folder / TOKENIZER).exists():
                copy_tokenizer(folder, target, description)
            else:
                notes.append(f"{source}: has no {TOKENIZER}, which probes need: put one into {out}")
            config = write_config(description)
            write_json(target / "config.json", config)
            imported = {"from": source.name, "format": "gguf" if gguf else "safetensors"}
            state = {"step": 0, "samples": 0, "imported": imported}
            (target / STATE).write_text(json.dumps(state, indent=1, sort_keys=True) + "\n")
    shape = description.shape
    return Written(out, config["architectures"][0], shape, shape.parameters(description.vocab_size), size, tuple(notes))


def _gguf_file(source: Path) -> Path | None:
    if source.is_file():
        with source.open("rb") as file:
            magic = file.read(4)
        if magic != GGUF_MAGIC:
            raise CheckpointError(
                f"{source}: expected a folder with config.json and safetensors, or a GGUF file, found a file that "
                f"begins with {magic!r}"
            )
        return source
    if not source.is_dir():
        raise CheckpointError(f"{source}: no such file or folder")
    if (source / "config.json").exists():
        return None
    found = sorted(source.glob("*.gguf"))
    if len(found) > 1:
        raise CheckpointError(f"{source}: expected one GGUF file, found {len(found)}: name one of them")
    if not found:
        raise CheckpointError(f"{source}: expected config.json with safetensors, or a GGUF file, found neither")
    return found[0]


@contextlib.contextmanager
def dequantised(file: Path) -> Iterator[Path]:
    """A temporary Hugging Face folder with the fp32 weights, configuration and tokenizer of a GGUF file."""
    try:
        import gguf  # noqa: F401
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    except ImportError as error:
        raise CheckpointError(
            f"{file}: reading GGUF needs the package {error.name}: pip install transformers accelerate gguf"
        ) from None
    where: dict[str, Any] = {"gguf_file": file.name, "local_files_only": True, "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(file.parent, **where)
        if config.model_type not in MODEL_TYPES:
            known = ", ".join(MODEL_TYPES)
            raise CheckpointError(f"{file}: general.architecture: expected one of {known}, found {config.model_type}")
        model = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **where)
        tokenizer = AutoTokenizer.from_pretrained(file.parent, **where)
    except CheckpointError:
        raise
    except Exception as error:  # readers of GGUF raise whatever a broken file makes them raise
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"{file}: transformers cannot read it as GGUF: {type(error).__name__}: {reason}"
        ) from None
    described = model.config.to_dict() | {"architectures": [MODEL_TYPES[config.model_type]]}
    described.pop("quantization_config", None)  # the weights are fp32 by now
    with tempfile.TemporaryDirectory(prefix="tamis-gguf-") as scratch:
        folder = Path(scratch)
        tensors = dict(model.state_dict())
        if described.get("tie_word_embeddings"):
            tensors.pop("lm_head.weight", None)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / tensor_files.WEIGHTS)
        write_json(folder / "config.json", described)
        tokenizer.backend_tokenizer.save(str(folder / TOKENIZER))
        if tokenizer.chat_template:
            (folder / "chat_template.jinja").write_text(tokenizer.chat_template, encoding="utf-8")
        yield folder
