"""Probing a finished model: a checkpoint, an import, or a Hugging Face folder, scored in this process.

The weights are read one tensor at a time into the trainer's own model, in fp32, and scored by the code that scores
while a model trains. What is written has the form of a run directory (`probes.jsonl`, `probe-items/`), so that two
models compare like two runs. Cost: the weights in fp32, and one forward pass over the items.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainer import tensor_files
from trainer.export import TOKENIZER, Model, find_checkpoint, open_model, run_of
from trainer.model import Llama, canonical_name
from trainer.probes import BATCH_TOKENS, GPU_BATCH_TOKENS, ProbeError, Probes, Scorer
from trainer.rundir import STATE, publish_text


def load_model(found: Model, device: torch.device) -> Llama:
    """The weights of a model on disk in the trainer's own model, fp32, for inference."""
    shape = found.description.shape
    with torch.device("meta"):
        model = Llama(shape, found.description.vocab_size)
    model.to_empty(device=device)
    if shape.tied:
        model[-1].lm_head.weight = model[0].embed_tokens.weight  # type: ignore[union-attr]
    with torch.no_grad():
        for listed, parameter in model.named_parameters():
            name = canonical_name(listed, shape.num_layers)
            parameter.copy_(tensor_files.read(found.entries[name], name))
    return model.eval()


def scorer_of(model: Llama, device: torch.device, told: Callable[[int], None] = lambda _: None) -> Scorer:
    """A model as a Scorer; `told` hears the number of tokens of each batch that is done."""

    @torch.no_grad()
    def scorer(ids: np.ndarray, targets: np.ndarray) -> np.ndarray:
        nll = model(torch.from_numpy(ids).to(device), torch.from_numpy(targets).to(device), per_target=True)
        told(ids.size)
        return -nll.double().sum(1).cpu().numpy()

    return scorer


def probe(checkpoint: Path, items: Path, limit: int = 0, out: Path | None = None, tokenizer: Path | None = None,
          told: Callable[[int], None] = lambda _: None) -> list[dict[str, Any]]:  # fmt: skip
    """Score a model on `items/*.jsonl` and return the rows of `probes.jsonl`; write them to `out` where one is given.

    `checkpoint`: a checkpoint or Hugging Face folder, or a run directory for its latest. `limit` items of each task,
    0 for all. `tokenizer`: its folder, unless it lies with the model or in its run. Raises CheckpointError, ProbeError.
    """
    folder = find_checkpoint(checkpoint)
    found = open_model(folder)
    description = found.description
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batch_tokens = GPU_BATCH_TOKENS if device.type == "cuda" else BATCH_TOKENS
    file = _tokenizer(folder, tokenizer)
    first = _first_token(description.special)
    probes = Probes(items, file, limit, description.seq_len, first, batch_tokens)
    if not probes.tasks:
        raise ProbeError(f"{items}: expected probe items in *.jsonl, found none")
    largest = max(max(request.ids) for task in probes.tasks.values() for request in task.requests)
    if largest >= description.vocab_size:
        raise ProbeError(
            f"{file}: gives the id {largest:,}, but the model has {description.vocab_size:,} rows: it is the tokenizer "
            "of another model"
        )
    rows = probes.evaluate(scorer_of(load_model(found, device), device, told), lambda values: values, 0, 1)
    step = _step(folder)
    rows = [{"step": step, **row} for row in rows]
    if out:
        out.mkdir(parents=True, exist_ok=True)
        probes.save_items(out, step)
        publish_text(out / "probes.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return rows


def _tokenizer(folder: Path, given: Path | None) -> Path:
    run = run_of(folder)
    places = [given] if given else [folder, *([run / "tokenizer"] if run else [])]
    for place in places:
        if (place / TOKENIZER).exists():
            return place / TOKENIZER
    looked = ", ".join(str(place / TOKENIZER) for place in places)
    raise ProbeError(f"{folder}: no tokenizer, looked for {looked}: name its folder with --tokenizer")


def _first_token(special: dict[str, int | list[int] | None]) -> int:
    """What stands for an empty context: the token that begins a document, else the one that ends it."""
    for key in ("bos_token_id", "eos_token_id"):
        value = special.get(key)
        value = value[0] if isinstance(value, list) and value else value
        if isinstance(value, int):
            return value
    return 0


def _step(folder: Path) -> int:
    """The optimizer step of a checkpoint; 0 for a model that came from elsewhere."""
    path = folder / STATE
    return int(tensor_files.read_json(path).get("step", 0)) if path.exists() else 0
